-- What a script may answer: makes queue() and reject{}, and reads the answer of route_request and on_failure.
--
-- Runs after helpers.lua. kit.read_answer(line, answer, reason) gives one integer for a plain answer (worker index *
-- 65536 + line; index 0 for nil) or JSON text for a rich one; a wrong one is an error. It runs inside of the script's
-- budget, as reading a list may call a comparator of the script's.

local kit = ...

local type, next, error, tostring, rawget, getmetatable, setmetatable =
      type, next, error, tostring, rawget, getmetatable, setmetatable
local concat, format, gsub, lower, find = table.concat, string.format, string.gsub, string.lower, string.find
local math_type, huge = math.type, math.huge
local suggestion, clean, globals = kit.suggestion, kit.clean, kit.globals

local function shown(value) return kit.shown(value) end           -- prelude.lua gives it later

------------------------------------------------------------------------------------------------------------ JSON

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quoted(text)
  return '"' .. gsub(clean(text), '[%c"\\\127]', function(c)
    return ESCAPES[c] or format("\\u%04x", c:byte())
  end) .. '"'
end

-- Plain tables as JSON: with [1] a list, else an object. For values that are ours; it does not look for cycles.
local function json(value)
  local kind = type(value)
  if kind == "string" then return quoted(value) end
  if kind == "number" then
    if value ~= value or value == huge or value == -huge then return quoted(tostring(value)) end
    if math_type(value) == "integer" then return tostring(value) end
    local text = format("%.17g", value)
    return find(text, "[.e]") and text or text .. ".0"     -- it comes back as what it was
  end
  if kind ~= "table" then return kind == "boolean" and tostring(value) or kind == "nil" and "null" or '"?"' end
  local parts = {}
  if value[1] ~= nil then
    for i = 1, #value do parts[i] = json(value[i]) end
    return "[" .. concat(parts, ",") .. "]"
  end
  for key, item in next, value do parts[#parts + 1] = quoted(tostring(key)) .. ":" .. json(item) end
  return "{" .. concat(parts, ",") .. "}"
end
kit.json = json

---------------------------------------------------------------------------------------------------- queue, reject

local made = setmetatable({}, { __mode = "k" })  -- what they gave, by the view that the script has: it can change nothing

local function answer_of(data)
  local view = kit.frozen(data)
  made[view] = data
  return view
end

local function options_of(given, known, name)
  if type(given) ~= "table" then error(name .. " expects a table, got " .. type(given), 3) end
  for key in next, given do
    if not known[key] then error(name .. " has no option '" .. shown(key) .. "'" .. suggestion(key, known), 3) end
  end
  return given
end

local function need_number(value, low, high, what)
  if type(value) ~= "number" or not (value >= low and value <= high) then
    error(what .. ": expected a number from " .. low .. " to " .. high .. ", got " .. shown(value), 3)
  end
  return value
end

local QUEUE_OPTIONS = { timeout_s = true, priority = true }
local PRIORITIES = { high = 1, normal = 0, low = -1 }

-- Waits for a worker, or with nil for any that can serve the request, to have room.
function globals.queue(worker, options)
  if worker ~= nil and not kit.index_or_id(worker) then
    local got = type(worker) == "string" and "the unknown worker id '" .. clean(kit.cut(worker, 200)) .. "'" or shown(worker)
    error("queue expects a worker, a worker's id or nil, got " .. got, 2)
  end
  local answer = { action = "wait", worker = worker }
  if options == nil then return answer_of(answer) end
  options_of(options, QUEUE_OPTIONS, "queue")
  if options.timeout_s ~= nil then answer.timeout_s = need_number(options.timeout_s, 0, 86400, "queue: timeout_s") end
  local priority = options.priority
  if priority ~= nil then
    answer.priority = PRIORITIES[priority] or priority
    if math_type(answer.priority) ~= "integer" or answer.priority < -1000 or answer.priority > 1000 then
      error("queue: priority: expected \"high\", \"normal\", \"low\" or a whole number from -1000 to 1000, got " .. shown(priority), 2)
    end
  end
  return answer_of(answer)
end

local REJECT_OPTIONS = { status = true, message = true, retry_after = true }

-- Refuses the request with words of the script's own.
function globals.reject(options)
  if type(options) == "string" then options = { message = options } end
  options_of(options == nil and {} or options, REJECT_OPTIONS, "reject")
  options = options or {}
  local status, message, retry_after = options.status, options.message, options.retry_after
  if status ~= nil and (math_type(status) ~= "integer" or status < 400 or status > 599) then
    error("reject: status: expected a whole number from 400 to 599, got " .. shown(status), 2)
  end
  if message ~= nil and type(message) ~= "string" then
    error("reject: message: expected a text, got a " .. type(message), 2)
  end
  if retry_after ~= nil then need_number(retry_after, 0, 60, "reject: retry_after") end
  return answer_of {
    action = "reject", status = status, message = message and kit.cut(message, 1000), retry_after = retry_after,
  }
end

---------------------------------------------------------------------------------------------------------- reading

local SEND_KEYS = { worker = true, model = true, headers = true, reason = true }
local MOST_WORKERS = 64          -- of a failover order

local function describe(value)
  return type(value) == "string" and "the unknown worker id '" .. clean(kit.cut(value, 200)) .. "'" or "a " .. type(value)
end

local function expected(got)
  error("route_request returned " .. got .. "; expected a worker, a worker id, a list of them, nil, queue(...), "
    .. "reject{...} or {worker = ..., model = ..., headers = ..., reason = ...}", 0)
end

-- Indexes of a worker, an id, or a list of these; and whether it was a list.
local function indexes_of(value)
  local index = kit.index_or_id(value)
  if index then return { index }, false end
  if type(value) ~= "table" then expected(describe(value)) end
  local indexes = {}
  local n = #value
  for i = 1, n < MOST_WORKERS and n or MOST_WORKERS do
    index = kit.index_or_id(value[i])
    if not index then expected("a list whose item " .. i .. " is " .. describe(value[i])) end
    indexes[i] = index
  end
  return indexes, n > 0
end

local function headers_of(given)
  if type(given) ~= "table" then error("headers: expected a table of names and texts, got a " .. type(given), 0) end
  local headers = {}
  for name, value in next, given do
    local kind = type(value)
    if type(name) ~= "string" or (kind ~= "string" and kind ~= "number") then
      error("headers: expected names and texts, got " .. shown(name) .. " = " .. shown(value), 0)
    end
    name, value = lower(name), tostring(value)
    if not kit.settable[name] then
      error("headers: '" .. clean(name) .. "' is not in [routing] set_headers", 0)
    end
    if #value > 1024 or find(value, "[^\32-\126]") then
      error("headers: " .. name .. ": expected at most 1024 printable ASCII characters", 0)
    end
    headers[#headers + 1] = { name, value }
    if #headers > 32 then error("headers: at most 32 are accepted", 0) end
  end
  return headers[1] and headers
end

local function is_send_table(answer)
  for key in next, SEND_KEYS do
    if rawget(answer, key) ~= nil then return true end
  end
  return false
end

local function read_table(answer, rich)
  local special, meta = made[answer], getmetatable(answer)
  if special then
    rich.action, rich.status, rich.message, rich.retry_after, rich.timeout_s, rich.priority =
      special.action, special.status, special.message, special.retry_after, special.timeout_s, special.priority
    if special.worker ~= nil then rich.workers = indexes_of(special.worker) end
  elseif meta ~= nil and meta ~= kit.list_meta and meta ~= kit.lazy_meta then
    expected("a table")
  elseif meta == nil and rawget(answer, 1) == nil and is_send_table(answer) then
    for key in next, answer do
      if not SEND_KEYS[key] then
        expected("a table with the unknown key '" .. shown(key) .. "'" .. suggestion(key, SEND_KEYS))
      end
    end
    local inner = answer.worker
    if inner ~= nil and made[inner] then expected("queue(...) or reject{...} as the worker of a table") end
    if inner ~= nil then rich.workers, rich.is_list = indexes_of(inner) end
    rich.model = answer.model
    if rich.model ~= nil and (type(rich.model) ~= "string" or rich.model == "" or #rich.model > 512) then
      error("model: expected a name of at most 512 bytes, got " .. shown(rich.model), 0)
    end
    rich.headers = answer.headers ~= nil and headers_of(answer.headers) or nil
    return answer.reason
  elseif meta == nil and next(answer) ~= nil and #answer == 0 then
    expected("a table")
  else
    rich.workers, rich.is_list = indexes_of(answer)
  end
end

-- An integer, or JSON text: {action, workers, is_list, line, reason, model, headers, status, message, retry_after, timeout_s,
-- priority, log}; without an action the script names workers, without workers it leaves the choice to the strategy.
function kit.read_answer(line, answer, reason)
  local index = kit.index_or_id(answer)
  if (index or answer == nil) and reason == nil and not kit.logged then return (index or 0) << 16 | line end
  local rich = { line = line }
  if index then
    rich.workers = { index }
  elseif answer == false then
    rich.action = "give_up"
  elseif type(answer) == "table" then
    local inner_reason = read_table(answer, rich)
    if reason == nil then reason = inner_reason end
  elseif answer ~= nil then
    expected(describe(answer))
  end
  if rich.workers and #rich.workers == 0 then rich.workers = nil end
  if reason ~= nil then
    if type(reason) ~= "string" then error("reason: expected a text, got a " .. type(reason), 0) end
    rich.reason = kit.cut(reason, 200)
  end
  rich.log = kit.take_log()                              -- at last: reading the answer may fail, or log more
  return json(rich)
end
