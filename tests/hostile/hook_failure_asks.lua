-- expect: pick:w1 ; on_failure asks without end
-- on_failure: timeout
function route_request(request, workers)
  return workers[1]
end

function on_failure(request, attempt, workers)
  while true do strategy('round-robin')(request, workers) end
end
