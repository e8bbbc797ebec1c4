function route_request(request, workers)
  return workers
    :filter(function(w) return w.status == "ready" and w.models:contains(request.model) end)
    :sort_by(function(a, b) return a.load < b.load end)[1]
end
