-- expect: pick:w1|error ; methods called on what is no list
function route_request(request, workers)
  workers.filter(request, function() end)
  workers.sort_by(state, print)
  return workers[1]
end
