-- expect: timeout ; questions without end
function route_request(request, workers)
  while true do strategy("least-request")(request, workers) end
end
