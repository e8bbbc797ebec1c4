-- expect: pick:w1 ; route_request replaces itself
function route_request(request, workers)
  route_request = function() while true do end end
  return workers[1]
end
