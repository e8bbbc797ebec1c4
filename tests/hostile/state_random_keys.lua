-- expect: any ; a key for every request
function route_request(request, workers)
  for i = 1, 300 do state:incr("u" .. math.random(1, 1 << 40), 1, 1e9) end
  return workers[1]
end
