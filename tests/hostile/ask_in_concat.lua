-- expect: error ; table.concat sorts a lazy list, whose comparator asks
function route_request(request, workers)
  local sorted = workers:sort_by(function(a, b) return strategy("round-robin")(request, { a, b }) == a end)
  return table.concat(sorted)
end
