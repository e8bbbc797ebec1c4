-- expect: timeout ; over and over
function route_request(request, workers)
  local s = "x" .. (" "):rep(65000)
  while true do s:trim() end
end
