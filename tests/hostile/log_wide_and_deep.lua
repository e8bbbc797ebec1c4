-- expect: any ; a tree of 20 by 20 by 20 texts of 3 KB
function route_request(request, workers)
  local text, tree = ("x"):rep(3000), {}
  for i = 1, 20 do tree[i] = {} for j = 1, 20 do tree[i][j] = {} for k = 1, 20 do tree[i][j][k] = text end end end
  log(tree)
  return workers[1]
end
