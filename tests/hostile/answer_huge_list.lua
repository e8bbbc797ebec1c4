-- expect: any ; a list of 100000 workers
function route_request(request, workers)
  local t = {}
  for i = 1, 100000 do t[i] = workers[i % 8 + 1] end
  return t
end
