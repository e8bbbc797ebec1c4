-- expect: error ; a level that is no number
function route_request(request, workers)
  error("x", {})
end
