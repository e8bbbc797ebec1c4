-- expect: queue|bad-return|error ; what queue() gave is changed behind its back
function route_request(request, workers)
  local answer = queue(workers[1])
  answer.timeout_s, answer.priority, answer.worker = 0 / 0, 1e300, {}
  return answer
end
