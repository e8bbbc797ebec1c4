-- expect: any ; values as large as they may be, more than fit
function route_request(request, workers)
  for i = 1, 400 do state:set("v" .. i, ("x"):rep(4096)) end
  return workers[1]
end
