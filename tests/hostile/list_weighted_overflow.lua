-- expect: any ; weights whose sum is too large
function route_request(request, workers)
  return workers:weighted(function(w) return 1e300 end)
end
