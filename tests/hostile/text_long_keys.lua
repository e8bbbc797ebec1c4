-- expect: timeout|memory ; megabytes hashed by each instruction
function route_request(request, workers)
  local s, t = ("x"):rep(65536), {}
  for i = 1, 5 do s = s .. s end
  while true do local v = t[s .. "y"] end
end
