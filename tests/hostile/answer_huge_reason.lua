-- expect: pick:w1 ; a reason of 60 KB with odd bytes
function route_request(request, workers)
  return workers[1], ("\255\n"):rep(30000)
end
