-- expect: error ; one value too large
function route_request(request, workers)
  local s = ("x"):rep(60000)
  state:set("k", s .. s .. s .. s)
  return workers[1]
end
