-- expect: any ; bounds without end
function route_request(request, workers)
  param("x", 1, -math.huge, math.huge)
  return workers[1]
end
