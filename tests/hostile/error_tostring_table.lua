-- expect: error ; an error that wants to be asked for its text
function route_request(request, workers)
  error({ __tostring = function() while true do end end, __name = "x" })
end
