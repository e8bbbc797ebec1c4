-- expect: pick:w1 ; on_failure changes what was tried
-- on_failure: pick:w1
function route_request(request, workers)
  return workers[1]
end

function on_failure(request, attempt, workers)
  attempt.tried[1], attempt.worker_id, attempt.number = nil, {}, 'x'
  return workers[1]
end
