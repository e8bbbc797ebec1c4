-- expect: any ; an entry that never expires, and one that expires at NaN
function route_request(request, workers)
  state:set("a", 1, math.huge)
  state:set("b", 1, 1e308)
  state:incr("a", math.huge)
  state:incr("c", 0 / 0)
  return workers[1]
end
