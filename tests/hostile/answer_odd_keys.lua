-- expect: bad-return|error ; keys of every kind
function route_request(request, workers)
  return { worker = workers[1], [workers] = 1, [1.5] = 2, [true] = 3 }
end
