-- Counts of its own: one more with each request that is sent, one less with each that succeeds. Those that fail, and
-- those whose client leaves, are forgotten.
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  local worker = ready:min_by(function(w) return state:get("requests on " .. w.id, 0) end)
  if worker then state:incr("requests on " .. worker.id) end
  return worker
end

function on_complete(request, outcome)
  if outcome.ok then state:incr("requests on " .. outcome.worker_id, -1) end
end
