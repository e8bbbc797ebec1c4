-- expect: timeout|memory ; megabytes copied by each instruction
function route_request(request, workers)
  local s = ("x"):rep(65536)
  for i = 1, 5 do s = s .. s end
  while true do local t = s .. "y" end
end
