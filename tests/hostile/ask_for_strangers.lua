-- expect: error ; a list of look-alikes
function route_request(request, workers)
  return strategy("least-request")(request, { { id = "w1", status = "ready" } })
end
