-- expect: pick:w1 ; on_complete has no end
-- on_complete: timeout
function route_request(request, workers)
  return workers[1]
end

function on_complete(request, outcome)
  while true do end
end
