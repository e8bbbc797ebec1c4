-- expect: any ; nothing but space
function route_request(request, workers)
  for i = 1, 100 do local s = ("x" .. (" "):rep(65000)):trim() end
  return workers[1]
end
