-- What a script may call beside Lua itself: time, chance, hashes, log, state, param, strategy.
--
-- Runs after lists.lua. Puts the functions into kit.globals and, for prelude.lua, what the host needs into kit.

local kit = ...

local type, next, error, tostring, select, setmetatable = type, next, error, tostring, select, setmetatable
local byte, format, gsub, lower, sub = string.byte, string.format, string.gsub, string.lower, string.sub
local gmatch, match = string.gmatch, string.match
local concat, floor, random, math_type, huge = table.concat, math.floor, math.random, math.type, math.huge
local isyieldable = coroutine.isyieldable
local charge, frozen, suggestion, clean = kit.charge, kit.frozen, kit.suggestion, kit.clean
local as_string, options, globals = kit.as_string, kit.options, kit.globals

------------------------------------------------------------------------------------------------------------ time

local now, utc_offset = 0, 0

function kit.set_clock(wall, offset) now, utc_offset = wall, offset end

-- Year, month and day of a day counted from 1970-01-01 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
local function civil(days)
  days = days + 719468
  local era = days // 146097
  local day_of_era = days - era * 146097
  local year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096) // 365
  local day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
  local shifted = (5 * day_of_year + 2) // 153
  local month = shifted < 10 and shifted + 3 or shifted - 9
  return year_of_era + era * 400 + (month <= 2 and 1 or 0), month, day_of_year - (153 * shifted + 2) // 5 + 1
end

local function today() return floor((now + utc_offset) // 86400) end

local clock_methods = {}
function clock_methods:hour() return floor((now + utc_offset) // 3600) % 24 end
function clock_methods:minute() return floor((now + utc_offset) // 60) % 60 end
function clock_methods:weekday() return (today() + 4) % 7 end      -- 0 is Sunday
function clock_methods:epoch() return now end
function clock_methods:year() return (civil(today())) end
function clock_methods:month() return (select(2, civil(today()))) end
function clock_methods:day() return (select(3, civil(today()))) end
function clock_methods:iso()
  local year, month, day = civil(today())
  local second, minutes = floor(now + utc_offset) % 86400, utc_offset // 60
  local sign = minutes < 0 and "-" or "+"
  if minutes < 0 then minutes = -minutes end
  return format("%04d-%02d-%02dT%02d:%02d:%02d%s%02d:%02d", year, month, day,
    second // 3600, second // 60 % 60, second % 60, sign, minutes // 60, minutes % 60)
end

local clock_view = frozen(setmetatable(clock_methods, { __index = function(_, key)
  error("timestamp() has no '" .. kit.shown(key) .. "'" .. suggestion(key, clock_methods), 2)
end }))

function globals.timestamp() return clock_view end

---------------------------------------------------------------------------------------------------- chance, hashes

function globals.rand(...)
  if select("#", ...) > 0 then
    error("rand() takes no arguments; for a whole number from 1 to 10 write math.random(1, 10)", 2)
  end
  return random()
end

-- FNV-1a, 64 bits over the bytes.
local function fnv(hash, text)
  local i, n = 1, #text
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
  return hash
end

-- Folded to 32 bits: the same number in every process and language.
function globals.hash_str(text)
  local hash = fnv(0xcbf29ce484222325, as_string(text, 1, "hash_str"))
  return (hash ~ (hash >> 32)) & 0xffffffff
end

-- The score of a key with an id, for pick_by_hash. FNV alone leaves ids that differ in their last letter alike in their
-- high bits, so it is mixed at the end (the finalizer of MurmurHash3).
function kit.hash_start(key) return fnv(fnv(0xcbf29ce484222325, key), "\0") end
function kit.hash_finish(start, id)
  local hash = fnv(start, id)
  hash = (hash ~ (hash >> 33)) * 0xff51afd7ed558ccd
  hash = (hash ~ (hash >> 33)) * 0xc4ceb9fe1a85ec53
  return (hash ~ (hash >> 33)) >> 1                      -- not negative
end

------------------------------------------------------------------------------------------------------------- log

local lines, line_count = {}, 0

-- A value as a person reads it: texts as they are, tables with what is in them, three deep and 20 wide.
local function display(value, depth)
  local kind = type(value)
  if kind == "string" then return depth > 0 and '"' .. value .. '"' or value end
  if kind ~= "table" or kit.is_worker(value) then return kit.shown(value) end
  if depth >= 3 then return "{...}" end
  local parts, n, length = {}, 0, #value
  for i = 1, length do
    if n >= 20 then break end
    n = n + 1
    parts[n] = display(value[i], depth + 1)
  end
  for key, item in globals.pairs(value) do
    if n >= 20 then
      parts[n + 1] = "..."
      break
    end
    if not (math_type(key) == "integer" and key >= 1 and key <= length) and type(key) ~= "table" then
      n = n + 1
      parts[n] = kit.shown(key) .. " = " .. display(item, depth + 1)
    end
  end
  return "{" .. concat(parts, ", ") .. "}"
end

function globals.log(...)
  if options.log_lines == 0 then return end
  line_count, kit.logged = line_count + 1, true
  if line_count > options.log_lines then
    lines[options.log_lines + 1] = "(more was left out: [routing] log_lines)"
    return
  end
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = display((select(i, ...)), 0) end
  local text = concat(parts, " ")
  charge(#text)
  if #text > options.log_line_chars then text = kit.cut(text, options.log_line_chars) .. "..." end
  lines[#lines + 1] = clean(text)
end
globals.print = globals.log

-- The lines written since the last call, nil when there are none.
function kit.take_log()
  if line_count == 0 then return nil end
  local taken = lines
  lines, line_count, kit.logged = {}, 0, false
  return taken[1] and taken                              -- a line that failed is counted, but is not there
end

----------------------------------------------------------------------------------------------------------- state

-- What a script keeps from one request to the next. Bounded: past state_keys or state_bytes, those entries go that were
-- written longest ago.
local entries = {}               -- by key: { value, expiry or false, when it was written }
local keys, bytes = 0, 0
local written, first, last = {}, 1, 0            -- keys in the order in which they were written; old places may be stale

local function size_of(key, value) return #key + (type(value) == "string" and #value or 8) + 64 end

local function forget(key)
  local entry = entries[key]
  if entry == nil then return end
  keys, bytes = keys - 1, bytes - size_of(key, entry[1])
  entries[key] = nil
end

-- The key that was written at this place, unless it was written again or has gone.
local function at_place(place)
  local key = written[place]
  local entry = key and entries[key]
  return entry and entry[3] == place and key or nil
end

local function make_room()
  while (keys > options.state_keys or bytes > options.state_bytes) and first <= last do
    local key = at_place(first)
    if key then forget(key) end
    written[first], first = nil, first + 1
  end
  if last - first > 2 * keys + 1000 then                 -- mostly stale: keys that are written again and again
    charge(last - first)
    local live, n = {}, 0
    for place = first, last do
      local key = at_place(place)
      if key then
        n = n + 1
        live[n] = key
      end
    end
    for place = 1, n do entries[live[place]][3] = place end
    written, first, last = live, 1, n
  end
end

-- In this order, so that want of memory in the middle leaves the counts right.
local function put(key, value, expiry)
  local entry = { value, expiry or false, last + 1 }
  written[last + 1] = key
  forget(key)
  entries[key] = entry
  keys, bytes, last = keys + 1, bytes + size_of(key, value), last + 1
  if keys > options.state_keys or bytes > options.state_bytes or last - first > 2 * keys + 1000 then make_room() end
end

local function live(key)
  local entry = entries[key]
  if entry == nil then return nil end
  if entry[2] and entry[2] <= now then
    forget(key)
    return nil
  end
  return entry[1]
end

local function state_key(self, key, name)
  if type(self) ~= "table" then error("call it with a colon: state:" .. name .. "(...)", 3) end
  if type(key) ~= "string" then error("state:" .. name .. " expects a text as its key, got " .. type(key), 3) end
  if #key > 512 then error("state:" .. name .. ": a key has at most 512 bytes, this one has " .. #key, 3) end
  return key
end

local function state_expiry(ttl_s, name)
  if ttl_s == nil then return nil end
  if type(ttl_s) ~= "number" or not (ttl_s > 0) then
    error("state:" .. name .. " expects a number of seconds above 0 as its ttl, got " .. kit.shown(ttl_s), 3)
  end
  if now + ttl_s == huge then return nil end
  return now + ttl_s
end

local function is_finite(value) return value == value and value ~= huge and value ~= -huge end

local state = {}

function state:get(key, default)
  local value = live(state_key(self, key, "get"))
  if value == nil then return default end
  return value
end

-- Keeps a text, number or boolean; nil takes the entry away.
function state:set(key, value, ttl_s)
  state_key(self, key, "set")
  local expiry, kind = state_expiry(ttl_s, "set"), type(value)
  if value == nil then
    forget(key)
    return
  end
  if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
    error("state:set keeps texts, numbers and booleans, not a " .. kind, 2)
  end
  if kind == "number" and not is_finite(value) then
    error("state:set keeps finite numbers, not " .. tostring(value), 2)
  end
  if kind == "string" and #value > options.state_value_bytes then
    error("state:set: a text has at most " .. options.state_value_bytes .. " bytes, this one has " .. #value, 2)
  end
  put(key, value, expiry)
end

-- Adds to a number, which begins at 0, and gives the new one. A ttl counts from the entry's beginning.
function state:incr(key, by, ttl_s)
  state_key(self, key, "incr")
  by = by == nil and 1 or by
  if type(by) ~= "number" then error("state:incr expects a number to add, got " .. type(by), 2) end
  local expiry, value = state_expiry(ttl_s, "incr"), live(key)
  if value ~= nil and type(value) ~= "number" then
    error("state:incr: '" .. key .. "' holds a " .. type(value) .. ", not a number", 2)
  end
  if value ~= nil then expiry = entries[key][2] end
  value = (value or 0) + by
  if not is_finite(value) then
    error("state:incr: '" .. key .. "' would be " .. tostring(value), 2)
  end
  put(key, value, expiry)
  return value
end

globals.state = frozen(setmetatable(state, { __index = function(_, key)
  error("state has no '" .. kit.shown(key) .. "'" .. suggestion(key, state) .. " (write state:get(\"name\"))", 2)
end }))

-- A list of { key, value, expiry or false } in the order in which they were written.
function kit.state_entries()
  local listed, n = {}, 0
  for place = first, last do
    local key = at_place(place)
    local entry = key and entries[key]
    if entry and not (entry[2] and entry[2] <= now) then
      n = n + 1
      listed[n] = { key, entry[1], entry[2] }
    end
  end
  return listed
end

-- What the entries take of the heap, at most: tables and places as well.
function kit.state_heap() return bytes * 2 + keys * 256 + (last - first) * 32 end

function kit.clear_state()
  entries, keys, bytes = {}, 0, 0
  written, first, last = {}, 1, 0
end

function kit.restore(key, value, expiry) put(key, value, expiry) end

----------------------------------------------------------------------------------------------------------- param

local declared, overrides = {}, {}

-- A number with a name, which can be set while the script runs: its default, or what was set, within low and high.
function globals.param(name, default, low, high)
  name = as_string(name, 1, "param")
  for position, value in next, { [2] = default or false, [3] = low or false, [4] = high or false } do
    if type(value) ~= "number" then
      error("param(name, default, min, max): argument " .. position .. " is a number, got " .. type(value), 2)
    end
    if not is_finite(value) then
      error("param(name, default, min, max): argument " .. position .. " is a finite number, got " .. tostring(value), 2)
    end
  end
  if low > high or default < low or default > high then
    error("param '" .. name .. "': the default " .. default .. " is not within " .. low .. " and " .. high, 2)
  end
  declared[name] = { default, low, high }
  local value = overrides[name]
  if value == nil then return default end
  return value < low and low or value > high and high or value
end

function kit.set_param(name, value) overrides[name] = value end
function kit.declared_params() return declared end

-------------------------------------------------------------------------------------------------------- strategy

local MOST_LIST_CHARS, MOST_WEIGHT = 1000, 1000000
local strategies, scored = {}, {}
for name in gmatch(options.strategies .. "," .. options.aliases, "[^,]+") do strategies[name] = true end
for name in gmatch(options.scored, "[^,]+") do scored[name] = true end

-- A name or a weighted list without spaces, in the spelling of the tables; what makes no sense is the script's error.
-- config/strategies.py has the rules, and reads it again.
local function spelled_strategy(text)
  if #text > MOST_LIST_CHARS then error("a list of strategies with " .. #text .. " characters", 3) end
  local names, alone, unscored, n = {}, false, nil, 0
  for item in gmatch(text .. ",", "([^,]*),") do
    local name, weight = match(item, "^%s*([^:]-)%s*:%s*(.-)%s*$")
    name = name or match(item, "^%s*(.-)%s*$")
    local spelled = gsub(lower(name), "_", "-")
    if not strategies[spelled] then
      local near = suggestion(spelled, strategies)
      error("there is no strategy '" .. name .. "'" .. (near ~= "" and near or "; known: " .. options.strategies), 3)
    end
    if weight and not (match(weight, "^%d%d?%d?%d?%d?%d?%d?$") and weight + 0 <= MOST_WEIGHT) then
      error("strategy: the weight '" .. weight .. "' of " .. name .. ": expected a whole number from 0 to 1000000", 3)
    end
    if not weight or weight + 0 > 0 then
      n = n + 1
      alone = alone or sub(spelled, 1, 3) == "slo"
      if not scored[spelled] then unscored = name end
    end
    names[#names + 1] = weight and spelled .. ":" .. weight or spelled
  end
  if n == 0 then error("strategy: every weight of '" .. text .. "' is 0", 3) end
  if n > 1 and unscored and not alone then error("strategy: " .. unscored .. " cannot be part of a list", 3) end
  return concat(names, ",")
end

-- The function of a built-in strategy: strategy("least-request")(request, workers) gives one of the workers, or nil.
function globals.strategy(name)
  local spelled = spelled_strategy(as_string(name, 1, "strategy"))
  return function(request, workers)
    if type(workers) ~= "table" then
      error("strategy(\"" .. spelled .. "\") is called with (request, workers), got " .. type(workers) .. " as workers", 2)
    end
    if not kit.deciding then error("a strategy can be asked only while a request is decided", 2) end
    if not isyieldable() then error("a strategy cannot be asked inside of a text function's callback", 2) end
    local indexes, n = {}, #workers
    if n == 0 then return nil end
    charge(n)
    for i = 1, n do
      local index = kit.index(workers[i])
      if not index then error("strategy(\"" .. spelled .. "\"): item " .. i .. " of the list is no worker", 2) end
      indexes[i] = index
    end
    local line = options.explain and kit.script_line(2)
    local index = kit.ask("strategy", spelled .. " " .. concat(indexes, ","))
    local taken = index and kit.worker(index)
    if options.explain then
      kit.start_reads()
      for i = 1, n do kit.note(workers[i], 'strategy "' .. spelled .. '"', line, taken) end
    end
    return taken
  end
end
