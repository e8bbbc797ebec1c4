-- expect: load-error ; a hook that is no function
on_failure = {}
function route_request(request, workers)
  return workers[1]
end
