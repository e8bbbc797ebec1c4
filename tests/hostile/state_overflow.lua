-- expect: pick:w1 ; the largest integer and one more
function route_request(request, workers)
  state:set("n", math.maxinteger)
  state:incr("n")
  state:incr("n", math.mininteger)
  return workers[1]
end
