-- expect: any ; the answer is a list that asks while it is read
function route_request(request, workers)
  return workers:sort_by(function(a, b) return strategy("round-robin")(request, { a, b }) == a end)
end
