-- All requests with the same beginning go to the same worker, which has it in its cache. However many they are.
function route_request(request, workers)
  return workers:pick_by_hash(request.metadata.tier or "")
end
