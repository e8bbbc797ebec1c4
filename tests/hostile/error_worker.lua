-- expect: error ; a worker as an error
function route_request(request, workers)
  error(workers[1])
end
