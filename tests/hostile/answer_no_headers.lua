-- expect: pick:w1 ; a table of no headers
function route_request(request, workers)
  return { worker = workers[1], headers = {} }
end
