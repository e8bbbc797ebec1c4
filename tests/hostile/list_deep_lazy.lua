-- expect: error|timeout|memory ; lists whose orders sort lists whose orders ...
function route_request(request, workers)
  local function deeper(a, b) return workers:sort_by(deeper)[1] == a end
  return workers:sort_by(deeper)[1]
end
