-- expect: timeout|memory|error ; megabytes copied by each call
function route_request(request, workers)
  local s = ("1"):rep(65536)
  for i = 1, 5 do s = s .. s end
  while true do local n = s:sub(2):starts_with(s) end
end
