-- expect: error ; the least above the most
function route_request(request, workers)
  param("x", 1, 2, 0)
  return workers[1]
end
