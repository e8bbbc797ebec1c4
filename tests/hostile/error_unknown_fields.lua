-- expect: error ; a name of forty letters, near to everything
function route_request(request, workers)
  local name = ("laod_ytatus_vran_metadatta"):rep(2):sub(1, 40)
  for i = 1, 100000 do local x = workers[i % 8 + 1][name] end
end
