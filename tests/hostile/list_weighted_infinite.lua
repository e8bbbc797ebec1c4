-- expect: error ; a weight without end
function route_request(request, workers)
  return workers:weighted(function(w) return math.huge end)
end
