-- expect: bad-return|none ; tables that are no answers
function route_request(request, workers)
  return { worker = request.metadata }
end
