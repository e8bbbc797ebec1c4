-- expect: pick:w1 ; on_failure fills memory
-- on_failure: memory|timeout
function route_request(request, workers)
  return workers[1]
end

kept = {}
function on_failure(request, attempt, workers)
  while true do kept[#kept + 1] = { attempt, ('x'):rep(60000) .. #kept } end
end
