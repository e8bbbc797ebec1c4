-- expect: any ; a strategy's function kept from request to request
kept = false
function route_request(request, workers)
  kept = kept or strategy("round-robin")
  return kept(request, workers)
end
