-- expect: any ; a name of odd bytes, and a long one
function route_request(request, workers)
  param("\255\0", 1, 0, 2)
  param(("x"):rep(60000), 1, 0, 2)
  return workers[1]
end
