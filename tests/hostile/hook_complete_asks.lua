-- expect: pick:w1 ; on_complete asks for a worker
-- on_complete: none|error
function route_request(request, workers)
  return workers[1]
end

function on_complete(request, outcome)
  local one = strategy('least-request')(request, {})
  if one then error('a worker') end
end
