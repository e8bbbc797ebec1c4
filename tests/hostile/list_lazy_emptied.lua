-- expect: any ; the insides of a sorted list, taken out
function route_request(request, workers)
  local sorted = workers:sort_by("load")
  for key in next, sorted do sorted[key] = nil end
  return sorted[1]
end
