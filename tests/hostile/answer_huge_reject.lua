-- expect: reject ; a message of 60 KB with odd bytes
function route_request(request, workers)
  return reject { status = 599, message = ("\255\r\n\0"):rep(15000), retry_after = 60 }
end
