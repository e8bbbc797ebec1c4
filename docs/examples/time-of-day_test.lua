-- Tests of time-of-day.lua. Run them with:  rbeerouter routing test --script docs/examples/time-of-day.lua

fleet{
  worker{ id = "cpu1", backend = "cpu", models = { "m" }, in_flight = 1 },
  worker{ id = "gpu1", backend = "cuda", models = { "m" }, in_flight = 2 },
  worker{ id = "gpu2", backend = "rocm", models = { "m" }, in_flight = 3 },
  worker{ id = "other", models = { "m" } },
}

local function ask_at(time)
  at("2026-03-01 " .. time)
  return route{ model = "m" }
end

test("CPUs work from midnight to six", function()
  expect(ask_at("00:00")):to_be("cpu1")
  expect(ask_at("03:30")):to_be("cpu1")
  expect(ask_at("05:59")):to_be("cpu1")
end)

test("GPUs work from nine to five", function()
  expect(ask_at("09:00")):to_be("gpu1")
  expect(ask_at("12:30")):to_be("gpu1")
  expect(ask_at("16:59")):to_be("gpu1")
end)

test("at other hours the least loaded works", function()
  expect(ask_at("06:00")):to_be("other")
  expect(ask_at("08:59")):to_be("other")
  expect(ask_at("17:00")):to_be("other")
  expect(ask_at("23:59")):to_be("other")
end)

test("any worker is better than none", function()
  fleet{ worker{ id = "gpu1", backend = "cuda", models = { "m" } } }
  expect(ask_at("03:00")):to_be("gpu1")
  fleet{ worker{ id = "cpu1", backend = "cpu", models = { "m" } } }
  expect(ask_at("12:00")):to_be("cpu1")
end)

test("busy and offline workers are left out", function()
  fleet{
    worker{ id = "gpu1", backend = "cuda", models = { "m" }, status = "offline" },
    worker{ id = "gpu2", backend = "cuda", models = { "m" }, status = "busy", in_flight = 4 },
    worker{ id = "gpu3", backend = "cuda", models = { "m" }, in_flight = 3 },
  }
  expect(ask_at("12:00")):to_be("gpu3")
end)

always(function(request, workers, choice)
  return choice.by ~= "fallback"
end)
