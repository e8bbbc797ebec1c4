-- expect: error ; no number
function route_request(request, workers)
  return workers:sample(0 / 0)
end
