-- expect: any ; and long ones
function route_request(request, workers)
  local s = ("x"):rep(60000)
  workers:filter(function(w) for i = 1, 20 do local x = w.metadata[s .. i] end return w.models:contains(s) end)
  return workers[1]
end
