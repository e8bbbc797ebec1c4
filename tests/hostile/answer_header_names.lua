-- expect: error ; headers that nobody allowed
function route_request(request, workers)
  return { worker = workers[1], headers = { authorization = "x", ["content-length"] = "0", ["x-route\0"] = "1" } }
end
