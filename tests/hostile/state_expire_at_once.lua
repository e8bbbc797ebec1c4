-- expect: pick:w1 ; entries that are gone before they are there
function route_request(request, workers)
  for i = 1, 200 do state:set("k" .. i, i, 1e-300) end
  return state:get("k1") == nil and workers[1] or workers[3]
end
