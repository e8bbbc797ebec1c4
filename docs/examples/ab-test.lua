-- A/B test: one request in ten for MODEL is answered by VARIANT, the others by MODEL itself.
--
-- Requests that name their user ("user" in the body) are split by user: each user gets the same model every time.
-- The others are split by chance. Both models must be listed by some worker.

local MODEL, VARIANT = "llama-3-8b", "llama-3.1-8b"
local PERCENT = 10

-- The least loaded worker that could serve the model now, or nil.
local function best_for(model, workers)
  local ready = workers:filter(function(worker)
    return worker.status == "ready" and worker.models:contains(model)
  end)
  return ready:min_by("load")
end

function route_request(request, workers)
  local lot = rand() * 100                                        -- 0 up to 100
  if request.user_id then
    lot = hash_str(VARIANT .. request.user_id) % 100              -- always the same for the same user
  end

  if request.model == MODEL and lot < PERCENT then
    local worker = best_for(VARIANT, workers)
    if worker then
      return { worker = worker, model = VARIANT, reason = "variant" }
    end
  end
  return best_for(request.model, workers)                         -- nil: the strategy decides
end
