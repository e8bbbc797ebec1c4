-- When things go wrong: refuse, wait, try again, or leave it to the strategy.

local MOST_TOKENS = 32000
local MOST_FAILURES = 2                          -- of one request; [limits] attempts is a limit of its own

function route_request(request, workers)
  -- The request itself is at fault: the client gets this answer, and no worker is asked.
  if request.max_tokens and request.max_tokens > MOST_TOKENS then
    return reject{ status = 400, message = "max_tokens may be at most " .. MOST_TOKENS }
  end

  -- Nobody is there. After an error the strategy has the last word, here a 503; the text goes to routing.log.
  local running = workers:filter(function(worker) return worker.status ~= "offline" end)
  if running:is_empty() then
    error("No workers available")
  end

  -- Nobody lists the model. With nil the strategy decides: a worker that lists nothing may have it, else 404.
  local serving = running:filter(function(worker) return worker.models:contains(request.model) end)
  if serving:is_empty() then
    return nil
  end

  -- Everybody is busy: wait up to ten seconds for the first that has room.
  local ready = serving:filter(function(worker) return worker.status == "ready" end)
  if ready:is_empty() then
    return queue(nil, { timeout_s = 10 })
  end

  -- Prefer those that failed least in the last minute (on_failure counts).
  return ready:min_by(function(worker) return state:get("failed " .. worker.id, 0) + worker.load end)
end

-- A worker failed before the client got anything. The answer is the next worker, or a refusal.
function on_failure(request, attempt, workers)
  state:incr("failed " .. attempt.worker_id, 1, 60)
  if attempt.number >= MOST_FAILURES then
    return reject{ status = 503, message = "The model is not well, please try again later", retry_after = 30 }
  end
  local others = workers:filter(function(worker)
    return worker.status == "ready" and worker.models:contains(request.model)
      and not attempt.tried:contains(worker.id)
  end)
  return others:min_by("load")                   -- nil: the strategy decides
end

-- The request has ended, well or badly. Nobody waits for this, and its answer is not read.
function on_complete(request, outcome)
  if not outcome.ok then
    log(request.model, "ended with", outcome.error or outcome.status, "after", outcome.attempts, "attempts")
  end
end
