-- expect: timeout ; more keys than it may keep
function route_request(request, workers)
  for i = 1, 1000000 do state:set("k" .. i, i) end
  return workers[1]
end
