-- expect: any ; as many arguments as a call takes
function route_request(request, workers)
  log(table.unpack({}, 1, 250))
  log(select(2, ("x"):rep(250):byte(1, -1)))
  return workers[1]
end
