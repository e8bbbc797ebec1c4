-- expect: pick:w1|error ; groups by NaN, by tables, by functions
function route_request(request, workers)
  workers:group_by(function() return 0 / 0 end)
  workers:group_by(function() return {} end)
  local groups = workers:group_by(function() return print end)
  return groups[print][1]
end
