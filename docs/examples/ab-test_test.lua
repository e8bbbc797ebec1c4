-- Tests of ab-test.lua. Run them with:  rbeerouter routing test --script docs/examples/ab-test.lua

fleet{
  worker{ id = "old", models = { "llama-3-8b" } },
  worker{ id = "new", models = { "llama-3.1-8b" } },
}

test("one request in ten gets the variant", function()
  seed(42)
  local split = share(2000, function() return route{ model = "llama-3-8b" } end)
  expect(split.new):to_be_close(0.10, 0.03)
  expect(split.old):to_be_close(0.90, 0.03)
end)

test("one user in ten gets the variant", function()
  local split = share(2000, function(i) return route{ model = "llama-3-8b", user_id = "user " .. i } end)
  expect(split.new):to_be_close(0.10, 0.03)
end)

test("a user gets the same model every time", function()
  for i = 1, 50 do
    local first = route{ model = "llama-3-8b", user_id = "user " .. i }
    expect(route{ model = "llama-3-8b", user_id = "user " .. i }):to_be(first.worker)
  end
end)

test("the body names the variant when the variant's worker gets it", function()
  seed(42)
  for _ = 1, 100 do
    local result = route{ model = "llama-3-8b" }
    if result.worker == "new" then
      expect(result.model):to_be("llama-3.1-8b")
    end
  end
end)

test("everybody gets the old model while nobody is ready for the variant", function()
  fleet{
    worker{ id = "old", models = { "llama-3-8b" } },
    worker{ id = "new", models = { "llama-3.1-8b" }, status = "offline" },
  }
  local split = share(200, function() return route{ model = "llama-3-8b" } end)
  expect(split.old):to_be(1)
end)

test("requests for another model are no part of the test", function()
  fleet{
    worker{ id = "big", models = { "llama-3-70b" } },
    worker{ id = "new", models = { "llama-3.1-8b" } },
  }
  local split = share(200, function() return route{ model = "llama-3-70b" } end)
  expect(split.big):to_be(1)
end)

always(function(request, workers, choice)
  return choice.by ~= "fallback"
end)
