-- expect: pick:w1|timeout ; more steps than anybody reads
function route_request(request, workers)
  for i = 1, 1000 do workers:filter(function(w) return w.load > 2 end) end
  return workers[1]
end
