-- expect: error ; items without a name
function route_request(request, workers)
  return workers.pick_by_hash({ {}, {} }, "k")
end
