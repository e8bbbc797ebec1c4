-- expect: reject|bad-return|error ; what reject{} gave is changed behind its back
function route_request(request, workers)
  local answer = reject { status = 403 }
  answer.status, answer.message, answer.retry_after = "x", {}, -5
  return answer
end
