-- expect: error ; bounds that are no numbers
function route_request(request, workers)
  param("x", 1, 0 / 0, 0 / 0)
  return workers[1]
end
