-- expect: pick:w1 ; a flood while it is loaded
for i = 1, 10000 do log(i) end
function route_request(request, workers)
  return workers[1]
end
