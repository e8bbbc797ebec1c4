-- Tests of errors.lua. Run them with:  rbeerouter routing test --script docs/examples/errors.lua

fleet{
  worker{ id = "gpu1", models = { "m" } },
  worker{ id = "gpu2", models = { "m" }, in_flight = 1 },
  worker{ id = "gpu3", models = { "m" }, in_flight = 2 },
  worker{ id = "gpu4", models = { "m" }, in_flight = 3 },
}

test("the least loaded worker gets the request", function()
  expect(route{ model = "m" }):to_be("gpu1")
end)

test("too many tokens are refused with the reason", function()
  local result = route{ model = "m", max_tokens = 32001 }
  expect(result):to_be_rejected(400)
  expect(result.message):to_be("max_tokens may be at most 32000")
  expect(route{ model = "m", max_tokens = 32000 }):to_be("gpu1")
end)

test("without any worker the script says so", function()
  fleet{}
  expect(route{ model = "m" }):to_fail("No workers available")
  fleet{ worker{ id = "gpu1", models = { "m" }, status = "offline" } }
  expect(route{ model = "m" }):to_fail("No workers available")
end)

test("a model that nobody lists is left to the strategy", function()
  fleet{
    worker{ id = "gpu1", models = { "other" } },
    worker{ id = "gpu2" },
  }
  local result = route{ model = "m" }
  expect(result):to_be("gpu2")
  expect(result.by):to_be("strategy")
end)

test("while everybody is busy the request waits", function()
  fleet{
    worker{ id = "gpu1", models = { "m" }, status = "busy", in_flight = 4 },
    worker{ id = "gpu2", models = { "m" }, status = "offline" },
  }
  expect(route{ model = "m" }):to_wait()
end)

test("when a worker fails the next one gets the request", function()
  fails("gpu1")
  local result = route{ model = "m" }
  expect(result):to_be("gpu2")
  expect(result.tried[1]):to_be("gpu1")
end)

test("a worker that failed is not the first choice for a while", function()
  fails("gpu1")
  route{ model = "m" }
  local result = route{ model = "m" }
  expect(result):to_be("gpu2")
  expect(result.tried[1]):not_to_be("gpu1")
end)

test("after two failures the client is told to come back", function()
  fails("gpu1")
  fails("gpu2")
  expect(route{ model = "m" }):to_be_rejected(503)
end)
