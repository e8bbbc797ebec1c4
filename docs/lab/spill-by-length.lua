-- As spill.lua, but only short prompts go to the cloud early, where they cost little.
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  local short = (request.prompt_tokens or 0) < param("short", 400, 0, 4000)
  local full = short and 0.3 or 0.9
  local home = ready:filter(function(w) return w.deployment == "local" and w.load < full end)
  if home:is_empty() then return ready:min_by(function(w) return w.deployment == "remote" and 0 or 1 end) end
  return home:min_by(function(w) return w.load end)
end
