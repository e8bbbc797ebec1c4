-- expect: error ; the order fails when the answer is read
function route_request(request, workers)
  return { worker = workers:sort_by(function() error({}) end) }
end
