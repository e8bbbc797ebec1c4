-- expect: timeout|memory|error ; megabytes read as a number by each instruction
function route_request(request, workers)
  local s = ("1"):rep(65536)
  for i = 1, 5 do s = s .. s end
  while true do local n = tonumber(s, 36) end
end
