-- expect: error ; not a number of seconds
function route_request(request, workers)
  state:set("a", 1, 0 / 0)
  return workers[1]
end
