-- expect: bad-return|error ; a list of lists
function route_request(request, workers)
  return { { workers[1] }, { workers[2] } }
end
