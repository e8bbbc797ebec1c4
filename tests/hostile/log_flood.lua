-- expect: timeout ; a line per instruction
function route_request(request, workers)
  while true do log("x", request, workers) end
end
