-- routing.lua: who gets each request. Copy this file to ~/.config/rbee/routing.lua (or name it in [routing] script),
-- change it, and make the daemon take it:  rbeerouter reload   (or: kill -HUP PID). A broken file changes nothing.
--
-- The daemon calls route_request for every request before it forwards it. Return one of
--   a worker          the request goes there
--   "its-id"          the same, by name
--   nil               the strategy of config.toml decides ([routing] strategy)
--   error("why")      the strategy decides, and routing.log shows the text and this file's line
-- An answer that is wrong (a misspelt id, a worker that is offline) never fails the request: the strategy decides.
--
-- request.model          "llama-3-8b"         what the client asked for
-- request.model_size     8.0                  billions of parameters as the name tells, else nil
-- request.user_id        "anna" or nil        the body's "user"
-- request.priority       "high", 5 or nil     the body's "priority", else the x-rbee-priority header
-- request.max_tokens     500 or nil
-- request.stream         true or false
-- request.metadata       the body's "metadata" and x-rbee-meta-NAME headers; .type is "llm", "image", "embedding"
--                        or "audio" unless the client says otherwise. Missing keys are nil;
--                        metadata:get("tier", "free") gives a default.
--
-- worker.id              "gpu1"
-- worker.status          "ready", "busy" (as many requests as max_concurrency) or "offline"
-- worker.load            0.0 idle, 1.0 full: in_flight / capacity
-- worker.in_flight       requests there now;  worker.capacity  its max_concurrency
-- worker.models          {"llama-3-8b", ...}: worker.models:contains(name), #worker.models, worker.models[1]
-- worker.backend         "cuda", "cpu", ...   and vram, vram_used, performance, cost_per_hour, engine, metadata:
--                        as config.toml says; nil where it does not
--
-- Lists (workers, and what these return):  list:filter(function(w) ... end)   list:sort_by(function(a, b) ... end)
--   list:sort_by("load")   list:min_by("load")   list:max_by("vram")   list:first()   list:last()   list:len()   #list
--   list:is_empty()   list:contains(x)   list[1] is the first, list[-1] the last; past the end is nil
-- Text:  s:starts_with("sd-")   s:ends_with("-8b")   s:contains("code")
-- Also:  rand() from 0 to 1   hash_str(s) the same whole number for the same text, everywhere
--        timestamp():hour()   :minute()   :weekday() (0 is Sunday)   :epoch()
--
-- Lua in one breath: `local x = 1`, `if a and not b then ... elseif ... else ... end`, "not equal" is ~=, text is joined
-- with .., comments start with --, and only nil and false are false.

-- A worker that could serve this request now.
local function can_serve(request)
  return function(worker)
    return worker.status == "ready" and worker.models:contains(request.model)
  end
end

function route_request(request, workers)
  local ready = workers:filter(can_serve(request))
  if ready:is_empty() then
    return nil                          -- nobody is free: the strategy finds the least full one, or answers 503
  end

  -- Premium requests go to the fastest card. A client says so with  "metadata": {"tier": "premium"}  in the body or
  -- with the header  x-rbee-meta-tier: premium
  if request.metadata:get("tier") == "premium" then
    return ready:max_by(function(worker) return worker.performance or 0 end)
  end

  -- Short answers do not need a GPU, if there is a CPU worker for the model.
  if request.max_tokens and request.max_tokens < 100 then
    local cpus = ready:filter(function(worker) return worker.backend == "cpu" end)
    if not cpus:is_empty() then
      return cpus:min_by("load")
    end
  end

  -- Everybody else: the least loaded.
  return ready:sort_by(function(a, b) return a.load < b.load end)[1]
end

-- More to try, each in place of the lines above:
--
--   One request in ten to another model (the body's model is rewritten for the worker that serves only that one):
--     if rand() < 0.10 then
--       local new = workers:filter(function(w) return w.status == "ready" and w.models:contains("llama-3.1-8b") end)
--       if not new:is_empty() then return new[1] end
--     end
--
--   The same user always on the same worker, as long as the list stays the same:
--     if request.user_id then return ready[hash_str(request.user_id) % #ready + 1] end
--
--   Cheap cards at night:
--     if timestamp():hour() < 6 then return ready:min_by("cost_per_hour") end
