-- expect: memory|timeout ; words without end
function route_request(request, workers)
  local s = ("a "):rep(30000)
  local kept = {}
  while true do kept[#kept + 1] = s:split() end
end
