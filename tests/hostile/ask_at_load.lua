-- expect: load-error ; there is no request to decide yet
strategy("least-request")({}, { 1 })
function route_request(request, workers)
  return workers[1]
end
