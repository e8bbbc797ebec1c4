-- expect: pick:w1 ; keys that are alike once they are made readable
function route_request(request, workers)
  for i = 128, 255 do state:set(string.char(i), string.char(i)) end
  state:set("", "")
  return workers[1]
end
