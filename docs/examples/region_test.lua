-- Tests of region.lua. Run them with:  rbeerouter routing test --script docs/examples/region.lua

fleet{
  worker{ id = "eu1", models = { "m" }, metadata = { region = "eu" }, in_flight = 2 },
  worker{ id = "eu2", models = { "m" }, metadata = { region = "eu" }, in_flight = 1 },
  worker{ id = "us1", models = { "m" }, metadata = { region = "us" }, in_flight = 1 },
  worker{ id = "asia1", models = { "m" }, metadata = { region = "asia" } },
}

local function ask(region)
  return route{ model = "m", metadata = { region = region } }
end

test("a request stays in its region", function()
  expect(ask("eu")):to_be("eu2")
  expect(ask("us")):to_be("us1")
  expect(ask("asia")):to_be("asia1")
end)

test("the next nearest region steps in", function()
  fleet{
    worker{ id = "eu1", models = { "m" }, metadata = { region = "eu" }, status = "offline" },
    worker{ id = "us1", models = { "m" }, metadata = { region = "us" }, in_flight = 3 },
    worker{ id = "asia1", models = { "m" }, metadata = { region = "asia" } },
  }
  expect(ask("eu")):to_be("us1")
end)

test("a region that does not have the model is passed over", function()
  fleet{
    worker{ id = "eu1", models = { "other" }, metadata = { region = "eu" } },
    worker{ id = "us1", models = { "m" }, metadata = { region = "us" } },
  }
  expect(ask("eu")):to_be("us1")
end)

test("who tells no region, or an unknown one, gets the least loaded worker", function()
  expect(ask(nil)):to_be("asia1")
  expect(ask("mars")):to_be("asia1")
  expect(ask("日本")):to_be("asia1")
  expect(ask(true)):to_be("asia1")
end)

test("workers of no region serve when nobody else does", function()
  fleet{ worker{ id = "home", models = { "m" } } }
  expect(ask("eu")):to_be("home")
end)

always(function(request, workers, choice)
  return choice.by ~= "fallback"
end)
