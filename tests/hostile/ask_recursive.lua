-- expect: timeout|error|memory ; a question inside of a question inside of ...
function route_request(request, workers)
  local function ask(list)
    return ask(list:filter(function(w) return w == strategy("round-robin")(request, list) or true end))
  end
  return ask(workers)
end
