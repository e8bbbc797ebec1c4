-- expect: any ; a key of megabytes
function route_request(request, workers)
  local s = ("x"):rep(60000)
  for i = 1, 5 do s = s .. s end
  return workers:pick_by_hash(s)
end
