-- The same, but nobody gets more than 1.25 times an even share of what is under way: what is beyond goes to the next
-- worker of that beginning (consistent hashing with bounded loads, arxiv.org/abs/1608.01350).
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  local under_way = 1
  for _, w in ipairs(ready) do under_way = under_way + w.in_flight end
  local most = math.ceil(param("bound", 1.25, 1, 4) * under_way / math.max(ready:len(), 1))
  local below = ready:filter(function(w) return w.in_flight < most end)
  return below:pick_by_hash(request.metadata.tier or "")
end
