-- expect: timeout|error ; a list that claims 2^50 workers
function route_request(request, workers)
  local t = {}
  for i = 1, 9 do t[i] = workers[1] end
  t[16], t[17] = workers[1], workers[1]
  for i = 5, 50 do t[1 << i] = workers[1] end   -- #t is 2^50 now, of 57 entries
  return strategy("least-request")(request, t)
end
