-- Tests of tiers.lua. Run them with:  rbeerouter routing test --script docs/examples/tiers.lua

fleet{
  worker{ id = "cpu1", backend = "cpu", performance = 10, models = { "m" } },
  worker{ id = "old1", backend = "cuda", performance = 40, models = { "m" }, in_flight = 1 },
  worker{ id = "gpu1", backend = "cuda", performance = 100, models = { "m" } },
  worker{ id = "gpu2", backend = "cuda", performance = 120, models = { "m" }, in_flight = 2 },
  worker{ id = "gpu3", backend = "cuda", performance = 150, models = { "m" }, in_flight = 1 },
}

local function ask(tier)
  return route{ model = "m", metadata = { tier = tier } }
end

test("premium goes to the least loaded fast GPU", function()
  expect(ask("premium")):to_be("gpu3")
end)

test("free goes to a CPU or a slow GPU", function()
  expect(ask("free")):to_be("cpu1")
  fleet{
    worker{ id = "old1", backend = "cuda", performance = 40, models = { "m" } },
    worker{ id = "gpu2", backend = "cuda", performance = 120, models = { "m" } },
  }
  expect(ask("free")):to_be("old1")
end)

test("who tells no tier, or an unknown one, gets what lies between", function()
  expect(ask(nil)):to_be("gpu1")
  expect(ask("gold")):to_be("gpu1")
  expect(ask(7)):to_be("gpu1")
end)

test("free waits for its own workers while they are busy", function()
  fleet{
    worker{ id = "cpu1", backend = "cpu", models = { "m" }, status = "busy", in_flight = 4 },
    worker{ id = "gpu2", backend = "cuda", performance = 120, models = { "m" } },
  }
  expect(ask("free")):to_wait()
  expect(ask("premium")):to_be("gpu2")
end)

test("a tier whose workers are all offline is left to the strategy", function()
  fleet{
    worker{ id = "cpu1", backend = "cpu", models = { "m" } },
    worker{ id = "gpu2", backend = "cuda", performance = 120, models = { "m" }, status = "offline" },
  }
  local result = ask("premium")
  expect(result):to_be("cpu1")
  expect(result.by):to_be("strategy")
end)

test("a fast GPU without the model is no choice", function()
  fleet{
    worker{ id = "gpu2", backend = "cuda", performance = 120, models = { "other" } },
    worker{ id = "gpu3", backend = "cuda", performance = 130, models = { "m" } },
  }
  expect(ask("premium")):to_be("gpu3")
end)

always(function(request, workers, choice)
  if choice.by ~= "script" or choice.action ~= "send" or request.metadata.tier ~= "premium" then
    return true
  end
  for _, one in ipairs(workers) do
    if one.id == choice.worker then
      return one.backend == "cuda" and one.performance > 100
    end
  end
  return false
end)
