-- expect: pick:w1 ; control characters, halves of characters, NUL
function route_request(request, workers)
  log("\0\1\27[31m\127\128\255\xed\xa0\x80", { ["\255"] = "\254" }, 0 / 0, -1 / 0, nil)
  return workers[1]
end
