-- Tiers: premium requests get the fast GPUs, free ones the slow workers, all others what lies between.
--
-- A client tells its tier in the body,  "metadata": {"tier": "premium"},  or in a header,  x-rbee-meta-tier: premium

local function is_fast(worker)
  return worker.backend == "cuda" and (worker.performance or 0) > 100
end

local function is_slow(worker)
  return worker.backend == "cpu" or (worker.performance or 50) < 50
end

local function suits(tier, worker)
  if tier == "premium" then
    return is_fast(worker)
  elseif tier == "free" then
    return is_slow(worker)
  end
  return not is_fast(worker) and not is_slow(worker)
end

function route_request(request, workers)
  local tier = request.metadata:get("tier", "standard")
  local mine = workers:filter(function(worker)
    return worker.models:contains(request.model) and suits(tier, worker)
  end)

  local ready = mine:filter(function(worker) return worker.status == "ready" end)
  if not ready:is_empty() then
    return ready:min_by("load")
  end

  -- They are busy: wait for the least loaded of them, so that free requests never take a fast GPU.
  local busy = mine:filter(function(worker) return worker.status == "busy" end)
  if not busy:is_empty() then
    return queue(busy:min_by("load"), { timeout_s = 30 })
  end
  return nil                                     -- the tier has no worker that runs: the strategy decides
end
