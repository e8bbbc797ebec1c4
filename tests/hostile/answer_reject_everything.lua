-- expect: error ; a status that does not exist
function route_request(request, workers)
  return reject { status = 2 ^ 53, message = "x" }
end
