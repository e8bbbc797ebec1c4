-- Cost: short answers come from a CPU, middling ones from the cheapest GPU, long ones from the fastest GPU.
--
-- How long an answer may get is the request's max_tokens. A request without it may get long.

local function is_gpu(worker)
  return worker.backend ~= nil and worker.backend ~= "cpu"
end

function route_request(request, workers)
  local ready = workers:filter(function(worker)
    return worker.status == "ready" and worker.models:contains(request.model)
  end)
  local cpus = ready:filter(function(worker) return worker.backend == "cpu" end)
  local gpus = ready:filter(is_gpu)
  local tokens = request.max_tokens or math.huge

  local choice
  if tokens < 100 then
    choice = cpus:min_by("load")
  elseif tokens < 500 then
    choice = gpus:min_by(function(worker) return worker.cost_per_hour or math.huge end)
  else
    choice = gpus:max_by(function(worker) return worker.performance or 0 end)
  end
  return choice or ready:min_by("load")          -- nobody of that kind: any; nil when nobody at all is ready
end
