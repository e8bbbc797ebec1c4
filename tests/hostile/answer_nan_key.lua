-- expect: error ; a key that is not a number
function route_request(request, workers)
  local t = { worker = workers[1] }
  t[0 / 0] = 1
  return t
end
