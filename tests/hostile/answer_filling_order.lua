-- expect: memory|timeout ; the order fills memory when the answer is read
function route_request(request, workers)
  local kept = {}
  return workers:sort_by(function() while true do kept[#kept + 1] = { kept } end end)
end
