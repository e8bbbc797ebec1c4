-- expect: error ; a question across a C function
function route_request(request, workers)
  ("abc"):gsub(".", function() return strategy("least-request")(request, workers).id end)
end
