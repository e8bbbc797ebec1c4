-- The sandbox: a budget that cannot be swallowed, and the standard library with its sharp parts off.
--
-- Runs once in each new Lua state, with Lua's full globals, before the other files of this folder and before any
-- script. Called by sandbox.py; returns the kit that the other files share. Two rules hold it together:
--
--  * whatever could catch, defer or hide an error (pcall, xpcall, coroutines, setmetatable and so __gc and __close,
--    load) is absent, so the error that the budget raises always reaches the host;
--  * whatever can run long in C, where the hook is not called, is charged for or bounded before it starts.
--
-- options: { instructions, load_instructions, cpu_s, load_cpu_s, coverage, ... }: see sandbox.py

local options = ...

local type, pairs, next, select, error, setmetatable, tostring, tonumber =
      type, pairs, next, select, error, setmetatable, tostring, tonumber
local byte, find, format, gmatch, gsub, match, rep, sub =
      string.byte, string.find, string.format, string.gmatch, string.gsub, string.match, string.rep, string.sub
local lower, upper, reverse = string.lower, string.upper, string.reverse
local concat, insert, remove, sort, unpack = table.concat, table.insert, table.remove, table.sort, table.unpack
local floor, math_type, utf8_len = math.floor, math.type, utf8.len
local clock, sethook, getinfo, running_thread = os.clock, debug.sethook, debug.getinfo, coroutine.running
local collect = collectgarbage

---------------------------------------------------------------------------------------------------------- budget

-- Each call of the hook costs about a microsecond, so it comes seldom. One instruction may copy or hash a text as long
-- as memory_bytes allow; so when the heap has grown a lot, the hook comes often until the call ends.
local HOOK_EVERY, HOOK_OFTEN = 1000, 20          -- instructions
local MUCH_KIB = 512
local running, fuel, cpu_started, often = false, 0, nil, false   -- cpu_started: nil, false after one hook, then a time
local heap_kib, watched = 0, nil                 -- at the beginning of the stretch; the thread that has the hook
local given = 0                                  -- the fuel that the stretch began with
local callback_depth = 0                         -- gsub with a function nests on the C stack
local loading, cpu_s = false, 0                  -- whoever loads a script waits for it: data may fill the heap then

local kit = {}                   -- what the files of this folder share; lists.lua puts kit.list there
local budget = { EXCEEDED = "budget exceeded" }
local covered = {}               -- lines of the script that were reached, under options.coverage
local on_hook

local function hook_every(instructions)
  sethook(watched, on_hook, options.coverage and "l" or "", instructions)
end

local function exceeded()
  running = false
  error(budget.EXCEEDED, 0)
end

function on_hook(event, line)
  if event == "line" then
    if line and getinfo(2, "S").source == budget.chunk_source then covered[line] = (covered[line] or 0) + 1 end
    return
  end
  if not running then return end
  fuel = fuel - (often and HOOK_OFTEN or HOOK_EVERY)
  if fuel <= 0 then exceeded() end
  if cpu_started == nil then
    cpu_started = false                          -- a short decision never reads the clock, which is a system call
  elseif not cpu_started then
    cpu_started = clock()
  elseif clock() - cpu_started > cpu_s then
    exceeded()
  end
  if not often and not loading and collect("count") - heap_kib > MUCH_KIB then
    often = true
    hook_every(HOOK_OFTEN)
  end
end

-- Takes `cost` instructions off the budget for work done in C, where on_count is not called.
local function charge(cost)
  if not running then return end
  fuel = fuel - cost
  if fuel <= 0 then exceeded() end
end
budget.charge = charge

-- Lua keeps hooks by coroutine, so each one that runs a script's code is given its own; without one, the main thread.
function budget.watch(thread)
  watched = thread or running_thread()
  hook_every(HOOK_EVERY)
end

function budget.start(instructions, is_load)
  loading, cpu_s = is_load, is_load and options.load_cpu_s or options.cpu_s
  fuel, cpu_started, given, heap_kib = instructions, nil, instructions, collect("count")
  if often then
    often = false
    hook_every(HOOK_EVERY)
  end
  callback_depth = 0
  running = true                                 -- last: the hook may come between any two instructions
end

-- What the stretch has used, or did use if it has ended.
function budget.spent() return given - fuel end

-- Ends the budgeted stretch; true when the budget had run out.
function budget.stop()
  local ran_out = not running
  running = false
  return ran_out
end

--------------------------------------------------------------------------------------------------------- helpers

local function clean(text)
  if utf8_len(text) then return text end
  return (gsub(text, "[\128-\255]", "?"))
end

-- The beginning of a text, at most `most` bytes, never ending inside of a character.
local function cut(text, most)
  if #text <= most then return text end
  while most > 0 do
    local next_byte = byte(text, most + 1)
    if next_byte < 128 or next_byte > 191 then break end
    most = most - 1
  end
  return sub(text, 1, most)
end

local function read_only(_, key)
  error("cannot set '" .. kit.shown(key) .. "': this object is read-only", 2)
end

-- An iterator over a table and how it begins, in an order that depends on nothing but its keys: numbers and texts, each
-- from the least to the greatest, then all others. Lua itself seeds the hashes of texts anew for each state, so that
-- its order is another one in each process: a decision could not be made again in a replay or a simulation.
local function ordered(data)
  local numbers, texts, others, ascending, bytes = {}, {}, {}, true, 0
  for key in next, data do
    local kind = type(key)
    if kind == "number" then
      local n = #numbers
      if n > 0 and key < numbers[n] then ascending = false end
      numbers[n + 1] = key
    elseif kind == "string" then
      texts[#texts + 1] = key
      bytes = bytes + #key
    else
      others[#others + 1] = key
    end
  end
  if #texts < 2 and #others == 0 and (#texts == 0 or #numbers == 0) and ascending then return next, data, nil end
  if not ascending then
    charge(#numbers * 8)
    sort(numbers)
  end
  if #texts > 1 then
    charge(#texts * 8 + bytes)
    sort(texts)
  end
  local keys = numbers
  for i = 1, #texts do keys[#keys + 1] = texts[i] end
  for i = 1, #others do keys[#keys + 1] = others[i] end
  local i = 0
  return function()
    local key, value
    repeat                                                     -- a key may have been set to nil meanwhile
      i = i + 1
      key = keys[i]
      if key == nil then return nil end
      value = data[key]
    until value ~= nil
    return key, value
  end
end

-- The same for the `pairs` of a view of it, which must not hand out the table itself.
local function ordered_view(data, view)
  local iterate = ordered(data)
  if iterate ~= next then return iterate, view, nil end
  return function(_, key) return next(data, key) end, view, nil
end

-- `pairs` for scripts. What is no table is told in the words of Lua's own.
local function ordered_pairs(...)
  local iterate, state, first = pairs(...)
  if iterate == next and type(state) == "table" then return ordered(state) end
  return iterate, state, first
end

-- A view of `data` that can be read, measured and walked but not changed; `pairs` never hands out `data` itself.
local function frozen(data)
  return setmetatable({}, {
    __index = data,
    __newindex = read_only,
    __len = function() return #data end,
    __pairs = function(view) return ordered_view(data, view) end,
  })
end

-- An error value as short, valid UTF-8 text: the host never sees a table, and never half a character.
local function error_text(value)
  local kind = type(value)
  local text
  if kind == "string" then text = value
  elseif kind == "number" then text = tostring(value)
  else text = "the error value is a " .. kind end
  return clean(cut(text, 400))
end

-- The name in `names` (a set) that is the fewest changes of letters away from `wanted`; nil when none is near.
local function nearest(wanted, names)
  local n = #wanted
  if n > 40 then return nil end
  local best, best_distance = nil, n // 3 + 2
  for name in next, names do
    local m = #name
    if m - n < best_distance and n - m < best_distance then
      charge(n * m)
      local row = {}
      for j = 0, m do row[j] = j end
      for i = 1, n do
        local diagonal, c = row[0], byte(wanted, i)
        row[0] = i
        for j = 1, m do
          local cost = diagonal + (c == byte(name, j) and 0 or 1)
          diagonal = row[j]
          if diagonal + 1 < cost then cost = diagonal + 1 end
          if row[j - 1] + 1 < cost then cost = row[j - 1] + 1 end
          row[j] = cost
        end
      end
      if row[m] < best_distance or (row[m] == best_distance and best and name < best) then
        best, best_distance = name, row[m]
      end
    end
  end
  return best
end

-- "; did you mean 'load'?", or nothing.
local function suggestion(wanted, names)
  local near = type(wanted) == "string" and nearest(wanted, names)
  return near and "; did you mean '" .. near .. "'?" or ""
end

local function bad_argument(position, name, expected, got, level)
  error("bad argument #" .. position .. " to '" .. name .. "' (" .. expected .. " expected, got " .. got .. ")", level)
end

local function as_string(value, position, name)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "number" then return tostring(value) end
  bad_argument(position, name, "string", kind, 4)
end

-- Reading a text as a number takes time with its length, and nobody means a long one.
local LONGEST_NUMBER = 200
local function to_number(value, ...)
  if type(value) == "string" and #value > LONGEST_NUMBER then return nil end
  return tonumber(value, ...)
end

local function as_integer(value, position, name)
  local number = to_number(value)
  if number and math_type(number) == "integer" then return number end
  if number and number == floor(number) and number > -2^53 and number < 2^53 then return floor(number) end
  bad_argument(position, name, "integer", type(value), 4)
end

---------------------------------------------------------------------------------------------------------- string

local MAX_TEXT = 65536           -- bytes any string function may take for a pattern, or build
local MAX_PATTERN = 256
local MAX_PATTERN_STEPS = 4e6    -- about 16 ms of matching
local pattern_cache, pattern_count = {}, 0

-- How a pattern can backtrack: unbounded quantifiers, optional items, anchored or not.
local function pattern_shape(pattern)
  local shape = pattern_cache[pattern]
  if shape then return shape end
  local length = #pattern
  if length > MAX_PATTERN then error("the pattern is longer than " .. MAX_PATTERN .. " bytes", 5) end
  local unbounded, optional, i = 0, 0, 1
  while i <= length do
    local c = byte(pattern, i)
    if c == 37 then                                       -- %
      if byte(pattern, i + 1) == 98 then unbounded = unbounded + 1 end   -- %b
      i = i + 2
    elseif c == 91 then                                   -- [set]
      local j = i + 1
      if byte(pattern, j) == 94 then j = j + 1 end        -- ^
      if byte(pattern, j) == 93 then j = j + 1 end        -- a leading ] belongs to the set
      while j <= length and byte(pattern, j) ~= 93 do
        if byte(pattern, j) == 37 then j = j + 1 end
        j = j + 1
      end
      i = j + 1
    else
      if c == 42 or c == 43 or c == 45 then unbounded = unbounded + 1      -- * + -
      elseif c == 63 then optional = optional + 1 end                      -- ?
      i = i + 1
    end
  end
  shape = { unbounded = unbounded, optional = optional, anchored = byte(pattern, 1) == 94 }
  if pattern_count >= 64 then pattern_cache, pattern_count = {}, 0 end
  pattern_cache[pattern], pattern_count = shape, pattern_count + 1
  return shape
end

-- Refuses a match that could take too long, and charges for the others by their worst case.
local function guard_pattern(text, pattern, tries_everywhere)
  local length = #text
  if length > MAX_TEXT then error("the text is too long for pattern matching", 4) end
  local shape = pattern_shape(pattern)
  local exponent = shape.unbounded + ((shape.anchored and not tries_everywhere) and 0 or 1)
  local steps = (length + 1.0) ^ exponent * 2.0 ^ shape.optional + length + #pattern
  if steps > MAX_PATTERN_STEPS then
    error("the pattern is too expensive for a text of " .. length .. " bytes", 4)
  end
  charge(floor(steps / 8))
end

local function guard_plain(text, part)
  if #text * 1.0 * #part > 1e6 then error("the text is too long to search", 4) end
  charge(#text)
end

local function guard_span(length, first, last, name)
  if first < 0 then first = length + first + 1 end
  if last < 0 then last = length + last + 1 end
  if last > length then last = length end
  if first < 1 then first = 1 end
  if last - first > 255 then error("'" .. name .. "' takes at most 256 characters at once", 3) end
  charge(8)
  return first, last
end

local strings = { char = string.char }

function strings.len(text) return #as_string(text, 1, "len") end
function strings.sub(text, first, last)
  text = as_string(text, 1, "sub")
  charge(#text // 16)
  return sub(text, first, last)
end

function strings.byte(text, first, last)
  text = as_string(text, 1, "byte")
  first = as_integer(first or 1, 2, "byte")
  first, last = guard_span(#text, first, as_integer(last or first, 3, "byte"), "byte")
  return byte(text, first, last)
end

for name, original in next, { upper = upper, lower = lower, reverse = reverse } do
  strings[name] = function(text)
    text = as_string(text, 1, name)
    charge(#text)
    return original(text)
  end
end

function strings.rep(text, count, separator)
  text = as_string(text, 1, "rep")
  count = as_integer(count, 2, "rep")
  separator = separator and as_string(separator, 3, "rep") or ""
  local each = #text + #separator
  if count <= 0 or each == 0 then return "" end
  if count > MAX_TEXT or each * count > MAX_TEXT then error("the result of string.rep is too long", 2) end
  charge(each * count)
  return rep(text, count, separator)
end

function strings.format(template, ...)
  template = as_string(template, 1, "format")
  if #template > 1024 then error("the format is too long", 2) end
  if find(gsub(template, "%%%%", ""), "%%[^%a%%]*p") then error("%p is not available in routing scripts", 2) end
  local total = #template
  for i = 1, select("#", ...) do
    local value = (select(i, ...))
    local kind = type(value)
    if kind == "string" then total = total + #value * 4
    elseif kind ~= "number" and kind ~= "boolean" and kind ~= "nil" then
      error("cannot format a " .. kind, 2)
    end
  end
  if total > MAX_TEXT then error("the result of string.format is too long", 2) end
  charge(total + 256)
  return format(template, ...)
end

function strings.find(text, pattern, init, plain)
  text, pattern = as_string(text, 1, "find"), as_string(pattern, 2, "find")
  if plain then guard_plain(text, pattern) else guard_pattern(text, pattern) end
  return find(text, pattern, init, plain)
end

function strings.match(text, pattern, init)
  text, pattern = as_string(text, 1, "match"), as_string(pattern, 2, "match")
  guard_pattern(text, pattern)
  return match(text, pattern, init)
end

function strings.gmatch(text, pattern)
  text, pattern = as_string(text, 1, "gmatch"), as_string(pattern, 2, "gmatch")
  guard_pattern(text, pattern, true)
  local iterate = gmatch(text, pattern)
  return function()
    charge(4)
    return iterate()
  end
end


function strings.gsub(text, pattern, replacement, count)
  text, pattern = as_string(text, 1, "gsub"), as_string(pattern, 2, "gsub")
  guard_pattern(text, pattern, true)
  local kind = type(replacement)
  if kind == "string" or kind == "number" then
    replacement = tostring(replacement)
    local _, captures = gsub(replacement, "%%[0-9]", "")
    local longest = (#text + 1) * (#replacement + 1) + captures * (#text + 1) * (#text + 1)
    if longest > 1e6 then error("the result of gsub could be too long", 2) end
    charge(floor(longest / 8))
  end
  if kind ~= "function" then return gsub(text, pattern, replacement, count) end
  if callback_depth >= 4 then error("gsub callbacks are nested too deep", 2) end
  callback_depth = callback_depth + 1
  local result, matches = gsub(text, pattern, replacement, count)
  callback_depth = callback_depth - 1
  return result, matches
end

function strings.starts_with(text, prefix)
  text, prefix = as_string(text, 1, "starts_with"), as_string(prefix, 2, "starts_with")
  return sub(text, 1, #prefix) == prefix
end

function strings.ends_with(text, suffix)
  text, suffix = as_string(text, 1, "ends_with"), as_string(suffix, 2, "ends_with")
  return suffix == "" or sub(text, -#suffix) == suffix
end

function strings.contains(text, part)
  text, part = as_string(text, 1, "contains"), as_string(part, 2, "contains")
  guard_plain(text, part)
  return find(text, part, 1, true) ~= nil
end

function strings.trim(text)
  text = as_string(text, 1, "trim")
  charge(#text)
  local first = find(text, "%S")
  if not first then return "" end
  local last = #text
  while find(sub(text, last, last), "%s") do last = last - 1 end      -- "^%s*(.-)%s*$" would be quadratic
  return sub(text, first, last)
end

-- The parts of `text` between the separators, which are plain text; without one, the words between white space.
function strings.split(text, separator)
  text = as_string(text, 1, "split")
  charge(#text * 2)
  local parts, n = {}, 0
  if separator == nil then
    for word in gmatch(text, "%S+") do
      n = n + 1
      parts[n] = word
    end
    return kit.list(parts)
  end
  separator = as_string(separator, 2, "split")
  if separator == "" then error("split expects a separator that is not empty", 2) end
  guard_plain(text, separator)
  local from = 1
  while true do
    local at, to = find(text, separator, from, true)
    n = n + 1
    parts[n] = sub(text, from, at and at - 1 or -1)
    if not at then return kit.list(parts) end
    from = to + 1
  end
end

----------------------------------------------------------------------------------------- table, math, utf8

local tables = { pack = table.pack }

local function as_table(value, name)
  if type(value) ~= "table" then bad_argument(1, name, "table", type(value), 4) end
  return value
end

function tables.insert(list, ...)
  charge(#as_table(list, "insert") // 4 + 1)
  return insert(list, ...)
end

function tables.remove(list, position)
  charge(#as_table(list, "remove") // 4 + 1)
  return remove(list, position)
end

function tables.concat(list, separator, first, last)
  charge(#as_table(list, "concat") + 1)
  local text = concat(list, separator, first, last)
  charge(#text)
  return text
end

function tables.unpack(list, first, last)
  first, last = first or 1, last or #as_table(list, "unpack")
  if last - first > 255 then error("unpack gives at most 256 values", 2) end
  return unpack(list, first, last)
end

local maths = {}
for name, value in next, math do
  if name ~= "randomseed" then maths[name] = value end      -- a script must not make rand() predictable
end

local utf8s = { char = utf8.char, charpattern = utf8.charpattern }

function utf8s.len(text)
  text = as_string(text, 1, "len")
  charge(#text)
  return utf8_len(text)
end

function utf8s.codepoint(text, first, last)
  text = as_string(text, 1, "codepoint")
  first = as_integer(first or 1, 2, "codepoint")
  first, last = guard_span(#text, first, as_integer(last or first, 3, "codepoint"), "codepoint")
  return utf8.codepoint(text, first, last)
end

---------------------------------------------------------------------------------------------------- everything off

local globals = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = ordered_pairs, select = select,
  tonumber = to_number, type = type, unpack = tables.unpack,
  string = frozen(strings), table = frozen(tables), math = frozen(maths), utf8 = frozen(utf8s),
}

local unavailable = {}
for name in next, _G do unavailable[name] = true end

local of_text = getmetatable("")
of_text.__index = strings                                    -- ("x"):rep(1e9) meets the guarded one, too
for name, operate in next, of_text do                        -- "1" + 1
  if name ~= "__index" then
    of_text[name] = function(a, b)
      if type(a) == "string" and #a > LONGEST_NUMBER or type(b) == "string" and #b > LONGEST_NUMBER then
        error("attempt to perform arithmetic on a long text", 2)
      end
      return operate(a, b)
    end
  end
end
collectgarbage("generational")                               -- most of what a decision allocates dies with it

kit.options, kit.budget, kit.charge, kit.covered = options, budget, charge, covered
kit.frozen, kit.ordered_view, kit.read_only, kit.clean, kit.cut, kit.error_text, kit.suggestion =
  frozen, ordered_view, read_only, clean, cut, error_text, suggestion
kit.as_string, kit.as_integer = as_string, as_integer
kit.globals, kit.strings, kit.tables, kit.unavailable = globals, strings, tables, unavailable
return kit
