-- Lists: what `workers` is, and what filter, sort_by and their like return.
--
-- Runs after sandbox.lua. Adds to the kit: list(items) makes a list of a plain table, names(values) a fixed list of
-- texts, list_meta tells lists. With options.explain each function notes what became of each worker (kit.note).

local kit = ...

local type, next, error, setmetatable, tostring, rawget, rawset, math_type =
      type, next, error, setmetatable, tostring, rawget, rawset, math.type
local move, random, floor = table.move, math.random, math.floor
local charge, read_only, suggestion = kit.charge, kit.read_only, kit.suggestion
local EXPLAIN = kit.options.explain

local methods = {}
local list_meta = {}

local function list(items) return setmetatable(items, list_meta) end

local function need_list(self, name)
  if type(self) ~= "table" then error("call it with a colon: list:" .. name .. "(...)", 3) end
end

local function need_function(f, name)
  if type(f) ~= "function" then error(name .. " expects a function, got " .. type(f), 3) end
end

-- A function of an item, of a function or a field's name.
local function as_getter(key, name)
  if type(key) == "function" then return key end
  if type(key) ~= "string" then error(name .. " expects a function or a field name, got " .. type(key), 3) end
  return function(item) return item[key] end
end

--------------------------------------------------------------------------------------------------------- reading

function methods:len()
  need_list(self, "len")
  return #self
end

function methods:is_empty()
  need_list(self, "is_empty")
  return #self == 0
end

function methods:first()
  need_list(self, "first")
  return self[1]
end

function methods:last()
  need_list(self, "last")
  local n = #self
  if n > 0 then return self[n] end
end

function methods:contains(value)
  need_list(self, "contains")
  for i = 1, #self do if self[i] == value then return true end end
  return false
end

function methods:any(test)
  need_list(self, "any")
  need_function(test, "any")
  for i = 1, #self do if test(self[i]) then return true end end
  return false
end

function methods:all(test)
  need_list(self, "all")
  need_function(test, "all")
  for i = 1, #self do if not test(self[i]) then return false end end
  return true
end

list_meta.__index = function(self, key)
  local method = methods[key]
  if method then return method end
  if type(key) == "number" then
    if key < 0 then
      local position = #self + key + 1
      return position > 0 and self[position] or nil
    end
    if key == 0 then error("lists start at [1] in Lua; there is no [0]", 2) end
    return nil
  end
  error("a list has no '" .. kit.shown(key) .. "'" .. suggestion(key, methods), 2)
end

-- A fixed list of texts (a worker's models): the negative indexes are laid in, so reading one costs a table access.
local fixed_meta = {
  __index = function(_, key)
    local method = methods[key]
    if method then return method end
    if key == 0 then error("lists start at [1] in Lua; there is no [0]", 2) end
    if type(key) ~= "number" then error("a list has no '" .. kit.shown(key) .. "'" .. suggestion(key, methods), 2) end
  end,
}

local function names(values, owner, field)
  local data, set, n = setmetatable({}, fixed_meta), {}, #values
  for i = 1, n do
    data[i], data[i - n - 1], set[values[i]] = values[i], values[i], true
  end
  data.contains = function(view, name)
    if type(view) ~= "table" then error("call it with a colon: " .. field .. ":contains(name)", 2) end
    local found = set[name] == true
    if EXPLAIN then kit.read(owner, field .. ":contains(" .. kit.shown(name) .. ")", found) end
    return found
  end
  return setmetatable({}, {
    __index = data, __newindex = read_only, __len = function() return n end,
    __pairs = function(view)
      return function(_, i) i = (i or 0) + 1 if i <= n then return i, data[i] end end, view, nil
    end,
  })
end

-------------------------------------------------------------------------------------------------------- choosing

function methods:filter(keep)
  if type(self) ~= "table" or type(keep) ~= "function" then     -- in place: this runs in nearly every decision
    need_list(self, "filter")
    need_function(keep, "filter")
  end
  local kept, n = { nil, nil, nil, nil, nil, nil, nil, nil }, 0  -- room for eight: growing costs as much as asking them
  if EXPLAIN then
    local line = kit.script_line(2)
    for i = 1, #self do
      local item = self[i]
      kit.start_reads()
      if keep(item) then
        n = n + 1
        kept[n] = item
      else
        kit.note(item, "filter", line)
      end
    end
    return setmetatable(kept, list_meta)
  end
  for i = 1, #self do
    local item = self[i]
    if keep(item) then
      n = n + 1
      kept[n] = item
    end
  end
  return setmetatable(kept, list_meta)
end

function methods:map(f)
  need_list(self, "map")
  need_function(f, "map")
  local made, n = {}, 0
  for i = 1, #self do
    local value = f(self[i])
    if value ~= nil then
      n = n + 1
      made[n] = value
    end
  end
  return list(made)
end

-- { value = list of the items that have it }, a plain table; items without a value are left out.
function methods:group_by(key)
  need_list(self, "group_by")
  local value_of, groups = as_getter(key, "group_by"), {}
  for i = 1, #self do
    local item = self[i]
    local value = value_of(item)
    if value ~= nil and value == value then
      local group = groups[value]
      if not group then
        group = list {}
        groups[value] = group
      end
      rawset(group, #group + 1, item)
    end
  end
  return groups
end

local function note_others(self, taken, by, line)
  for i = 1, #self do
    if self[i] ~= taken then kit.note(self[i], by, line, taken) end
  end
  kit.note(taken, by, line, taken)
end

-- The rest of the list after its first item with a value, once for each way to ask: each instruction here runs for each
-- worker in nearly every decision.
local function least_of(self, from, found, found_value, key, value_of)
  if value_of then
    for i = from, #self do
      local item = self[i]
      local value = value_of(item)
      if value ~= nil and value < found_value then found, found_value = item, value end
    end
    return found
  end
  for i = from, #self do
    local item = self[i]
    local value = item[key]
    if value ~= nil and value < found_value then found, found_value = item, value end
  end
  return found
end

local function most_of(self, from, found, found_value, key, value_of)
  for i = from, #self do
    local item = self[i]
    local value
    if value_of then value = value_of(item) else value = item[key] end
    if value ~= nil and value > found_value then found, found_value = item, value end
  end
  return found
end

local function best(self, key, name, better)
  need_list(self, name)
  local value_of = key
  if type(key) ~= "function" then
    if type(key) ~= "string" then error(name .. " expects a function or a field name, got " .. type(key), 3) end
    value_of = nil
  end
  if EXPLAIN then kit.start_reads() end
  local found
  for i = 1, #self do
    local item = self[i]
    local value
    if value_of then value = value_of(item) else value = item[key] end
    if value ~= nil and value == value then
      found = better(self, i + 1, item, value, key, value_of)
      break
    end
  end
  if EXPLAIN then note_others(self, found, name, kit.script_line(3)) end
  return found
end
function methods:min_by(key) return (best(self, key, "min_by", least_of)) end
function methods:max_by(key) return (best(self, key, "max_by", most_of)) end

-- One item by chance, nil of an empty list; sample(n) gives a list of up to n different ones.
function methods:sample(count)
  need_list(self, "sample")
  local n = #self
  if count == nil then
    if n == 0 then return nil end
    local taken = self[random(n)]
    if EXPLAIN then
      kit.start_reads()
      note_others(self, taken, "sample", kit.script_line(2))
    end
    return taken
  end
  if math_type(count) ~= "integer" or count < 0 then
    error("sample expects a whole number that is not negative, got " .. kit.shown(count), 2)
  end
  charge(n)
  local items = move(self, 1, n, 1, {})
  if count > n then count = n end
  for i = 1, count do
    local j = random(i, n)
    items[i], items[j] = items[j], items[i]
  end
  for i = count + 1, n do items[i] = nil end
  return list(items)
end

-- One item by chance, each as likely as its weight tells (a field's name or a function); what has no weight, or none
-- above zero, is taken only when nothing has one.
function methods:weighted(key)
  need_list(self, "weighted")
  local weight_of, weights, total, n = as_getter(key, "weighted"), {}, 0, #self
  if EXPLAIN then kit.start_reads() end
  for i = 1, n do
    local weight = weight_of(self[i])
    if weight == nil then weight = 0 end
    if type(weight) ~= "number" then error("weighted: a weight is a number, got a " .. type(weight), 2) end
    if not (weight > 0) then weight = 0 end
    if weight > 1e300 then error("weighted: the weight " .. tostring(weight) .. " is too large", 2) end
    weights[i], total = weight, total + weight
  end
  if n == 0 then return nil end
  local taken
  if total <= 0 then
    taken = self[random(n)]
  else
    local rest = random() * total
    for i = 1, n do
      if weights[i] > 0 then
        taken, rest = self[i], rest - weights[i]
        if rest < 0 then break end
      end
    end
  end
  if EXPLAIN then note_others(self, taken, "weighted", kit.script_line(2)) end
  return taken
end

-- Rendezvous hashing (Thaler and Ravishankar 1998): the same key stays with the same worker; when a worker leaves, only
-- its own keys move. Items are told apart by their id, texts by themselves.
function methods:pick_by_hash(key)
  need_list(self, "pick_by_hash")
  local text = kit.as_string(key, 1, "pick_by_hash")
  local start = kit.hash_start(text)
  local taken, highest
  for i = 1, #self do
    local item = self[i]
    local score = kit.hash_finish(start, kit.as_string(kit.id_of(item), 1, "pick_by_hash"))
    if taken == nil or score > highest then taken, highest = item, score end
  end
  if EXPLAIN then
    kit.start_reads()
    note_others(self, taken, "pick_by_hash", kit.script_line(2))
  end
  return taken
end

--------------------------------------------------------------------------------------------------------- sorting

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

-- What sort_by returns until its order is needed: reading [1] alone is one pass over the list; anything else sorts.
-- `self` keeps what to sort under keys that no script can spell.
local ITEMS, ORDER, LENGTH, FIRST, LINE = {}, {}, {}, {}, {}
local lazy_meta = {}

local function sort_now(self)
  local items, n, first = self[ITEMS], self[LENGTH], rawget(self, FIRST)
  charge(n)                                      -- also what the script itself may have made of it, by way of next()
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
  local line = rawget(self, LINE)
  if EXPLAIN then kit.start_reads() end
  local sorted = merge_sort(move(items, from + 1, n, 1, {}), n - from, self[ORDER])
  if from == 1 then sorted = move(sorted, 1, n - 1, 2, { first }) end
  if EXPLAIN and first == nil then
    for i = 1, n do kit.note(sorted[i], "sort_by", line, sorted[1], i) end
  end
  self[ITEMS], self[ORDER], self[LENGTH], self[FIRST], self[LINE] = nil, nil, nil, nil, nil
  for i = 1, n do rawset(self, i, sorted[i]) end
  return setmetatable(self, list_meta)
end

local function first_in_order(self)
  local first = rawget(self, FIRST)
  if first ~= nil then return first end
  local items, less, n = self[ITEMS], self[ORDER], self[LENGTH]
  if EXPLAIN then kit.start_reads() end
  first = items[1]
  for i = 2, n do
    local item = items[i]
    local answer = less(item, first)
    if answer and (answer == true or goes_first(answer)) then first = item end
  end
  self[FIRST] = first
  if EXPLAIN and first ~= nil then note_others(items, first, "sort_by", self[LINE]) end
  return first
end

function lazy_meta.__index(self, key)
  if key == 1 then return first_in_order(self) end
  if key == "first" or key == "len" or key == "is_empty" then return methods[key] end
  if type(key) == "table" then return nil end
  return sort_now(self)[key]
end
function lazy_meta.__newindex(self, key, value)
  if type(key) == "table" then rawset(self, key, value) else sort_now(self)[key] = value end
end
function lazy_meta.__len(self) return self[LENGTH] end
function lazy_meta.__pairs(self) return next, sort_now(self), nil end

function methods:sort_by(order)
  if type(self) ~= "table" then need_list(self, "sort_by") end
  local n = #self
  if n > 256 then charge(n) end                  -- a table of the script's own can claim any length
  return setmetatable({
    [ITEMS] = move(self, 1, n, 1, {}), [ORDER] = as_less(order, "sort_by"), [LENGTH] = n,
    [LINE] = EXPLAIN and kit.script_line(2) or nil,
  }, lazy_meta)
end

function kit.tables.sort(items, order)
  need_list(items, "sort")
  local n, copy = #items, {}
  charge(n)
  for i = 1, n do copy[i] = items[i] end
  local sorted = merge_sort(copy, n, as_less(order, "table.sort"))
  for i = 1, n do items[i] = sorted[i] end
end

kit.list, kit.names, kit.list_meta, kit.lazy_meta, kit.list_methods = list, names, list_meta, lazy_meta, methods
