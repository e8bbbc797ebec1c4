-- expect: any ; a name for every request and more
function route_request(request, workers)
  for i = 1, 3000 do param("p" .. math.random(1, 1 << 40), 1, 0, 2) end
  return workers[1]
end
