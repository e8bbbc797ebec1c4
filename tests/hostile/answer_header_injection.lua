-- expect: error ; two headers in one
function route_request(request, workers)
  return { worker = workers[1], headers = { ["x-route"] = "a\r\nauthorization: b" } }
end
