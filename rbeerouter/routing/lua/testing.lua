-- What a file of tests may say: test, fleet, worker, route, expect, at, seed, param_set, fails, share, always.
--
-- Runs after prelude.lua, and only in the Lua state of a file of tests; the script that is tested has one of its own.
-- Builders are checked here, so that a mistake is told at its line; whatever needs the script is asked of the host
-- (workbench/suite.py) by kit.ask, which answers with a table, a text that tells what is wrong, or nil. Errors are raised
-- without a place: prelude.lua puts the line of the test before them.

local kit, host = ...

local type, next, error, ipairs, pairs, rawget, setmetatable, tostring, select =
      type, next, error, ipairs, pairs, rawget, setmetatable, tostring, select
local concat, format, floor, math_type, huge = table.concat, string.format, math.floor, math.type, math.huge
local globals, suggestion, ask = kit.globals, kit.suggestion, kit.ask

local tests = {}                 -- { name, line, run or rule }
local before = {}                -- functions that run before each test
local running = false            -- is a test running, and not the file itself?
local failure                    -- of the last expectation that was not met
local settings = {}              -- the numbers that the host gives: load, test: instructions

for _, name in ipairs { "state", "param", "queue", "reject", "strategy" } do
  globals[name] = nil
  kit.unavailable[name] = true
end
setmetatable(globals, { __index = function(_, name)
  if kit.unavailable[name] then error("'" .. name .. "' is not available in tests", 0) end
  return nil
end })

local function set_of(names)
  local set = {}
  for name in names:gmatch("[%w_]+") do set[name] = true end
  return set
end

local function need(value, kind, what)
  if value ~= nil and type(value) ~= kind then
    error(what .. ": expected a " .. (kind == "string" and "text" or kind) .. ", got " .. kit.shown(value), 0)
  end
end

local function known_fields(given, known, what)
  if type(given) ~= "table" then error(what .. " expects a table in braces, got " .. type(given), 0) end
  for key in next, given do
    if not known[key] then error(what .. " has no field '" .. kit.shown(key) .. "'" .. suggestion(key, known), 0) end
  end
end

-- Metadata, or headers: names and plain values.
local function need_entries(given, what, kinds)
  need(given, "table", what)
  for key, value in next, given or {} do
    if type(key) ~= "string" then error(what .. ": a name is a text, got " .. kit.shown(key), 0) end
    if not kinds[type(value)] then
      error(what .. "." .. key .. ": expected " .. kinds.told .. ", got a " .. type(value), 0)
    end
    if value ~= value or value == huge or value == -huge then
      error(what .. "." .. key .. ": no request can carry " .. tostring(value), 0)
    end
  end
end

local PLAIN = { string = true, number = true, boolean = true, told = "a text, a number or a boolean" }
local TEXT = { string = true, told = "a text" }

local function need_names(given, what)
  need(given, "table", what)
  for i, name in pairs(given or {}) do
    if math_type(i) ~= "integer" or type(name) ~= "string" then error(what .. ": expected a list of texts", 0) end
  end
end

local function answered(answer)
  if type(answer) == "string" then error(answer, 0) end
  return answer
end

--------------------------------------------------------------------------------------------------------- builders

local WORKER = set_of(kit.options.worker_fields)
local WORKER_TEXTS = { "id", "status", "backend", "engine", "role", "deployment" }
local WORKER_NUMBERS = {
  "vram", "vram_used", "load", "performance", "cost_per_hour", "capacity", "in_flight", "waiting", "kv_usage",
  "latency_ms", "ttft_ms", "running", "load_age_s", "tokens_per_s", "inter_token_ms", "error_rate", "temperature_c",
  "watts", "price_in", "price_out",
}
local WORKER_LISTS = { "models", "loras", "loaded" }
local STATUSES = { ready = true, busy = true, offline = true, draining = true }
local DEPLOYMENTS = { ["local"] = true, remote = true }
local is_worker = setmetatable({}, { __mode = "k" })
local CAPACITY, FINE = 4, 100    -- FINE: capacity of a worker of which only the load is told, which is then exact to 1 %

local function need_whole(value, low, what)
  if value ~= nil and (math_type(value) ~= "integer" or low and value < low) then
    error(what .. ": expected a whole number" .. (low and " from " .. low or "") .. ", got " .. kit.shown(value), 0)
  end
end

-- Makes status, in_flight and capacity agree, as the daemon's do.
local function fill_load(made)
  if made.load then
    if made.in_flight then error("worker: give load or in_flight, not both", 0) end
    if not (made.load >= 0 and made.load <= 10) then error("worker: load: expected 0 to 10, got " .. made.load, 0) end
    made.capacity = made.capacity or FINE
    made.in_flight = floor(made.load * made.capacity + 0.5)
    made.load = nil
  end
  made.capacity = made.capacity or CAPACITY
  if made.status == "busy" then
    made.in_flight = made.in_flight or made.capacity
    if made.in_flight < made.capacity then
      error("worker: a busy worker is full: in_flight " .. made.in_flight .. " is below capacity " .. made.capacity, 0)
    end
  elseif made.status == "ready" and (made.in_flight or 0) >= made.capacity then
    error("worker: a ready worker has room: in_flight " .. made.in_flight .. " is not below capacity " .. made.capacity, 0)
  end
  made.status = made.status or (made.in_flight or 0) < made.capacity and "ready" or "busy"
end

function globals.worker(given)
  known_fields(given, WORKER, "a worker")
  local made = {}
  for key, value in next, given do made[key] = value end
  for _, name in ipairs(WORKER_TEXTS) do need(made[name], "string", "worker: " .. name) end
  for _, name in ipairs(WORKER_NUMBERS) do need(made[name], "number", "worker: " .. name) end
  need_whole(made.capacity, 1, "worker: capacity")
  need_whole(made.in_flight, 0, "worker: in_flight")
  need_whole(made.waiting, 0, "worker: waiting")
  need_whole(made.running, 0, "worker: running")
  need(made.owner_active, "boolean", "worker: owner_active")
  if made.status and not STATUSES[made.status] then
    error('worker: status: expected "ready", "busy", "draining" or "offline", got "' .. made.status .. '"', 0)
  end
  if made.deployment and not DEPLOYMENTS[made.deployment] then
    error('worker: deployment: expected "local" or "remote", got "' .. made.deployment .. '"', 0)
  end
  for _, name in ipairs(WORKER_LISTS) do need_names(made[name], "worker: " .. name) end
  need_entries(made.metadata, "worker: metadata", PLAIN)
  for _, name in ipairs(WORKER_LISTS) do                                 -- in JSON an empty one would be no list
    if made[name] and #made[name] == 0 then made[name] = nil end
  end
  fill_load(made)
  is_worker[made] = true
  return made
end

function globals.fleet(given)
  if type(given) ~= "table" then error("fleet expects workers in braces: fleet{ worker{...}, worker{...} }", 0) end
  local list, taken = {}, {}
  for key in next, given do
    if math_type(key) ~= "integer" then error("fleet has no '" .. kit.shown(key) .. "': it is a list of workers", 0) end
  end
  for i, one in ipairs(given) do
    if not is_worker[one] then error("fleet: item " .. i .. ": expected worker{...}, got a " .. type(one), 0) end
    local made = {}
    for key, value in next, one do made[key] = value end
    made.id = made.id or "worker-" .. i
    if taken[made.id] then error("fleet: two workers are named " .. made.id, 0) end
    taken[made.id], list[i] = true, made
  end
  answered(ask("fleet", kit.json(list)))
end

local REQUEST = set_of(kit.options.request_fields)
local RESULT = set_of("worker by action line reason error status message model headers order log tried retry_after timeout_s")

-- How a result ended, as a person says it.
local function told(result)
  local function why() return result.error and ", after the script failed: " .. result.error or "" end
  if result.action == "reject" then
    return "rejected with " .. result.status .. ": " .. result.message
  elseif result.action == "wait" then
    return "waits for " .. (result.worker or "any worker") .. why()
  elseif result.action == "fail" then
    return "no worker (" .. result.status .. " " .. result.message .. ")" .. why()
  end
  return '"' .. result.worker .. '" (' .. result.by .. ", " .. result.reason .. ")" .. why()
end

local result_meta = {
  __index = function(_, key)
    if RESULT[key] then return nil end
    error("a result has no '" .. kit.shown(key) .. "'" .. suggestion(key, RESULT), 0)
  end,
  __tostring = function(result) return told(result) end,
}
local is_result = setmetatable({}, { __mode = "k" })

local function as_result(given)
  given.tried, given.log = kit.list(given.tried), kit.list(given.log)
  if given.order then given.order = kit.list(given.order) end
  is_result[given] = true
  return setmetatable(given, result_meta)
end

function globals.route(given)
  given = given == nil and {} or given
  known_fields(given, REQUEST, "a request")
  for _, name in ipairs { "model", "user_id", "session_id", "path", "type", "prompt" } do
    need(given[name], "string", "route: " .. name)
  end
  need(given.model_size, "number", "route: model_size")
  need_whole(given.max_tokens, nil, "route: max_tokens")
  need_whole(given.prompt_tokens, 0, "route: prompt_tokens")
  need(given.stream, "boolean", "route: stream")
  local priority = given.priority
  if priority ~= nil and type(priority) ~= "string" and math_type(priority) ~= "integer" then
    error("route: priority: expected a text or a whole number, got " .. kit.shown(priority), 0)
  end
  need_entries(given.metadata, "route: metadata", PLAIN)
  need_entries(given.headers, "route: headers", TEXT)
  return as_result(answered(ask("route", kit.json(given))))
end

--------------------------------------------------------------------------------------------- time, chance, failures

function globals.at(time)
  if type(time) ~= "string" then error("at expects a text such as \"2026-03-01 14:00\", got " .. type(time), 0) end
  kit.set_clock(answered(ask("at", time)).epoch, 0)
end

function globals.seed(number)
  if math_type(number) ~= "integer" then error("seed expects a whole number, got " .. kit.shown(number), 0) end
  answered(ask("seed", tostring(number)))
  host.seed(number)
end

function globals.param_set(name, value)
  if type(name) ~= "string" or type(value) ~= "number" then error("param_set expects a name and a number", 0) end
  answered(ask("param_set", kit.json { name = name, value = value }))
end

-- Requests that are sent to these workers fail, until the test ends; without a name none does any more.
function globals.fails(...)
  local ids = { ... }
  if type(ids[1]) == "table" then ids = ids[1] end
  for i = 1, select("#", ...) do
    if type(ids[i]) ~= "string" and ids[i] ~= nil then error("fails expects ids of workers", 0) end
  end
  answered(ask("fails", #ids > 0 and kit.json(ids) or "[]"))
end

-- Which part of n requests went to whom: { gpu1 = 0.9, gpu2 = 0.1 }, and rejected, waiting, failed.
local ENDS = { reject = "rejected", wait = "waiting", fail = "failed" }
function globals.share(n, f)
  if math_type(n) ~= "integer" or n < 1 then error("share expects how often, a whole number from 1", 0) end
  if type(f) ~= "function" then error("share expects a function as its second argument, got " .. type(f), 0) end
  local counts, shares = {}, {}
  for i = 1, n do
    local got = f(i)
    if is_result[got] then got = ENDS[got.action] or got.worker end
    if got == nil then error("share: the function returned nil; write: return route{...}", 0) end
    counts[got] = (counts[got] or 0) + 1
  end
  for key, count in next, counts do shares[key] = count / n end
  return shares
end

---------------------------------------------------------------------------------------------------- expectations

local function display(value)
  if is_result[value] then return told(value) end
  if type(value) == "string" then return '"' .. value .. '"' end
  if type(value) ~= "table" or kit.is_worker(value) then return kit.shown(value) end
  local parts = {}
  for i = 1, #value do parts[i] = display(value[i]) end
  for key, item in globals.pairs(value) do
    if #parts >= 20 then break end
    if math_type(key) ~= "integer" then parts[#parts + 1] = kit.shown(key) .. " = " .. display(item) end
  end
  return "{ " .. concat(parts, ", ") .. " }"
end

-- What a result is compared by: the worker that got the request.
local function comparable(value)
  if not is_result[value] then return value end
  return value.action == "send" and value.worker or nil
end

local function same(a, b)
  a, b = comparable(a), comparable(b)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" or kit.is_worker(a) or kit.is_worker(b) then return false end
  for key, value in globals.pairs(a) do if not same(value, rawget(b, key)) then return false end end
  for key in globals.pairs(b) do if rawget(a, key) == nil then return false end end
  return true
end

local function unmet(expected, got)
  local line = kit.script_line(2)
  failure = { line = line, expected = expected, got = display(got) }
  error(host.chunk_name .. ":" .. line .. ": expected " .. expected .. ", got " .. failure.got, 0)
end

local matchers = {}

local function need_self(self, name)
  if type(self) ~= "table" or rawget(self, matchers) == nil then
    error("call it with a colon: expect(...):" .. name .. "(...)", 0)
  end
end

local function need_result(self, name)
  need_self(self, name)
  if not is_result[self.value] then
    error(name .. " is for what route{...} gives, got " .. display(self.value), 0)
  end
  return self.value
end

function matchers:to_be(wanted)
  need_self(self, "to_be")
  if not same(self.value, wanted) then unmet(display(wanted), self.value) end
end

function matchers:not_to_be(wanted)
  need_self(self, "not_to_be")
  if same(self.value, wanted) then unmet("anything but " .. display(wanted), self.value) end
end

function matchers:to_be_one_of(list)
  need_self(self, "to_be_one_of")
  if type(list) ~= "table" then error("to_be_one_of expects a list, got " .. type(list), 0) end
  for _, wanted in ipairs(list) do if same(self.value, wanted) then return end end
  unmet("one of " .. display(list), self.value)
end

function matchers:to_be_close(wanted, tolerance)
  need_self(self, "to_be_close")
  if type(wanted) ~= "number" or type(tolerance) ~= "number" then
    error("to_be_close expects a number and how far off it may be", 0)
  end
  local value = self.value
  if type(value) ~= "number" or not (value >= wanted - tolerance and value <= wanted + tolerance) then
    unmet(format("%.14g (+- %.14g)", wanted, tolerance), value)
  end
end

function matchers:to_be_rejected(status)
  local result = need_result(self, "to_be_rejected")
  if result.action ~= "reject" or (status ~= nil and result.status ~= status) then
    unmet("a rejection" .. (status and " with " .. kit.shown(status) or ""), result)
  end
end

function matchers:to_wait()
  local result = need_result(self, "to_wait")
  if result.action ~= "wait" then unmet("to wait", result) end
end

-- The script raised an error, or nobody could serve the request; `text` is part of what was said then.
function matchers:to_fail(text)
  local result = need_result(self, "to_fail")
  local said = (result.error or "") .. "\n" .. (result.action == "fail" and result.message or "")
  if said == "\n" or (text ~= nil and not kit.strings.contains(said, text)) then
    unmet("a failure" .. (text and " with " .. display(text) or ""), result)
  end
end

local MATCHERS = "to_be, not_to_be, to_be_one_of, to_be_close, to_be_rejected, to_wait, to_fail"

local expectation_meta = { __index = function(_, key)
  if matchers[key] or key == "value" then return matchers[key] end
  local near = suggestion(key, matchers)
  error("expect(...) has no '" .. kit.shown(key) .. "'" .. (near ~= "" and near or "; it has " .. MATCHERS), 0)
end }

function globals.expect(...)
  return setmetatable({ value = (...), [matchers] = true }, expectation_meta)
end

---------------------------------------------------------------------------------------------------------- the tests

local function declare(kind, name, f)
  if running then error(kind .. " stands outside of other tests", 0) end
  if type(f) ~= "function" then error(kind .. " expects a function, got " .. type(f), 0) end
  tests[#tests + 1] = { name = name, line = kit.script_line(2), kind = kind, f = f }
end

function globals.test(name, f)
  if type(name) ~= "string" then error("test expects a name and a function, got " .. type(name), 0) end
  declare("test", name, f)
end

-- A rule that holds for whatever comes: f(request, workers, choice) on random fleets gives true, or nothing.
function globals.always(name, f)
  if type(name) == "function" then name, f = "always, line " .. kit.script_line(2), name end
  declare("always", name, f)
end

function globals.before_each(f)
  if running or type(f) ~= "function" then error("before_each expects a function, outside of tests", 0) end
  before[#before + 1] = f
end

for name in next, globals do kit.unavailable[name] = nil end

-- Compiles and runs a file of tests, which declares them. Returns as the functions of prelude.lua do.
function host.load_tests(source, name, instructions, wall)
  host.chunk_name, settings.test = name, instructions
  kit.set_clock(wall, 0)
  local chunk, problem = kit.compile(source, name, { __index = globals })
  if not chunk then return -1, kit.error_text(problem) end
  return kit.perform(instructions, function()
    chunk()
    return 0
  end)
end

-- The tests in their order, as JSON.
function host.tests()
  local list = {}
  for i, one in ipairs(tests) do list[i] = { name = one.name, line = one.line, kind = one.kind } end
  return #list > 0 and kit.json(list) or "[]"
end

function host.run_test(index, wall)
  running, failure = true, nil
  kit.set_clock(wall, 0)
  return kit.perform(settings.test, function()
    for _, f in ipairs(before) do f() end
    tests[index].f()
    return 0
  end)
end

-- Asks a rule about one decision: 0 when it holds.
function host.run_always(index, wall, choice, ...)
  running, failure = true, nil
  kit.set_clock(wall, 0)
  return kit.perform(settings.test, function(...)
    local one = tests[index]
    local result = as_result(choice)
    local holds = one.f(kit.request_of(...), kit.workers_list(), result)
    if holds == nil or holds then return 0 end
    error(host.chunk_name .. ":" .. one.line .. ": the rule does not hold; the choice: " .. told(result), 0)
  end, ...)
end

function host.answer(value) return host.resume(value) end

-- The expectation that was not met, as JSON, or nil.
function host.failure() return failure and kit.json(failure) end
