-- expect: bad-return|error|none ; an answer that holds itself
function route_request(request, workers)
  local t = {}
  t.worker = t
  return t
end
