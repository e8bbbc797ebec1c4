-- expect: timeout|memory|error ; and by each addition
function route_request(request, workers)
  local s = ("1"):rep(65536)
  for i = 1, 5 do s = s .. s end
  while true do local n = s + 1 end
end
