-- expect: error ; a priority above all
function route_request(request, workers)
  return queue(nil, { priority = math.maxinteger })
end
