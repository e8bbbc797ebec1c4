-- Canary: a share of the requests goes to a new worker, to see how it does before it gets them all.
--
-- Mark the new worker in config.toml:  metadata = { canary = true }
-- The share is the parameter canary_percent, which can be changed while the daemon runs.

local function is_canary(worker)
  return worker.metadata.canary == true
end

function route_request(request, workers)
  local percent = param("canary_percent", 25, 0, 100)             -- 25 until somebody sets it; 0 to 100
  local ready = workers:filter(function(worker)
    return worker.status == "ready" and worker.models:contains(request.model)
  end)
  local canary = ready:filter(is_canary):min_by("load")
  local stable = ready:filter(function(worker) return not is_canary(worker) end):min_by("load")

  if canary and rand() * 100 < percent then
    return canary, "canary"
  end
  return stable or canary                                         -- nil: nobody is ready, the strategy decides
end
