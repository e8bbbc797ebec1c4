-- expect: any ; each filter reads a thousand names
function route_request(request, workers)
  workers:filter(function(w) for i = 1, 1000 do local x = w.metadata["k" .. i] end return false end)
  return workers[1]
end
