-- Many kinds of models: pictures go to the workers named sd-worker-..., texts to those named llm-worker-...
--
-- The kind of a request is known by its path; a client may name another one with  "metadata": {"type": "image"}

local PREFIX = {
  image = "sd-worker-",
  llm = "llm-worker-",
}

function route_request(request, workers)
  local prefix = PREFIX[request.type]
  if not prefix then
    return nil                                   -- another kind, such as "embedding": the strategy decides
  end

  local ready = workers:filter(function(worker)
    return worker.status == "ready" and worker.id:starts_with(prefix) and worker.models:contains(request.model)
  end)
  return ready:min_by("load")                    -- nil when none is ready: the strategy decides
end
