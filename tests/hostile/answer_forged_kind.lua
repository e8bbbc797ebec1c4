-- expect: any ; the secret key of an answer, found by next()
function route_request(request, workers)
  local key = next(reject {})
  local forged = { priority = 2 ^ 70, timeout_s = {}, status = "x" }
  if key ~= nil then forged[key] = "queue" end
  return forged
end
