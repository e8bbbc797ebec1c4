-- expect: any ; weights that are no numbers
function route_request(request, workers)
  return workers:weighted(function(w) return 0 / 0 end)
end
