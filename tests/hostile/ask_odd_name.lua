-- expect: error ; a name with a comma, a space and a NUL
function route_request(request, workers)
  return strategy("least-request,round-robin 1,2\0")(request, workers)
end
