-- expect: pick:w1 ; on_complete keeps every request
-- on_complete: any
function route_request(request, workers)
  return workers[1]
end

kept = {}
function on_complete(request, outcome)
  for i = 1, 20000 do kept[#kept + 1] = { request, outcome } end
end
