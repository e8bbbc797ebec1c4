-- expect: error ; less than none
function route_request(request, workers)
  return workers:sample(-1)
end
