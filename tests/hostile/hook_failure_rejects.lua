-- expect: pick:w1 ; on_failure refuses with a changed answer
-- on_failure: reject|bad-return|error
function route_request(request, workers)
  return workers[1]
end

function on_failure(request, attempt, workers)
  local answer = reject { status = 502 }
  answer.status = 'gone'
  return answer
end
