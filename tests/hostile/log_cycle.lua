-- expect: pick:w1 ; a table that holds itself
function route_request(request, workers)
  local t = {}
  t.t, t[1], t[t] = t, t, t
  log(t, t, t)
  return workers[1]
end
