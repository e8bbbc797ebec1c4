-- At home as long as there is room, else in the cloud.
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  local full = param("full", 0.9, 0.1, 2.0)                -- of a worker's places, above which home is too full
  local home = ready:filter(function(w) return w.deployment == "local" and w.load < full end)
  if home:is_empty() then return ready:min_by(function(w) return w.deployment == "remote" and 0 or 1 end) end
  return home:min_by(function(w) return w.load end)
end
