-- expect: error|memory|timeout ; a million parts
function route_request(request, workers)
  local s = (","):rep(60000)
  for i = 1, 4 do s = s .. s end
  while true do s:split(",") end
end
