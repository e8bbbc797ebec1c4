-- Tests of cost.lua. Run them with:  rbeerouter routing test --script docs/examples/cost.lua

fleet{
  worker{ id = "cpu1", backend = "cpu", performance = 10, models = { "m" }, in_flight = 1 },
  worker{ id = "cpu2", backend = "cpu", performance = 10, models = { "m" } },
  worker{ id = "cheap", backend = "cuda", performance = 80, cost_per_hour = 0.40, models = { "m" } },
  worker{ id = "fast", backend = "cuda", performance = 150, cost_per_hour = 1.20, models = { "m" } },
}

local function ask(tokens)
  return route{ model = "m", max_tokens = tokens }
end

test("short answers come from the least loaded CPU", function()
  expect(ask(1)):to_be("cpu2")
  expect(ask(99)):to_be("cpu2")
end)

test("middling answers come from the cheapest GPU", function()
  expect(ask(100)):to_be("cheap")
  expect(ask(499)):to_be("cheap")
end)

test("long answers, and those of unknown length, come from the fastest GPU", function()
  expect(ask(500)):to_be("fast")
  expect(ask(100000)):to_be("fast")
  expect(ask(nil)):to_be("fast")
end)

test("a GPU whose price nobody told is the dearest", function()
  fleet{
    worker{ id = "unknown", backend = "cuda", models = { "m" } },
    worker{ id = "cheap", backend = "cuda", cost_per_hour = 0.40, models = { "m" } },
  }
  expect(ask(200)):to_be("cheap")
end)

test("another kind steps in where none of the wanted one is ready", function()
  fleet{
    worker{ id = "cpu1", backend = "cpu", models = { "m" } },
    worker{ id = "gpu1", backend = "cuda", models = { "m" }, status = "offline" },
  }
  expect(ask(1000)):to_be("cpu1")
  fleet{
    worker{ id = "cpu1", backend = "cpu", models = { "m" }, status = "offline" },
    worker{ id = "gpu1", backend = "cuda", models = { "m" } },
  }
  expect(ask(10)):to_be("gpu1")
end)

test("a worker without the model is no choice", function()
  fleet{
    worker{ id = "fast", backend = "cuda", performance = 150, models = { "other" } },
    worker{ id = "slow", backend = "cuda", performance = 50, models = { "m" } },
  }
  expect(ask(1000)):to_be("slow")
end)

always(function(request, workers, choice)
  return choice.by ~= "fallback"
end)
