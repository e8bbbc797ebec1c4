-- expect: error ; a wait of a year
function route_request(request, workers)
  return queue(nil, { timeout_s = 31536000 })
end
