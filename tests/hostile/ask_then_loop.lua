-- expect: timeout ; the budget goes on behind a question
function route_request(request, workers)
  local one = strategy("least-request")(request, workers)
  while one do end
end
