-- Tests of multi-modal.lua. Run them with:  rbeerouter routing test --script docs/examples/multi-modal.lua

fleet{
  worker{ id = "sd-worker-1", models = { "sdxl" }, in_flight = 1 },
  worker{ id = "sd-worker-2", models = { "sdxl" } },
  worker{ id = "llm-worker-1", models = { "llama-3-8b" } },
  worker{ id = "llm-worker-2", models = { "llama-3-70b" } },
  worker{ id = "embedder", models = { "bge-m3" } },
}

test("pictures go to the least loaded sd-worker", function()
  expect(route{ model = "sdxl", type = "image" }):to_be("sd-worker-2")
end)

test("texts go to the llm-worker that has the model", function()
  expect(route{ model = "llama-3-8b", type = "llm" }):to_be("llm-worker-1")
  expect(route{ model = "llama-3-70b", type = "llm" }):to_be("llm-worker-2")
end)

test("the client may name the kind", function()
  expect(route{ model = "sdxl", metadata = { type = "image" } }):to_be("sd-worker-2")
end)

test("other kinds are left to the strategy", function()
  local result = route{ model = "bge-m3", type = "embedding" }
  expect(result):to_be("embedder")
  expect(result.by):to_be("strategy")
end)

test("workers that are not ready get nothing", function()
  fleet{
    worker{ id = "sd-worker-1", models = { "sdxl" }, status = "offline" },
    worker{ id = "sd-worker-2", models = { "sdxl" }, status = "busy", in_flight = 4 },
    worker{ id = "sd-worker-3", models = { "sdxl" }, in_flight = 3 },
  }
  expect(route{ model = "sdxl", type = "image" }):to_be("sd-worker-3")
end)

always(function(request, workers, choice)
  if choice.by ~= "script" then
    return true
  end
  return choice.worker:starts_with("sd-worker-") or choice.worker:starts_with("llm-worker-")
end)
