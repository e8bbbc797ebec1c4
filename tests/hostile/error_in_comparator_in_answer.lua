-- expect: error ; an error of an error's making
function route_request(request, workers)
  return { worker = workers:sort_by(function(a, b) return a.nothing < b.nothing end) }
end
