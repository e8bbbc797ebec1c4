-- expect: error ; a key of 60 KB
function route_request(request, workers)
  state:set(("k"):rep(60000), 1)
  return workers[1]
end
