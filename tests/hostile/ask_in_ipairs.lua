-- expect: error|pick:w1 ; ipairs is a C function
function route_request(request, workers)
  for _, w in ipairs(workers:sort_by(function(a, b) return strategy("round-robin")(request, { a, b }) == a end)) do
    log(w)
  end
  return workers[1]
end
