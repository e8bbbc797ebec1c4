-- expect: reject|bad-return|error ; an error with the status of a success
function route_request(request, workers)
  local answer = reject {}
  answer.status = 200
  return answer
end
