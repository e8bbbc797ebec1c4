-- The workers and the request as scripts see them, and the functions by which the host calls a script.
--
-- Runs last in each new Lua state. Called by sandbox.py only. No Python object ever enters Lua: workers are Lua tables
-- that the host updates in place, scripts see read-only views of them, and a plain answer leaves as one integer, worker
-- index * 65536 + script line.
--
-- A script that names `strategy` runs inside of a coroutine that it cannot reach. So a helper that needs the host can
-- yield with a question; the host answers with host.resume, and the script goes on. Nothing else is ever called from
-- Lua. Other scripts run without one, which saves half a microsecond.

local kit = ...

local type, next, ipairs, error, xpcall, load, setmetatable, tostring, rawget =
      type, next, ipairs, error, xpcall, load, setmetatable, tostring, rawget
local unpack, concat, math_type, max_level = table.unpack, table.concat, math.type, 20
local find, match = string.find, string.match
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local getinfo = debug.getinfo
local options, budget, frozen, read_only, error_text, suggestion =
      kit.options, kit.budget, kit.frozen, kit.read_only, kit.error_text, kit.suggestion
local ordered_view = kit.ordered_view
local EXPLAIN = options.explain
local NO_MEMORY = "not enough memory"

--------------------------------------------------------------------------------------------------------- workers

local environment, chunk_name, chunk_source      -- of the loaded script
local entry = {}                                 -- its functions that the host calls
local deliberate = false                         -- did the script itself call error or assert?
local count = 0                                  -- workers the host has put
local fields_of, view_of = {}, {}                -- by index
local index_of = {}                              -- by view: an answer is checked against this, so look-alikes fail
local index_by_id = {}
local known = {}                                 -- by id: { view, fields }; a script that kept a view keeps a true one

local function set_of(text)
  local set = {}
  for name in text:gmatch("[%w_]+") do set[name] = true end
  return set
end

local WORKER_FIELDS = set_of(options.worker_fields)
local REQUEST_FIELDS = set_of(options.request_fields)

-- What reading a field that is not there gives: nil if there is such a field, else an error that tells the nearest one.
local function missing(what, fields)
  return function(_, key)
    if fields[key] then return nil end
    error(what .. " has no field '" .. kit.shown(key) .. "'" .. suggestion(key, fields), 2)
  end
end

local metadata_methods = {}
function metadata_methods:get(key, default)
  if type(self) ~= "table" then error('call it with a colon: metadata:get("key", default)', 2) end
  local value = self[key]
  if value == nil or value == metadata_methods.get then return default end
  return value
end
local metadata_meta = { __index = metadata_methods }

---------------------------------------------------------------------------------------------- why, under EXPLAIN

local steps, reads, read_counts = {}, {}, {}     -- by view: what became of a worker; what was read since start_reads

function kit.start_reads() reads, read_counts = {}, {} end

local SHOWN_BYTES, MOST_READS = 100, 32

-- Notes that a field was read; what a script makes up can be long, and is cut.
function kit.read(view, key, value)
  key = kit.cut(key, SHOWN_BYTES)
  if type(value) == "string" then value = kit.cut(value, SHOWN_BYTES) end
  local of_view = reads[view]
  if not of_view then
    of_view = {}
    reads[view] = of_view
  end
  if of_view[key] == nil then
    local count = (read_counts[view] or 0) + 1
    if count > MOST_READS then return end
    read_counts[view] = count
  end
  if type(value) ~= "table" then of_view[key] = value == nil and "nil" or value end
end

-- Notes that at this line the item was left out, or with `taken` that another one was preferred, or it itself taken.
function kit.note(item, by, line, taken, place)
  if item == nil or not index_of[item] then return end
  local list = steps[item]
  if not list then
    list = {}
    steps[item] = list
  end
  if #list >= 16 then return end
  local step = { by = by, line = line, read = reads[item], place = place }
  if taken ~= nil then step.taken = index_of[taken] and fields_of[index_of[taken]].id or kit.shown(taken) end
  list[#list + 1] = step
end

local function explained_view(data)
  local view
  view = setmetatable({}, {
    __index = function(_, key)
      local value = data[key]
      kit.read(view, key, value)
      return value
    end,
    __newindex = read_only,
    __pairs = function(view) return ordered_view(data, view) end,
    __tostring = function() return "worker(" .. tostring(data.id) .. ")" end,
  })
  return view
end

local function explained_metadata(metadata, owner)
  local data = setmetatable(metadata, metadata_meta)
  return setmetatable({}, {
    __index = function(_, key)
      local value = data[key]
      if type(value) ~= "function" then kit.read(owner, "metadata." .. kit.shown(key), value) end
      return value
    end,
    __newindex = read_only,
    __pairs = function(view) return ordered_view(data, view) end,
  })
end

local function plain_view(data)
  return setmetatable({}, {
    __index = data, __newindex = read_only,
    __pairs = function(view) return ordered_view(data, view) end,
    __tostring = function() return "worker(" .. tostring(data.id) .. ")" end,
  })
end

local host = {}

local worker_meta = { __index = missing("a worker", WORKER_FIELDS) }

-- Registers worker `index` (from 1); a worker of the same id keeps the view that scripts may hold.
function host.put(index, fields, lists, metadata)
  local id = fields.id
  local one = known[id]
  if not one then
    local data = setmetatable({}, worker_meta)
    one = { fields = data, view = EXPLAIN and explained_view(data) or plain_view(data) }
    known[id] = one
  end
  local data = one.fields
  for key in next, data do data[key] = nil end
  for key, value in next, fields do data[key] = value end
  for name, names in next, lists do data[name] = kit.names(names, one.view, name) end
  metadata.get = nil                                     -- an entry of that name would hide the method
  data.metadata = EXPLAIN and explained_metadata(metadata, one.view) or frozen(setmetatable(metadata, metadata_meta))
  fields_of[index], view_of[index] = data, one.view
end

-- Ends a round of puts: `n` workers are there, all others are forgotten.
function host.finish_puts(n)
  index_of, index_by_id = {}, {}
  for i = n + 1, count do fields_of[i], view_of[i] = nil, nil end
  count = n
  for i = 1, n do
    index_of[view_of[i]], index_by_id[fields_of[i].id] = i, i
  end
  for id in next, known do if not index_by_id[id] then known[id] = nil end end
end

local STATUS = { [0] = "ready", "busy", "offline", "draining" }

-- Takes a worker's new state, packed into one integer: index << 46 | occupied << 24 | in_flight << 2 | status.
local function touch(packed)
  local data = fields_of[packed >> 46]
  data.status, data.in_flight, data.load =
    STATUS[packed & 3], packed >> 2 & 0x3fffff, (packed >> 24 & 0x3fffff) / data.capacity
end
host.touch = touch

-- What is measured of a worker, for scripts that read it.
function host.measured(
  index, latency_ms, ttft_ms, waiting, kv_usage, vram_used, running, load_age_s, tokens_per_s, inter_token_ms,
  error_rate, temperature_c, watts, owner_active)
  local data = fields_of[index]
  data.latency_ms, data.ttft_ms, data.waiting, data.kv_usage, data.vram_used =
    latency_ms, ttft_ms, waiting, kv_usage, vram_used
  data.running, data.load_age_s, data.tokens_per_s, data.inter_token_ms = running, load_age_s, tokens_per_s, inter_token_ms
  data.error_rate, data.temperature_c, data.watts, data.owner_active = error_rate, temperature_c, watts, owner_active
end

-------------------------------------------------------------------------------------------- what the kit's files need

function kit.shown(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" or kind == "boolean" or kind == "nil" then return tostring(value) end
  if index_of[value] then return "worker(" .. rawget(fields_of[index_of[value]], "id") .. ")" end
  return kind
end

function kit.is_worker(value) return index_of[value] ~= nil end
function kit.index(value) return index_of[value] end
function kit.worker(index) return view_of[index] end
function kit.index_or_id(value)
  if value == nil then return nil end
  return index_of[value] or index_by_id[value]
end
function kit.id_of(item)
  local index = index_of[item]
  return index and fields_of[index].id or item
end

-- The line of the script that is running: of the innermost function of the script on the stack. A function that was
-- left by `return helper(...)` is not there any more; then the mark of that return tells.
local function script_line(level)
  for i = level, level + max_level do
    local info = getinfo(i, "Sl")
    if not info then break end
    if info.source == chunk_source and info.currentline > 0 then return info.currentline end
  end
  return environment and environment._rbee_line or 0
end
kit.script_line = script_line

local ASKED = {}                 -- what a yield with a question begins with

-- Asks the host from inside of a script; gives what the host answers.
function kit.ask(kind, text) return yield(ASKED, kind, text) end

--------------------------------------------------------------------------------------------------------- globals

local globals = kit.globals
globals.tostring = kit.shown
function globals.error(value, level)
  deliberate, level = true, level or 1
  error(value, level == 0 and 0 or level + 1)
end
function globals.assert(value, message, ...)
  if value then return value, message, ... end
  deliberate = true
  error(message == nil and "assertion failed!" or message, 2)
end

for name in next, globals do kit.unavailable[name] = nil end
setmetatable(globals, { __index = function(_, name)
  if kit.unavailable[name] then error("'" .. name .. "' is not available in routing scripts", 2) end
  return nil
end })

------------------------------------------------------------------------------------------------- running a script

-- What an error becomes on its way out: told at the script's line, also where a helper or a C function raised it.
local function told_at_script(problem)
  if type(problem) ~= "string" then return problem end
  if deliberate or find(problem, chunk_name .. ":", 1, true) == 1 then return problem end
  local text = match(problem, "^[%a_]+%.lua:%d+: (.*)") or problem
  local line = script_line(2)
  return (line > 0 and chunk_name .. ":" .. line .. ": " or "") .. text
end

-- The coroutine's body: does one task after the other. Each yield ends one task and begins the next.
local function serve(task, ...)
  return serve(yield(xpcall(task, told_at_script, ...)))
end

local asks, thread, asked = false, nil, false

local function run(task, ...)
  if not asks then
    return true, xpcall(task, told_at_script, ...)
  end
  if not thread or asked then                            -- none yet, or one that still waits for an answer
    thread, asked = create(serve), false
    budget.watch(thread)
  end
  return resume(thread, task, ...)
end

-- Ends a task, or hands its question to the host as (1, kind, text). A task returns what the host gets.
local function settle(alive, ok, answer, text)
  if alive and ok == ASKED then
    asked = true
    return 1, answer, text
  end
  local ran_out = budget.stop()
  if not alive then                                      -- only for want of memory outside of the task
    thread, ok, answer = nil, false, ok
  end
  if ok then return answer end
  if answer == NO_MEMORY then return -4, NO_MEMORY end
  if ran_out then return -2, error_text(answer) end
  return deliberate and -7 or -3, error_text(answer)
end

-- Goes on with a task that had asked.
function host.resume(answer)
  asked = false
  return settle(resume(thread, answer))
end

local function mark()
  local line = environment._rbee_line
  return math_type(line) == "integer" and line >= 0 and line <= 65535 and line or 0
end

-- Compiles a file into an environment of its own; nil and a text when it is no Lua.
local function compile(source, name, meta)
  entry, chunk_name, chunk_source, deliberate = {}, name, "=" .. name, false
  budget.chunk_source = chunk_source
  environment = setmetatable({ _rbee_line = 0 }, meta)
  return load(source, chunk_source, "t", environment)
end

-- Compiles and runs a script. Returns 0, or a code and a text: -1 syntax, -2 budget, -3 and -7 error while it ran,
-- -4 memory, -6 no route_request.
function host.load(source, name)
  local meta = { __index = globals }
  local chunk, syntax_error = compile(source, name, meta)
  if not chunk then return -1, error_text(syntax_error) end
  kit.deciding, asks = false, find(source, "strategy", 1, true) ~= nil
  if not asks then budget.watch() end
  budget.start(options.load_instructions, true)
  local code, problem = settle(run(chunk))
  if problem then return code, problem end
  if type(rawget(environment, "route_request")) ~= "function" then
    return -6, "the script defines no function route_request(request, workers)"
  end
  for _, hook in ipairs { "route_request", "on_complete", "on_failure" } do
    local found = rawget(environment, hook)
    if found ~= nil and type(found) ~= "function" then
      return -6, hook .. " is a " .. type(found) .. ", expected a function"
    end
    entry[hook] = found
  end
  meta.__newindex = function(_, name)
    error("assignment to the undeclared global '" .. kit.shown(name) .. "'; write: local " .. kit.shown(name), 2)
  end
  return 0
end

-- Which of the optional functions the script has: 1 on_complete, 2 on_failure, 3 both.
function host.hooks() return (entry.on_complete and 1 or 0) + (entry.on_failure and 2 or 0) end

local listed_headers = {}        -- those that may be read
local request_meta = { __index = missing("a request", REQUEST_FIELDS) }
do                               -- worked out for those who ask, as nearly nobody does
  local other = request_meta.__index
  request_meta.__index = function(request, key)
    if key ~= "protocol" then return other(request, key) end
    local path = rawget(request, "path")
    if path:sub(1, 12) == "/v1/messages" then return "anthropic" end
    if path:sub(1, 5) ~= "/api/" then return "openai" end
    return path:sub(1, 8) == "/api/v1/" and "data" or "ollama"
  end
end
if not options.expose_prompt then
  local other = request_meta.__index
  request_meta.__index = function(request, key)
    if key == "prompt" then error("request.prompt is there only with [routing] expose_prompt = true", 2) end
    return other(request, key)
  end
end
local headers_meta = { __index = function(headers, name)
  if type(name) ~= "string" then error("a header's name is a text, got " .. type(name), 2) end
  local lower = name:lower()
  if lower ~= name and rawget(headers, lower) ~= nil then return rawget(headers, lower) end
  if listed_headers[lower] then return nil end
  error("the header '" .. name .. "' is not in [routing] request_headers" .. suggestion(lower, listed_headers), 2)
end }

local no_headers = setmetatable({}, { __index = headers_meta.__index, __newindex = read_only })

local function request_of(
  model, model_size, user_id, session_id, priority, max_tokens, stream, path, prompt_tokens, prompt, entries,
  key, value, key2, value2, key3, value3, ...)
  local metadata, headers = setmetatable({}, metadata_meta), no_headers
  if entries > 0 then metadata[key] = value end
  if entries == 3 and not ... then                       -- tier, region and type
    metadata[key2], metadata[key3] = value2, value3
  elseif key2 or entries == 0 and key then               -- more than the one entry that every request has
    local given, last = { key, value, key2, value2, key3, value3, ... }, 2 * entries
    for i = 1, last, 2 do metadata[given[i]] = given[i + 1] end
    if given[last + 1] then headers = setmetatable({}, headers_meta) end
    for i = last + 1, #given, 2 do headers[given[i]] = given[i + 1] end
  end
  local kind = metadata.type
  if kind ~= nil and type(kind) ~= "string" then kind = tostring(kind) end
  metadata.get = nil                                     -- an entry of that name would hide the method
  return setmetatable({
    model = model, model_size = model_size, user_id = user_id, session_id = session_id, priority = priority,
    max_tokens = max_tokens, stream = stream, path = path, prompt_tokens = prompt_tokens, prompt = prompt,
    type = kind, metadata = metadata, headers = headers,
  }, request_meta)
end

local function workers_list() return setmetatable({ unpack(view_of, 1, count) }, kit.list_meta) end

local function call_route(...)
  local answer, reason = entry.route_request(request_of(...), workers_list())
  local index = answer ~= nil and index_of[answer]
  if index and reason == nil and not kit.logged then     -- what nearly every decision is
    local line = environment._rbee_line
    if math_type(line) == "integer" and line >= 0 and line <= 65535 then return index << 16 | line end
  end
  return kit.read_answer(mark(), answer, reason)
end

local function begin(wall, offset)
  kit.set_clock(wall, offset)
  environment._rbee_line, deliberate, kit.deciding = 0, false, true
  if EXPLAIN then steps, reads, read_counts = {}, {}, {} end
  budget.start(options.instructions)
end

-- Calls route_request, after taking in up to two workers' new states (0: none). Returns an integer or JSON text (see
-- kit.read_answer), a question (1, kind, text), or a negative code and a text: -2 budget, -3 error or wrong answer,
-- -4 memory, -7 an error that the script itself raised.
function host.route(touched, also_touched, wall, offset, ...)
  if touched ~= 0 then touch(touched) end
  if also_touched ~= 0 then touch(also_touched) end
  begin(wall, offset)
  return settle(run(call_route, ...))
end

local function call_failure(attempt, ...)
  local answer, reason = entry.on_failure(request_of(...), attempt, workers_list())
  return kit.read_answer(mark(), answer, reason)
end

local function fixed(what, given)
  local fields = {}
  for key in next, given do fields[key] = true end
  for key, value in next, given do if value == "" then given[key] = nil end end
  return setmetatable(given, { __index = missing(what, fields) })
end

-- Calls on_failure; as host.route. An empty text among the attempt's fields stands for nil.
function host.failed(attempt, tried, wall, offset, ...)
  begin(wall, offset)
  attempt.tried = kit.list(tried)
  return settle(run(call_failure, fixed("an attempt", attempt), ...))
end

local function call_complete(outcome, ...)
  entry.on_complete(request_of(...), outcome)
  local lines = kit.take_log()
  return lines and kit.json(lines) or 0
end

-- Calls on_complete; returns 0, what it logged as JSON text, a question, or a negative code and a text.
function host.completed(outcome, wall, offset, ...)
  begin(wall, offset)
  return settle(run(call_complete, fixed("an outcome", outcome), ...))
end

----------------------------------------------------------------------------------------- what the host asks besides

-- Under EXPLAIN: {worker id: steps} of the last decision, as JSON.
function host.steps()
  local found = {}
  for view, list in next, steps do
    local index = index_of[view]
    if index then found[fields_of[index].id] = list end
  end
  return kit.json(found)
end

function host.log()
  local lines = kit.take_log()
  return lines and kit.json(lines) or "[]"
end

function host.state() return kit.json(kit.state_entries()) end
host.clear_state, host.restore, host.state_heap = kit.clear_state, kit.restore, kit.state_heap

function host.params() return kit.json(kit.declared_params()) end
host.set_param = kit.set_param

function host.covered()
  local counts = {}
  for line, count in next, kit.covered do counts[tostring(line)] = count end    -- with [1] it would be a list
  return kit.json(counts)
end

-- The names that scripts may use, for documentation and checks.
function host.names()
  local function keys(set)
    local names = {}
    for name in next, set do names[#names + 1] = name end
    return names
  end
  return kit.json {
    globals = keys(globals), lists = keys(kit.list_methods), strings = keys(kit.strings),
    unavailable = keys(kit.unavailable),
  }
end

-- Ends the budgeted stretch, if a call ended without it.
function host.stop() budget.stop() end

function host.seed(value) math.randomseed(value) end

-- The instructions that the last call used, in steps of the hook.
function host.spent() return budget.spent() end

-- What testing.lua builds on: a file of tests is compiled like a script, and each test runs as a decision does.
kit.compile, kit.request_of, kit.workers_list = compile, request_of, workers_list
function kit.perform(instructions, task, ...)
  deliberate, asks = false, true
  budget.start(instructions)
  return settle(run(task, ...))
end

for name in options.request_headers:gmatch("[^,]+") do listed_headers[name] = true end
kit.settable = {}
for name in options.set_headers:gmatch("[^,]+") do kit.settable[name] = true end

for _, name in ipairs {
  "debug", "python", "package", "require", "io", "os", "load", "loadfile", "dofile", "collectgarbage", "coroutine",
} do
  _G[name] = nil
end

return host
