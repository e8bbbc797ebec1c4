-- expect: any ; each comparison asks
function route_request(request, workers)
  return workers:sort_by(function(a, b) return strategy("round-robin")(request, { a, b }) == a end)[3]
end
