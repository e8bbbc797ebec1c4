-- expect: pick:w1 ; on_failure wants to wait
-- on_failure: any
function route_request(request, workers)
  return workers[1]
end

function on_failure(request, attempt, workers)
  return queue(workers[1], { timeout_s = 86400, priority = 1000 })
end
