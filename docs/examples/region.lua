-- Region: a request stays in its region, and goes to the next nearest one when nobody there is ready.
--
-- A client tells its region in the body,  "metadata": {"region": "eu"},  or in a header,  x-rbee-meta-region: eu
-- A worker's region stands in config.toml:  metadata = { region = "eu" }

local NEAREST = {
  eu = { "eu", "us", "asia" },
  us = { "us", "eu", "asia" },
  asia = { "asia", "us", "eu" },
}

function route_request(request, workers)
  local ready = workers:filter(function(worker)
    return worker.status == "ready" and worker.models:contains(request.model)
  end)

  local wanted = request.metadata.region
  for _, region in ipairs(NEAREST[wanted] or {}) do
    local there = ready:filter(function(worker) return worker.metadata.region == region end)
    if not there:is_empty() then
      return there:min_by("load"), region
    end
  end
  return ready:min_by("load")                    -- no region, or one nobody knows: any; nil when nobody is ready
end
