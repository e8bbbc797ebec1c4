-- expect: bad-return|error ; each field of a wrong kind
function route_request(request, workers)
  return { worker = workers[1], model = {}, headers = 5, reason = print }
end
