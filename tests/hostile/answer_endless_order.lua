-- expect: timeout ; the order is asked for when the answer is read
function route_request(request, workers)
  return workers:sort_by(function() while true do end end)
end
