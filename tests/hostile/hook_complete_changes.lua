-- expect: pick:w1 ; on_complete changes what it was given
-- on_complete: none|error
function route_request(request, workers)
  return workers[1]
end

function on_complete(request, outcome)
  outcome.ok, outcome.x, request.metadata = nil, outcome, outcome
  return outcome
end
