-- expect: pick:w1 ; on_complete logs without end
-- on_complete: timeout
function route_request(request, workers)
  return workers[1]
end

function on_complete(request, outcome)
  while true do log(request, outcome) end
end
