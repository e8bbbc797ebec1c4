-- routing.lua: who gets each request. Copy this file to ~/.config/rbee/routing.lua (or name it in [routing] script),
-- change it, and make the daemon take it:  rbeerouter reload   (or: kill -HUP PID). A broken file changes nothing.
-- Before that:      rbeerouter routing check --script routing.lua      finds mistakes
-- And afterwards:   rbeerouter explain --model llama-3-8b              tells why a request goes where it goes
--
-- The daemon calls route_request for every request before it forwards it. Return one of
--   a worker               the request goes there; "its-id" does the same
--   a list of workers      the first that is not offline; the others follow when it fails
--   nil                    the strategy of config.toml decides ([routing] strategy)
--   queue(nil, { timeout_s = 10 })                 it waits for a worker with room
--   reject{ status = 429, message = "too many" }   the client gets your words
--   error("why")           the strategy decides, and routing.log shows the text and this file's line
-- An answer that is wrong (a misspelt id, a worker that is offline) never fails the request: the strategy decides.
--
-- request.model          "llama-3-8b"         what the client asked for
-- request.model_size     8.0                  billions of parameters, nil when nobody knows
-- request.user_id        "anna" or nil        the body's "user";  request.session_id  the header x-session-id
-- request.priority       "high", 5 or nil     the body's "priority", else the x-rbee-priority header
-- request.max_tokens     500 or nil;          request.prompt_tokens  a rough estimate
-- request.stream         true or false
-- request.type           "llm", "image", "embedding" or "audio"
-- request.metadata       the body's "metadata" and x-rbee-meta-NAME headers: metadata:get("tier", "free")
--
-- worker.id              "gpu1"
-- worker.status          "ready", "busy" (as many requests as max_concurrency) or "offline"
-- worker.load            0.0 idle, 1.0 full: in_flight / capacity
-- worker.latency_ms      and ttft_ms: averages of late, nil at first
-- worker.models          a list: worker.models:contains(name), #worker.models, worker.models[1]
-- worker.backend         "cuda", "cpu", ...   and vram, performance, cost_per_hour, role, metadata, ...:
--                        as config.toml says; nil where it does not
--
-- Lists:  list:filter(f)  sort_by  min_by("load")  max_by("vram")  map  any  all  sample  weighted  pick_by_hash
--         first  last  len  is_empty  contains.  list[1] is the first, list[-1] the last; past the end is nil.
-- Also:   log(...)   rand()   timestamp():hour()   ("a-b"):split("-")   param("percent", 25, 0, 100)
--         state:incr("requests", 1, 60)   strategy("round-robin")(request, workers)
-- All of it, with examples: docs/routing-scripts.md. Whole policies to copy: docs/examples.
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
--   One request in ten to another model (the body's model is rewritten):
--     if rand() < 0.10 then
--       local new = workers:filter(function(w) return w.status == "ready" and w.models:contains("llama-3.1-8b") end)
--       if not new:is_empty() then return { worker = new[1], model = "llama-3.1-8b", reason = "trial" } end
--     end
--
--   The same session always on the same worker, as long as it is ready:
--     if request.session_id then return ready:pick_by_hash(request.session_id) end
--
--   Cheap cards at night:
--     if timestamp():hour() < 6 then return ready:min_by("cost_per_hour") end
--
--   At most 100 requests a minute for each user:
--     if request.user_id and state:incr("of " .. request.user_id, 1, 60) > 100 then
--       return reject{ status = 429, message = "100 requests a minute are enough", retry_after = 30 }
--     end
