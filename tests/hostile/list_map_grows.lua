-- expect: timeout|memory ; a map of a map of a map
function route_request(request, workers)
  local list = workers
  while true do list = list:map(function(w) return list end) end
end
