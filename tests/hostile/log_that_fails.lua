-- expect: error ; a list whose order fails while it is shown
function route_request(request, workers)
  log(workers:sort_by("models"))
  return workers[1]
end
