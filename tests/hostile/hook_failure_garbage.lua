-- expect: pick:w1 ; on_failure answers with everything
-- on_failure: bad-return|error
function route_request(request, workers)
  return workers[1]
end

function on_failure(request, attempt, workers)
  return { attempt, request, workers, [0.5] = attempt.tried }
end
