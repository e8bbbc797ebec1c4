-- expect: timeout ; a list whose order has no end
function route_request(request, workers)
  log(workers:sort_by(function() while true do end end))
  return workers[1]
end
