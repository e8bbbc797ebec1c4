-- expect: any ; megabytes in a line
function route_request(request, workers)
  local s = ("x"):rep(60000)
  for i = 1, 5 do s = s .. s end
  log(s, s, s)
  return workers[1]
end
