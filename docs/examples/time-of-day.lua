-- Time of day: CPUs by night, GPUs in working hours, otherwise the least loaded worker.
--
-- The hours are those of  [routing] timezone  in config.toml, or of the machine's clock where it is not set.

local function is_cpu(worker)
  return worker.backend == "cpu"
end

local function is_gpu(worker)
  return worker.backend ~= nil and worker.backend ~= "cpu"
end

function route_request(request, workers)
  local ready = workers:filter(function(worker)
    return worker.status == "ready" and worker.models:contains(request.model)
  end)

  local hour = timestamp():hour()
  local wanted = ready
  if hour < 6 then                               -- 00:00 to 05:59
    wanted = ready:filter(is_cpu)
  elseif hour >= 9 and hour < 17 then            -- 09:00 to 16:59
    wanted = ready:filter(is_gpu)
  end
  return wanted:min_by("load") or ready:min_by("load")   -- none of that kind: any; nil when nobody is ready
end
