-- expect: pick:w1|pick:w2|pick:w3|pick:w4|pick:w5|pick:w6|pick:w8|bad-return|error ; more than there are
function route_request(request, workers)
  return workers:sample(1 << 53):filter(function(w) return w.status ~= "offline" end)
end
