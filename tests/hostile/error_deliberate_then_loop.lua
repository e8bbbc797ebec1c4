-- expect: timeout|error ; it says that it means to fail, and then does not end
function route_request(request, workers)
  local _ = workers:sort_by(function() error("x") end)
  while true do end
end
