-- expect: error ; a table in the state
function route_request(request, workers)
  state:set("k", workers)
  return workers[1]
end
