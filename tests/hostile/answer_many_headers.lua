-- expect: error|bad-return ; one header a hundred times
function route_request(request, workers)
  local h = {}
  for i = 0, 127 do h[("x-route"):gsub(".", function(c) i = i >> 1 return i % 2 == 1 and c:upper() or c end)] = "v" end
  for i = 1, 99 do h[i] = "x" end
  return { worker = workers[1], headers = h }
end
