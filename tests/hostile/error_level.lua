-- expect: error ; a level from nowhere
function route_request(request, workers)
  error("x", math.maxinteger)
end
