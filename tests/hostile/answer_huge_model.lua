-- expect: error ; a name of 60 KB
function route_request(request, workers)
  return { worker = workers[1], model = ("m"):rep(60000) }
end
