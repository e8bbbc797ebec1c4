-- expect: error|pick:w1 ; what pairs tells of it can be called, not changed
function route_request(request, workers)
  for name, f in pairs(state) do
    if name == "set" then f(state, "x", 1) f(workers, "y", 2) end
  end
  state.get = nil
  return workers[1]
end
