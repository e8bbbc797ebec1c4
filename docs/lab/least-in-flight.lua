-- Least connections, as many balancers have it: who has the fewest requests gets the next one.
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  return ready:min_by(function(w) return w.in_flight end)
end
