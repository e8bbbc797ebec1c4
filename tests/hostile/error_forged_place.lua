-- expect: error ; an error that claims another file's line
function route_request(request, workers)
  error("/etc/passwd:1: routing.lua:99: x\n\27[2J", 0)
end
