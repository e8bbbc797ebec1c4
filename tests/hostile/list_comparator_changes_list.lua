-- expect: any ; a comparator that empties what it sorts
function route_request(request, workers)
  return workers:sort_by(function(a, b) for i = 1, 8 do workers[i] = nil end return a.load < b.load end)[1]
end
