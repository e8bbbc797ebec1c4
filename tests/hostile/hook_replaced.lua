-- expect: error ; a hook put in another's place while it runs
function route_request(request, workers)
  on_complete = function() while true do end end
  return workers[1]
end
