-- What a routing script may call, written in Lua, and the functions by which the host calls the script.
--
-- Runs once in each new Lua state, after sandbox.lua. Called by sandbox.py only. No Python object ever enters Lua:
-- workers are Lua tables that the host updates in place, scripts see read-only views of them, and an answer leaves as
-- one integer, worker index * 65536 + script line.

local sandbox, options = ...

local type, next, ipairs, error, pcall, xpcall, load, setmetatable, tostring, rawget, rawset =
      type, next, ipairs, error, pcall, xpcall, load, setmetatable, tostring, rawget, rawset
local concat, unpack, move, floor, random, math_type =
      table.concat, table.unpack, table.move, math.floor, math.random, math.type
local byte, find, match = string.byte, string.find, string.match
local getinfo = debug.getinfo
local budget, charge, frozen, read_only, error_text =
      sandbox.budget, sandbox.charge, sandbox.frozen, sandbox.read_only, sandbox.error_text
local EXPLAIN = options.explain
local NO_MEMORY = "not enough memory"

--------------------------------------------------------------------------------------------------------- workers

local route_request, environment, chunk_name, chunk_source        -- the loaded script
local deliberate = false         -- did the script itself call error or assert?
local count = 0                  -- workers the host has put
local fields_of, view_of = {}, {}                -- by index
local index_of = {}                              -- by view: an answer is checked against this, so look-alikes fail
local index_by_id = {}
local known = {}                                 -- by id: { view, fields }; a script that kept a view keeps a true one
local why = {}                                   -- by view, under EXPLAIN: why it dropped out

local metadata_methods = {}
function metadata_methods:get(key, default)
  if type(self) ~= "table" then error('call it with a colon: metadata:get("key", default)', 2) end
  local value = self[key]
  if value == nil or value == metadata_methods.get then return default end
  return value
end
local metadata_meta = { __index = metadata_methods }

local list_methods = {}
function list_methods:len() return #self end
function list_methods:is_empty() return #self == 0 end
function list_methods:first() return self[1] end
function list_methods:last()
  local n = #self
  if n > 0 then return self[n] end
end
function list_methods:contains(value)
  for i = 1, #self do if self[i] == value then return true end end
  return false
end
local names_meta = { __index = list_methods }

-- A fixed list of names (a worker's models): the negative indexes are laid in, so reading one costs a table access.
local function names(values)
  local data, set, n = setmetatable({}, names_meta), {}, #values
  for i = 1, n do
    data[i], data[i - n - 1], set[values[i]] = values[i], values[i], true
  end
  data.contains = function(view, name)
    if type(view) ~= "table" then error("call it with a colon: models:contains(name)", 2) end
    return set[name] == true
  end
  return setmetatable({}, {
    __index = data, __newindex = read_only, __len = function() return n end,
    __pairs = function(view)
      return function(_, i) i = (i or 0) + 1 if i <= n then return i, data[i] end end, view, nil
    end,
  })
end

local host = {}

-- Registers worker `index` (from 1); a worker of the same id keeps the view that scripts may hold.
function host.put(index, fields, models, metadata)
  local id = fields.id
  local entry = known[id]
  if not entry then
    local data = {}
    entry = { fields = data }
    entry.view = setmetatable({}, {
      __index = data, __newindex = read_only,
      __pairs = function(view)
        return function(_, key) return next(data, key) end, view, nil
      end,
      __tostring = function() return "worker(" .. tostring(data.id) .. ")" end,
    })
    known[id] = entry
  end
  local data = entry.fields
  for key in next, data do data[key] = nil end
  for key, value in next, fields do data[key] = value end
  data.models = names(models)
  metadata.get = nil                                     -- an entry of that name would hide the method
  data.metadata = frozen(setmetatable(metadata, metadata_meta))
  fields_of[index], view_of[index] = data, entry.view
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

local STATUS = { [0] = "ready", "busy", "offline" }

-- Takes a worker's new state, packed into one integer: index << 32 | in_flight << 2 | status.
local function touch(packed)
  local data = fields_of[packed >> 32]
  local in_flight = packed >> 2 & 0x3fffffff
  data.status, data.in_flight, data.load = STATUS[packed & 3], in_flight, in_flight / data.capacity
end
host.touch = touch

----------------------------------------------------------------------------------------------------- collections

local function shown(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" or kind == "boolean" or kind == "nil" then return tostring(value) end
  if index_of[value] then return tostring(value) end
  return kind
end

local function need_list(self, name)
  if type(self) ~= "table" then error("call it with a colon: workers:" .. name .. "(...)", 3) end
end

-- The line of the script that is running: of the innermost function of the script on the stack. A function that was
-- left by `return helper(...)` is not there any more; then the mark of that return tells.
local function script_line(level)
  for i = level, level + 20 do
    local info = getinfo(i, "Sl")
    if not info then break end
    if info.source == chunk_source and info.currentline > 0 then return info.currentline end
  end
  return environment and environment._rbee_line or 0
end

-- A comparator may answer with a boolean, or with a number as in other languages (negative: a goes first).
local function goes_first(answer)
  if type(answer) == "number" then return answer < 0 end
  return answer and true or false
end

local function less_by_value(a, b)
  local kind_a, kind_b = type(a), type(b)
  if kind_a == kind_b and (kind_a == "number" or kind_a == "string") then return a < b end
  if a == nil then return false end
  if b == nil then return true end                       -- missing values go last
  error("cannot compare a " .. kind_a .. " with a " .. kind_b, 0)
end

local function as_less(order, name)
  if order == nil then return less_by_value end
  if type(order) == "string" then
    return function(a, b) return less_by_value(a[order], b[order]) end
  end
  if type(order) ~= "function" then error(name .. " expects a function or a field name", 4) end
  return order
end

-- Stable merge sort of list[1..n] over insertion-sorted runs. It ends after O(n log n) comparisons and raises nothing
-- of its own, whatever the comparator answers (table.sort raises "invalid order function" for `<=`).
local function merge_sort(list, n, less)
  local run = 8
  for low = 1, n, run do
    local high = low + run - 1
    if high > n then high = n end
    for i = low + 1, high do
      local value, j = list[i], i - 1
      while j >= low and goes_first(less(value, list[j])) do
        list[j + 1] = list[j]
        j = j - 1
      end
      list[j + 1] = value
    end
  end
  local from, to = list, {}
  while run < n do
    for low = 1, n, 2 * run do
      local middle, high = low + run, low + 2 * run
      if middle > n + 1 then middle = n + 1 end
      if high > n + 1 then high = n + 1 end
      local left, right, k = low, middle, low
      while left < middle and right < high do
        if goes_first(less(from[right], from[left])) then
          to[k] = from[right]
          right = right + 1
        else
          to[k] = from[left]
          left = left + 1
        end
        k = k + 1
      end
      while left < middle do to[k] = from[left] left = left + 1 k = k + 1 end
      while right < high do to[k] = from[right] right = right + 1 k = k + 1 end
    end
    from, to, run = to, from, run * 2
  end
  return from
end

local methods = {}
for name, method in next, list_methods do methods[name] = method end
local list_meta = {}
list_meta.__index = function(list, key)
  local method = methods[key]
  if method then return method end
  if type(key) == "number" then
    if key < 0 then
      local position = #list + key + 1
      return position > 0 and list[position] or nil
    end
    if key == 0 then error("lists start at [1] in Lua; there is no [0]", 2) end
    return nil
  end
  error("a list has no '" .. shown(key) .. "'; it has filter, sort_by, min_by, max_by, first, last, len, is_empty, contains", 2)
end

function methods:filter(keep)
  need_list(self, "filter")
  if type(keep) ~= "function" then error("filter expects a function", 2) end
  local kept, n = {}, 0
  for i = 1, #self do
    local item = self[i]
    if keep(item) then
      n = n + 1
      kept[n] = item
    elseif EXPLAIN and not why[item] then
      why[item] = "filter at line " .. script_line(2)
    end
  end
  return setmetatable(kept, list_meta)
end

-- What sort_by returns until its order is needed: reading [1] alone is one pass over the list; anything else sorts.
-- `self` keeps what to sort under keys that no script can spell.
local ITEMS, ORDER, LENGTH, FIRST, LINE = {}, {}, {}, {}, {}
local lazy_meta = {}

local function sort_now(list)
  local items, n, first = list[ITEMS], list[LENGTH], rawget(list, FIRST)
  local from = 0
  if first ~= nil then                           -- what was given out as the first stays the first
    for i = 1, n do
      if items[i] == first then
        move(items, 1, i - 1, 2)
        items[1], from = first, 1
        break
      end
    end
  end
  local sorted = merge_sort(move(items, from + 1, n, 1, {}), n - from, list[ORDER])
  if from == 1 then sorted = move(sorted, 1, n - 1, 2, { first }) end
  list[ITEMS], list[ORDER], list[LENGTH], list[FIRST], list[LINE] = nil, nil, nil, nil, nil
  for i = 1, n do rawset(list, i, sorted[i]) end
  return setmetatable(list, list_meta)
end

local function first_in_order(list)
  local first = rawget(list, FIRST)
  if first ~= nil then return first end
  local items, less, n = list[ITEMS], list[ORDER], list[LENGTH]
  first = items[1]
  for i = 2, n do
    local item = items[i]
    local answer = less(item, first)
    if answer and (answer == true or goes_first(answer)) then first = item end
  end
  list[FIRST] = first
  if EXPLAIN then
    for i = 1, n do
      local item = items[i]
      if item ~= first and not why[item] then
        why[item] = "sort_by at line " .. list[LINE] .. " put " .. shown(first) .. " first"
      end
    end
  end
  return first
end

function lazy_meta.__index(list, key)
  if key == 1 then return first_in_order(list) end
  if key == "first" or key == "len" or key == "is_empty" then return methods[key] end
  if type(key) == "table" then return nil end
  return sort_now(list)[key]
end
function lazy_meta.__newindex(list, key, value)
  if type(key) == "table" then rawset(list, key, value) else sort_now(list)[key] = value end
end
function lazy_meta.__len(list) return list[LENGTH] end
function lazy_meta.__pairs(list) return next, sort_now(list), nil end

function methods:sort_by(order)
  need_list(self, "sort_by")
  local n = #self
  return setmetatable({
    [ITEMS] = move(self, 1, n, 1, {}), [ORDER] = as_less(order, "sort_by"), [LENGTH] = n, [LINE] = EXPLAIN and script_line(2) or nil,
  }, lazy_meta)
end

local function best(self, key, name, better)
  need_list(self, name)
  local line = EXPLAIN and script_line(3)
  local by_function = type(key) == "function"
  if not by_function and type(key) ~= "string" then error(name .. " expects a function or a field name", 3) end
  local found, found_value
  for i = 1, #self do
    local item = self[i]
    local value
    if by_function then value = key(item) else value = item[key] end
    if value ~= nil and value == value and (found == nil or better(value, found_value)) then
      found, found_value = item, value
    end
  end
  if EXPLAIN then
    for i = 1, #self do
      local item = self[i]
      if item ~= found and not why[item] then why[item] = name .. " at line " .. line .. " took " .. shown(found) end
    end
  end
  return found
end
function methods:min_by(key) return (best(self, key, "min_by", function(a, b) return a < b end)) end
function methods:max_by(key) return (best(self, key, "max_by", function(a, b) return a > b end)) end

--------------------------------------------------------------------------------------------------------- helpers

local now, utc_offset = 0, 0
local clock_methods = {}
function clock_methods:hour() return floor((now + utc_offset) // 3600) % 24 end
function clock_methods:minute() return floor((now + utc_offset) // 60) % 60 end
function clock_methods:weekday() return (floor((now + utc_offset) // 86400) + 4) % 7 end      -- 0 is Sunday
function clock_methods:epoch() return now end
local clock_view = frozen(clock_methods)

-- FNV-1a, 64 bits over the bytes, folded to 32: the same number in every process and language.
local function hash_str(text)
  text = sandbox.as_string(text, 1, "hash_str")
  local hash, i, n = 0xcbf29ce484222325, 1, #text
  charge(n)
  while i + 7 <= n do
    local a, b, c, d, e, f, g, h = byte(text, i, i + 7)
    hash = (hash ~ a) * 0x100000001b3 hash = (hash ~ b) * 0x100000001b3
    hash = (hash ~ c) * 0x100000001b3 hash = (hash ~ d) * 0x100000001b3
    hash = (hash ~ e) * 0x100000001b3 hash = (hash ~ f) * 0x100000001b3
    hash = (hash ~ g) * 0x100000001b3 hash = (hash ~ h) * 0x100000001b3
    i = i + 8
  end
  for j = i, n do hash = (hash ~ byte(text, j)) * 0x100000001b3 end
  return (hash ~ (hash >> 32)) & 0xffffffff
end

local globals = sandbox.globals
globals.tostring = shown
function globals.error(value, level)
  deliberate, level = true, level or 1
  error(value, level == 0 and 0 or level + 1)
end
function globals.assert(value, message, ...)
  if value then return value, message, ... end
  deliberate = true
  error(message == nil and "assertion failed!" or message, 2)
end
globals.hash_str = hash_str
globals.rand = function() return random() end
globals.timestamp = function() return clock_view end
function sandbox.tables.sort(list, order)
  need_list(list, "sort")
  local n, items = #list, {}
  for i = 1, n do items[i] = list[i] end
  local sorted = merge_sort(items, n, as_less(order, "table.sort"))
  for i = 1, n do list[i] = sorted[i] end
end

for name in next, globals do sandbox.unavailable[name] = nil end
setmetatable(globals, { __index = function(_, name)
  if sandbox.unavailable[name] then error("'" .. name .. "' is not available in routing scripts", 2) end
  return nil
end })

------------------------------------------------------------------------------------------------- host entry points

-- What an error becomes on its way out: told at the script's line, also where a helper or a C function raised it.
local function told_at_script(problem)
  if type(problem) ~= "string" then return problem end
  if deliberate or find(problem, chunk_name .. ":", 1, true) == 1 then return problem end
  local text = match(problem, "^sandbox%.lua:%d+: (.*)") or match(problem, "^prelude%.lua:%d+: (.*)") or problem
  local line = script_line(2)
  return (line > 0 and chunk_name .. ":" .. line .. ": " or "") .. text
end

-- Compiles and runs a script. Returns 0, or a code and a text:
-- 1 syntax, 2 budget, 3 error while it ran, 4 memory, 5 no route_request.
function host.load(source, name)
  route_request, chunk_name, chunk_source, deliberate = nil, name, "=" .. name, false
  local meta = { __index = globals }
  environment = setmetatable({ _rbee_line = 0 }, meta)
  local chunk, syntax_error = load(source, chunk_source, "t", environment)
  if not chunk then return 1, error_text(syntax_error) end
  budget.reset_depth()
  budget.start(options.load_instructions)
  local ok, problem = xpcall(chunk, told_at_script)
  local ran_out = budget.stop()
  if not ok then
    if problem == NO_MEMORY then return 4, NO_MEMORY end
    return ran_out and 2 or 3, error_text(problem)
  end
  local found = rawget(environment, "route_request")
  if type(found) ~= "function" then return 5, "the script defines no function route_request(request, workers)" end
  meta.__newindex = function(_, name)
    error("assignment to the undeclared global '" .. shown(name) .. "'; write: local " .. shown(name), 2)
  end
  route_request = found
  return 0
end

local function call(model, model_size, user_id, priority, max_tokens, stream, ...)
  local metadata, pairs_given = setmetatable({}, metadata_meta), { ... }
  for i = 1, #pairs_given, 2 do metadata[pairs_given[i]] = pairs_given[i + 1] end
  metadata.get = nil                                     -- an entry of that name would hide the method
  return (route_request(
    {
      model = model, model_size = model_size, user_id = user_id, priority = priority, max_tokens = max_tokens,
      stream = stream, metadata = metadata,
    },
    setmetatable({ unpack(view_of, 1, count) }, list_meta)
  ))
end

-- Calls route_request, after taking in up to two workers' new states (0: none). Returns worker index * 65536 + line (index 0: the script returned nil), or a negative code
-- and a text: -2 budget, -3 error, -4 memory, -5 not a worker, -6 no script, -7 an error that the script itself raised.
function host.route(touched, also_touched, wall, offset, ...)
  if not route_request then return -6, "no script is loaded" end
  if touched ~= 0 then touch(touched) end
  if also_touched ~= 0 then touch(also_touched) end
  now, utc_offset = wall, offset
  environment._rbee_line, deliberate = 0, false
  if EXPLAIN then why = {} end
  budget.reset_depth()
  budget.start(options.instructions)
  local ok, answer = xpcall(call, told_at_script, ...)
  local ran_out = budget.stop()
  local line = environment._rbee_line
  if math_type(line) ~= "integer" or line < 0 or line > 65535 then line = 0 end
  if ok then
    if answer == nil then return line end
    local index = index_of[answer]
    if index then return index << 16 | line end
    local place = line > 0 and chunk_name .. ":" .. line .. ": " or ""
    if type(answer) == "string" then
      index = index_by_id[answer]
      if index then return index << 16 | line end
      return -5, place .. "route_request returned the unknown worker id '" .. error_text(answer) .. "'"
    end
    return -5, place .. "route_request returned a " .. type(answer) .. ", expected a worker, a worker id or nil"
  end
  if answer == NO_MEMORY then return -4, NO_MEMORY end
  if ran_out then return -2, error_text(answer) end
  return deliberate and -7 or -3, error_text(answer)
end

-- Under EXPLAIN: why each worker dropped out of the last decision, as lines "id\treason".
function host.reasons()
  local lines = {}
  for view, reason in next, why do
    if index_of[view] then lines[#lines + 1] = tostring(view.id) .. "\t" .. reason end
  end
  return concat(lines, "\n")
end

function host.seed(value) math.randomseed(value) end

for _, name in ipairs { "debug", "python", "package", "require", "io", "os", "load", "loadfile", "dofile", "collectgarbage", "coroutine" } do
  _G[name] = nil
end

return host
