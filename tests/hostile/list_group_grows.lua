-- expect: timeout|memory ; a group that is walked while it grows
function route_request(request, workers)
  local groups = workers:group_by("status")
  for _, w in ipairs(groups.ready) do groups.ready[#groups.ready + 1] = w end
  return groups.ready[1]
end
