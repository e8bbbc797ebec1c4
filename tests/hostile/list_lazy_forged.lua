-- expect: timeout|error|none ; the insides of a sorted list, found by next()
function route_request(request, workers)
  local sorted = workers:sort_by("load")
  local key, value = next(sorted)
  while key do
    if math.type(value) then sorted[key] = 1 << 53 end
    key, value = next(sorted, key)
  end
  return sorted[2]
end
