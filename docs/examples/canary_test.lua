-- Tests of canary.lua. Run them with:  rbeerouter routing test --script docs/examples/canary.lua

fleet{
  worker{ id = "stable1", models = { "m" }, in_flight = 1 },
  worker{ id = "stable2", models = { "m" } },
  worker{ id = "canary", models = { "m" }, metadata = { canary = true } },
}

local function ask()
  return route{ model = "m" }
end

test("a quarter of the requests go to the canary", function()
  seed(42)
  expect(share(2000, ask).canary):to_be_close(0.25, 0.04)
end)

test("the share can be changed while the daemon runs", function()
  seed(42)
  param_set("canary_percent", 50)
  expect(share(2000, ask).canary):to_be_close(0.50, 0.05)
end)

test("at 0 nobody goes to the canary", function()
  param_set("canary_percent", 0)
  expect(share(200, ask).canary or 0):to_be(0)
end)

test("at 100 everybody goes to the canary", function()
  param_set("canary_percent", 100)
  expect(share(200, ask).canary):to_be(1)
end)

test("the others go to the least loaded stable worker", function()
  param_set("canary_percent", 0)
  expect(ask()):to_be("stable2")
end)

test("without the canary all requests go to the stable workers", function()
  fleet{
    worker{ id = "stable", models = { "m" } },
    worker{ id = "canary", models = { "m" }, metadata = { canary = true }, status = "offline" },
  }
  expect(share(200, ask).stable):to_be(1)
end)

test("the canary alone is better than nobody", function()
  param_set("canary_percent", 0)
  fleet{
    worker{ id = "stable", models = { "m" }, status = "offline" },
    worker{ id = "canary", models = { "m" }, metadata = { canary = true } },
  }
  expect(ask()):to_be("canary")
end)

test("a canary that does not serve the model gets nothing", function()
  param_set("canary_percent", 100)
  fleet{
    worker{ id = "stable", models = { "m" } },
    worker{ id = "canary", models = { "other" }, metadata = { canary = true } },
  }
  expect(ask()):to_be("stable")
end)
