-- expect: memory|timeout ; and so does the limit on memory
function route_request(request, workers)
  local one, kept = strategy("least-request")(request, workers), {}
  while one do kept[#kept + 1] = { ("x"):rep(60000) } end
end
