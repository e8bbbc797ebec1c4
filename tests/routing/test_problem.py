"""What a person is told of a script that fails: the place, the caret and the hint, for habits of other languages.

The table holds what people write, as the body of route_request (which begins at line 2), and what the real Lua makes of
it: each row goes through a real Script, and its message through `explain`.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.routing.problem import SHOWN_COLUMNS, Problem, explain
from rbeerouter.routing.script import ScriptError
from tests.support.builders import SCRIPT, ask, fleet, lua, quick, request, script

# (what somebody writes, the line and column told, a piece of the hint); column 0: not known, or on another line
HABITS = [
    ("if a != b then return nil end", 2, 6, "`~=` for not equal"),
    ("if a !== b then return nil end", 2, 6, "`~=` for not equal"),
    ("if a === b then return nil end", 2, 6, "`==` for equal"),
    ("if a && b then return nil end", 2, 6, "`and`"),
    ("if a || b then return nil end", 2, 6, "`or`"),
    ("return !a", 2, 8, "`not a`"),
    ("let x = 1", 2, 1, "local x = ..."),
    ("const x = 1", 2, 1, "local x = ..."),
    ("int x = 1;", 2, 1, "local x = ..."),
    ("fn pick(a) return 1 end", 2, 1, "function pick(...) ... end"),
    ("def pick(a):\n return 1", 2, 1, "function pick(...) ... end"),
    ("function pick(a) { return 1; }", 2, 18, "function(...) ... end"),
    ("return workers:filter(|w| w.load < 1)", 2, 23, "function(w) return ... end"),
    ("return workers:filter(w => w.load < 1)", 2, 23, "function(w) return ... end"),
    ("return workers:sort_by((a, b) => a.load < b.load)", 2, 24, "function(a, b) return ... end"),
    ("local f = (a) => a", 2, 11, "function(a) return ... end"),
    ("return workers:filter(function(w) { return w.load < 1 })", 2, 35, "function(...) ... end"),
    ("return workers:filter(move |w| w.load < 1)", 2, 23, "function(w) return ... end for closures"),
    ("if a then\nreturn 1\nelse if b then\nreturn 2\nend", 8, 0, "elseif, in one word; else if begins a block"),
    ("if a then\nreturn 1\nelse if b then\nreturn 2\nelse\nreturn 3\nend\n", 11, 0, "elseif, in one word; else if begins a block"),
    ("if a then\nreturn 1\nelif b then\nreturn 2\nend", 4, 1, "`elseif`"),
    ("if a then\nreturn 1\nelsif b then\nreturn 2\nend", 4, 1, "`elseif`"),
    ("if (x) {\nreturn 1\n}", 3, 0, "if ... then ... end"),
    ("if x {\nreturn 1\n}", 3, 0, "if ... then ... end"),
    ("if x then\nreturn 1\n}", 4, 1, "Lua closes a block with end, not }"),
    ("if x then {\nreturn 1\n}", 2, 6, "if ... then ... end"),
    ("if x == 1\nreturn 1\nend", 3, 0, "if x == 1 then"),
    ("if x == 1 return 1 end", 2, 1, "then after the condition"),
    ("if x:\n return 1", 3, 0, "then after if, not :"),
    ("if (x):\n return 1", 3, 0, "then after if, not :"),
    ("if x = 1 then return 1 end", 2, 6, "`=` assigns; Lua compares with `==`"),
    ("for w in workers do return w end", 2, 10, "for _, w in ipairs(workers) do"),
    ("for w in workers {\nreturn w\n}", 3, 0, "for ... do ... end"),
    ("for w of workers do return w end", 2, 7, "for _, w in ipairs(workers) do ... end"),
    ("for (let i = 0; i < 3; i++) {\nreturn 1\n}", 2, 5, "for i = 1, n do ... end"),
    ("for (const w of workers) {\nreturn w\n}", 2, 5, "for _, item in ipairs(list) do ... end"),
    ("for (int i = 0; i < n; i++) {\n}", 2, 5, "for i = 1, n do ... end"),
    ("for w in workers:\n return w", 3, 0, "do after for and while, not :"),
    ("for i in 0..10 do return 1 end", 2, 10, "for i = 0, n do ... end"),
    ("for i in range(10) do return 1 end", 2, 10, "for i = 1, n do ... end"),
    ("for i in 1, 10 do return 1 end", 2, 10, "for i = 1, 10 do"),
    ("for i = 1, 10\nlocal x = 1\nend", 3, 0, "do after for ..."),
    ("for _, w in ipairs(workers)\nlocal x = 1\nend", 3, 0, "do after for ..."),
    ("while (x) {\nreturn 1\n}", 3, 0, "while ... do ... end"),
    ("while x\nreturn 1\nend", 3, 0, "do after while ..."),
    ("while x:\n return 1", 3, 0, "do after for and while, not :"),
    ("do { x } while (y)", 2, 1, "do ... end, or repeat ... until x for do {"),
    ("loop {\n}", 2, 1, "while true do ... end"),
    ("// a comment", 2, 1, "comments with --, not with //"),
    ("local x = 1 // a comment", 3, 0, "comments with --; // divides whole numbers"),
    ("/* a comment */", 2, 1, "long comments --[[ ... ]], not /* ... */"),
    ("local x = 1 /* c */", 2, 13, "long comments --[[ ... ]], not /* ... */"),
    ("# a comment", 2, 1, "comments with --, not with #"),
    ("local x = 1 # a comment", 2, 13, "comments with --, not with #"),
    ("local n = 0\nn += 1\nreturn n", 3, 3, "n = n + 1"),
    ("local n = 0\nn -= 1\nreturn n", 3, 3, "n = n - 1"),
    ("local n = 0\nn *= 2", 3, 3, "n = n * ..."),
    ("local n = 0\nn /= 2", 3, 3, "n = n / ..."),
    ('local n = "a"\nn ..= "b"', 3, 3, "n = n .. ..."),
    ("local n = 0\nn++\nreturn n", 3, 2, "n = n + 1"),
    ("local n = 0\n++n\nreturn n", 3, 1, "n = n + 1"),
    ("local n = 0\nn--\nreturn n", 4, 0, "n = n - 1"),
    ("return a ? b : c", 2, 10, "a and b or c"),
    ("local x = a ? b : c", 2, 13, "a and b or c"),
    ("return a ?? b", 2, 10, "a or b"),
    ("local x = a ?? b", 2, 13, "a or b"),
    ("return a?.b", 2, 9, "a and a.b"),
    ("local x = request?.metadata", 2, 18, "request and request.metadata"),
    ("return `text`", 2, 8, '"text " .. value'),
    ("local x = `a ${b}`", 2, 11, '"text " .. value'),
    ('throw "x"', 2, 1, 'error("text")'),
    ('throw new Error("x")', 2, 1, 'error("text")'),
    ('raise ValueError("x")', 2, 1, 'error("text")'),
    ('panic!("x")', 2, 1, "Lua has no macros; an error is raised by"),
    ("try {\nreturn 1\n} catch (e) {\n}", 3, 0, "line 2: routing scripts have no try; check with if"),
    ("try:\n return 1\nexcept:\n pass", 3, 0, "line 2: routing scripts have no try; check with if"),
    ("switch (x) {\ncase 1: return 1\n}", 3, 1, "if x == a then ... elseif x == b then ..."),
    ("switch x {\n}", 2, 1, "if x == a then ... elseif x == b then ..."),
    ("for i = 1, 3 do\ncontinue\nend", 4, 0, "goto next and ::next:: before the end"),
    ("for i = 1, 3 do\nif i then continue end\nend", 3, 11, "goto next and ::next:: before the end"),
    ("for i = 1, 3 do\ncontinue;\nend", 3, 1, "goto next and ::next:: before the end"),
    ("for i = 1, 3 do if x then pass end end", 2, 27, "Lua has no pass; leave the block empty"),
    ("return x if y", 2, 10, "if y then return x end"),
    ("return 1 if y else 2", 2, 10, "return y and 1 or 2"),
    ("local x = 1 if y else 2", 2, 13, "condition and a or b"),
    ("local x = if a then b else c end", 2, 11, "condition and a or b"),
    ("local m = #{a: 1}", 2, 11, "tables { key = value }, without #"),
    ("local m = {a: 1}", 2, 12, "{ a = ... } with =, not :"),
    ('local m = {"a": 1}', 2, 15, '{ ["a"] = ... }'),
    ('return {worker: workers[1], model: "x"}', 2, 9, "{ worker = ... } with =, not :"),
    ("local l = [1, 2]", 2, 11, "lists with braces: { 1, 2 }"),
    ("return [1, 2]", 2, 8, "lists with braces: { 1, 2 }"),
    ('local s = f"text {a}"', 2, 11, '"text " .. value, or string.format("%s",'),
    ("local s = f'text {a}'", 2, 11, '"text " .. value, or string.format("%s",'),
    ("return 1;;", 2, 9, "one ; is enough after return; leave the"),
    ("return x->y", 2, 9, "Lua has no ->; a field is x.name, a method"),
    ("local x = request->model", 2, 18, "Lua has no ->; a field is x.name, a method"),
    ("local x = math::floor(1)", 2, 11, "math.floor(x) or list:first()"),
    ("local x = Foo::new()", 2, 11, "math.floor(x) or list:first()"),
    ('return request.metadata::get("x")', 2, 24, "x.name or x:name()"),
    ('if "a" in workers then return 1 end', 2, 8, 'workers:contains("a")'),
    ("if a not in workers then return 1 end", 2, 6, "not list:contains(x)"),
    ("if not a in workers then return 1 end", 2, 10, "workers:contains(a)"),
    ('local e = new Error("x")', 2, 15, 'error("text")'),
    ("return new Foo()", 2, 8, "Lua has no new; leave it out"),
    ("return this.x", 2, 8, "there is no object of its own; use request"),
    ("return self.x", 2, 8, "there is no object of its own; use request"),
    ("import foo", 2, 1, "Lua imports nothing; all that a script may"),
    ("from x import y", 2, 1, "Lua imports nothing; all that a script may"),
    ('local x = require("foo")', 2, 0, "nothing can be loaded; all that a script"),
    ("#include <x>", 2, 1, "Lua includes nothing; all that a script may"),
    ("async function f() end", 2, 1, "Lua has no async; leave it out"),
    ("return await f()", 2, 8, "Lua has no await; leave it out"),
    ('print!("x")', 2, 1, "log(...)"),
    ('println!("x")', 2, 1, "log(...)"),
    ('format!("x")', 2, 1, "Lua has no macros; texts are made by"),
    ('console.log("x")', 2, 1, "log(...)"),
    ("return workers.len()", 2, 15, "methods take a colon: workers:len(...)"),
    ("return workers.length", 2, 0, "#list, or list:len()"),
    ("return workers.size()", 2, 0, "#list, or list:len()"),
    ("workers.push(1)", 2, 0, "table.insert(list, item)"),
    ("workers:push(1)", 2, 0, "table.insert(list, item)"),
    ("workers.iter().filter(a)", 2, 0, "list:filter(f) or list:map(f) on the list"),
    ("return workers:iter()", 2, 0, "list:filter(f) or list:map(f) on the list"),
    ('return workers.contains("a")', 2, 15, "methods take a colon: workers:contains(...)"),
    ('return request.model.contains("a")', 2, 21, "methods take a colon:"),
    ('return request.model.starts_with("a")', 2, 21, "methods take a colon:"),
    ('return request.model.startsWith("a")', 2, 22, "text:starts_with(prefix)"),
    ('return request.model:startsWith("a")', 2, 22, "text:starts_with(prefix)"),
    ('return request.model.startswith("a")', 2, 22, "text:starts_with(prefix)"),
    ('return request.model:includes("a")', 2, 22, "list:contains(item), text:contains(part)"),
    ("return request.model.len()", 2, 21, "methods take a colon: request.model:len(...)"),
    ("return request.model.to_lowercase()", 2, 22, "text:lower()"),
    ("return request.model.toLowerCase()", 2, 22, "text:lower()"),
    ("return workers.map(a)", 2, 15, "methods take a colon: workers:map(...)"),
    ("return workers.filter(function(w) return true end)", 2, 15, "methods take a colon: workers:filter(...)"),
    ('return workers[1].models.contains("a")', 2, 25, "methods take a colon:"),
    ("return workers[0]", 2, 15, "Lua counts from 1: workers[1] is the first"),
    ('return request.metadata.get("x")', 2, 24, "methods take a colon:"),
    ('return request.metadata["x"].y', 2, 25, 'request.metadata["x"] is nil here; check it'),
    ('local x = "abc', 2, 11, "the text needs its closing quote on the"),
    ("local x = 'abc", 2, 11, "the text needs its closing quote on the"),
    ("local x = 'it's'", 2, 14, "the text in double quotes"),
    ("local x = [[abc", 4, 0, "line 2: the long text that begins here needs its"),
    ("--[[ abc", 4, 0, "line 2: the long comment that begins here needs its"),
    ("local x = 1abc", 2, 11, "a number is digits alone, without a unit: 1"),
    ("local x = 10ms", 2, 11, "a number is digits alone, without a unit: 10"),
    ("local x = 0x", 2, 11, "a number is digits alone, without a unit: 0"),
    ("local x = 1_000", 2, 11, "Lua has no _ in numbers; leave it out"),
    ("local x = 1..2", 2, 11, "a number and .. need a space between: 1 .. x"),
    ("local x = 24gb", 2, 11, "a number is digits alone, without a unit: 24"),
    ("return vram > 30", 2, 8, "(vram or 0) > 30"),
    ("return workers:filter(function(w) return w.vram > 30 end)", 2, 42, "(w.vram or 0) > 30"),
    ("return workers:filter(function(w) return w.vram > w.vram_used end)", 2, 42, "(w.vram or 0) > (w.vram_used or 0)"),
    ('return workers:filter(function(w) return w.id == "zz" end)[1].id', 2, 0, "no item is there: the list is empty or too"),
    ("return workers:sort_by(function(a, b) return a.vram < b.vram end)[1]", 2, 46, "(a.vram or 0) < (b.vram or 0)"),
    ("local w = workers:filter(function() return false end):first()\nreturn w.id", 3, 8, "w is nil here; check it first: if not w"),
    ("local w = workers:filter(function() return false end):first()\nlocal u = w.metadata.region", 3, 11, "w is nil here; check it first: if not w"),
    ("return foo(1)", 2, 8, "local function foo(...) above"),
    ("return timestmp()", 2, 8, "the nearest name is timestamp"),
    ('return parseInt("3")', 2, 8, "tonumber(x)"),
    ('return parse_float("3")', 2, 8, "tonumber(x)"),
    ("return str(3)", 2, 8, "tostring(x)"),
    ('return int("3")', 2, 8, "tonumber(x)"),
    ("return len(workers)", 2, 8, "#list"),
    ('return request.model:startswith("a")', 2, 22, "text:starts_with(prefix)"),
    ('return workers[1]:get("x")', 2, 0, "only metadata and state have get:"),
    ('return "a" .. nil', 2, 0, "a value is nil here; give it a default: (x"),
    ('return "a" .. request.user_id', 2, 23, "request.user_id is nil here; give it a"),
    ('return "a" .. true', 2, 0, "tostring(x) around what is no text"),
    ('return "a" .. workers[1]', 2, 0, "tostring(x) around what is no text"),
    ('return "user: " .. request.metadata.foo', 2, 37, "request.metadata.foo is nil here; give it a"),
    ('return "a" + 1', 2, 10, "Lua joins texts with .., not +"),
    ('return "a" + "b"', 2, 10, "Lua joins texts with .., not +"),
    ("return request.user_id + 1", 2, 16, "request.user_id is nil here; give it a"),
    ("return nil + 1", 2, 0, "a value is nil here; give it a default: (x"),
    ("return workers[1].vram * 2", 2, 19, "workers[1].vram is nil here; give it a"),
    ("return workers[1].vram + 2", 2, 19, "workers[1].vram is nil here; give it a"),
    ("return #request.user_id", 2, 17, '#(request.user_id or "") for text,'),
    ("return request.user_id < request.priority", 2, 8, "(request.user_id or 0) < (request.priority"),
    ("return request.max_tokens > 5", 2, 8, "(request.max_tokens or 0) > 5"),
    ("return request.max_tokens < request.user_id", 2, 8, "(request.max_tokens or 0) <"),
    ('return 3 < "4"', 2, 12, "4 without quotes"),
    ('return "3" > 2', 2, 8, "3 without quotes"),
    ("return request.metadata.type > 2", 2, 8, "tonumber(request.metadata.type) for the text"),
    ("return timestamp().hour < 6", 2, 8, "timestamp():hour()"),
    ("return timestamp().hour + 1", 2, 20, "timestamp():hour()"),
    ("return timestamp():hour < 6", 2, 19, "timestamp():hour()"),
    ("return timestamp.hour() < 6", 2, 17, "methods take a colon: timestamp:hour(...)"),
    ("return timestamp:hour() < 6", 2, 8, "timestamp is a function: timestamp():hour()"),
    ("return timestamp().hour()", 2, 0, "a worker is workers[n], not n alone"),
    ("return rand < 0.1", 2, 8, "rand()"),
    ("return rand + 1", 2, 8, "rand()"),
    ("return workers[1].load(2)", 2, 19, "workers[1].load is a field, not a function;"),
    ("return workers[1].load()", 2, 19, "workers[1].load is a field, not a function;"),
    ("return workers[1]()", 2, 0, "what stands before the () is no function"),
    ("return workers(1)", 2, 8, "workers is no function; items are taken by"),
    ("return request.model()", 2, 16, "request.model is a field, not a function;"),
    ('return request("x")', 2, 8, "request is no function; items are taken by"),
    ("seen = 1", 2, 0, "local seen = ... inside of route_request,"),
    ("seen.x = 1", 2, 1, "local seen = ... above"),
    ("return workers[1] < workers[2]", 2, 8, "workers do not compare; compare a field of"),
    ("return {} < {}", 2, 0, "workers do not compare; compare a field of"),
    ("return true < false", 2, 0, "true and false have no order; use and, or,"),
    ("return workers > 1", 2, 8, "the number of items of a list is #workers"),
    ("while true do end", 2, 1, "this loop may not end, or walks too much"),
    ('local s = "x"\nwhile true do s = s .. s end', 0, 0, "a table or text grows without end, or a"),
    ("local t = {}\nfor i = 1, 1e9 do t[i] = {} end", 0, 0, "a table or text grows without end, or a"),
    ("local x = (1 + 2", 3, 1, "the ( of line 2 is not closed; add )"),
    ("foo(1, 2", 3, 1, "the ( of line 2 is not closed; add )"),
    ("local t = {1, 2", 3, 1, "the { of line 2 is not closed; add }, or"),
    ("if a then return 1", 4, 0, "the function of line 1, or a block inside"),
    ("return 1 end end", 2, 14, "this end is one too many"),
    ("return 1\nlocal x = 2", 3, 0, "line 2: return must be the last statement of its"),
    ("workers", 3, 1, "a name alone does nothing in Lua; return"),
    ("workers[1]", 3, 1, "a name alone does nothing in Lua; return"),
    ("x == 1", 2, 3, "`==` compares; Lua assigns with `=`"),
    ('"abc"', 2, 1, "a value alone does nothing in Lua; return"),
    ("1 + 2", 2, 1, "a value alone does nothing in Lua; return"),
    ("local request.model = 2", 2, 14, "local is for new names; a field is set"),
    ("local x, y == 1", 2, 12, "`==` compares; Lua assigns with `=`"),
    ("local end = 1", 2, 7, "`end` is a word of Lua's own; take another"),
    ("local x = ", 3, 0, "line 2: a value is missing at the end of this line"),
    ("break", 4, 0, "line 2: break stands only inside of for, while and"),
    ("goto foo", 4, 0, "line 2: put ::foo:: just before the end of the"),
    ("local x <const> = 1\nx = 2", 3, 0, "leave <const> out where x is declared, or"),
    ('return string.format("%d", "x")', 2, 0, "text must become a number first:"),
    ('return string.format("%d", 1.5)', 2, 0, "math.floor(x) for a whole number"),
    ("return math.floor(nil)", 2, 0, "a value is nil here; give it a default: (x"),
    ('return math.floor("x")', 2, 0, "text must become a number first:"),
    ("return math.round(1.5)", 2, 13, "math.floor(x + 0.5)"),
    ('return tonumber("x") + 1', 2, 8, "(tonumber(x) or 0)"),
    ("return ipairs(nil)", 2, 0, "a function stands there that was not"),
    ("for _, w in pairs(request.user_id) do end", 2, 13, "pairs(request.user_id or {})"),
    ("for i = 1, nil do end", 2, 0, "a number of for is not set; give it a"),
    ('return string.find("a")', 2, 0, "a value is nil here; give it a default: (x"),
    ('return ("x"):find(nil)', 2, 0, "a value is nil here; give it a default: (x"),
    ("return workers:filter()", 2, 8, "workers:filter(function(w) return ... end)"),
    ('return workers:filter("load < 1")', 2, 8, "workers:filter(function(w) return ... end)"),
    ('return workers:min_by("id"):get("x")', 2, 0, "only metadata and state have get:"),
    ("return pcall(error)", 2, 0, "no try is there; check values with if"),
    ("return os.time()", 2, 0, "the time is timestamp(), with :hour(),"),
    ("return nosuch.thing", 2, 8, "local nosuch = ... above"),
    ("nosuch.thing = 1", 2, 1, "local nosuch = ... above"),
    ("workers[1].load = 2", 2, 0, "workers, the request and the libraries are only read"),
    ("return hash_str(3)", 2, 0, "a worker is workers[n], not n alone"),
    ("return 1 // 0", 2, 0, "the divisor is 0 here; check it first"),
    ("return 1 % 0", 2, 0, "the divisor is 0 here; check it first"),
    ("return 2^53 | 1.5", 2, 0, "math.floor(x) for a whole number"),
    ('return "a" | 1', 2, 12, "`or`; | works on the bits of whole numbers"),
    ("return nil & 1", 2, 12, "`and`; & works on the bits of whole numbers"),
    ('return -"abc"', 2, 0, "tonumber(x) or 0"),
    ("local t = {}\nt[nil] = 1", 3, 0, "the key is nil here; check it before t[key]"),
    ("if not (a then return 1 end", 2, 11, "a ) is missing before this"),
    ("if a) then return 1 end", 2, 5, "this ) has no ( before it"),
    ("return workers:filter(function(w) return w.load < 1)", 2, 23, "this function has no end"),
    ("return workers:filter(function(w) return w.load < 1 end))", 2, 0, "this ) closes nothing"),
    ("return workers:filter(function(w) w.load < 1 end)", 2, 35, "a Lua function gives its value with return:"),
    ("return workers:filter(function(w) w.load end)", 2, 35, "a Lua function gives its value with return:"),
    ("return workers:filter(function(w): return w.load end)", 2, 34, "nothing stands after function(...) in Lua;"),
    ("return workers.[1]", 2, 15, "workers[...]"),
    ("return workers:[1]", 2, 15, "workers[...]"),
    ("return workers.1", 2, 15, "Lua takes items by [ ]: list[1] is the first"),
    ("return workers:filter", 3, 0, "workers:filter()"),
    ("workers:filter", 3, 0, "workers:filter()"),
    ("return @x", 2, 8, "Lua has no @; leave it out"),
    ("return $x", 2, 8, "names in Lua have no $; leave it out"),
    ('return "a" & "b"', 2, 12, "`and`; & works on the bits of whole numbers"),
    ("return a =~ b", 2, 10, 'text:match("pattern")'),
    ("return a ^= b", 2, 10, "a = a ^ ..."),
    ("return a =< b", 2, 10, "`<=`"),
    ("return a <=> b", 2, 10, "Lua has no <=>; a comparison for sort_by is"),
    ("return !!a", 2, 8, "`not a`"),
    ("return not(a) && b", 2, 15, "`and`"),
    ("local x: number = 1", 2, 8, "Lua declares no types; leave `: number` out"),
    ("function f(a: string) end", 2, 13, "Lua declares no types; leave `: string` out"),
    ("function f(a = 1) end", 2, 14, "a = a or ... inside of the function"),
    ("function f(a, b): number end", 2, 17, "nothing stands after function(...) in Lua;"),
    ("fn f() -> i32 {", 2, 1, "function f(...) ... end"),
    ("local x = a | b || c", 2, 17, "`or`"),
    ("local x = y as number", 2, 13, "tonumber(x) or tostring(x)"),
    ("return typeof x", 2, 8, "type(x)"),
    ("return x instanceof y", 2, 10, 'type(x) == "table"'),
    ("return x is None", 2, 10, "x == nil"),
    ("return x is not None", 2, 10, "x ~= nil"),
    ("delete x", 2, 1, "x = nil"),
    ("del x", 2, 1, "x = nil"),
    ("pass", 3, 0, "line 2: Lua has no pass; leave the block empty"),
    ("return (x, y)", 2, 8, "Lua returns several values without"),
    ("local (a, b) = f()", 2, 7, "local a, b = f() without parentheses"),
    ("local {a, b} = f()", 2, 7, "local a, b = x.a, x.b"),
    ("local [a, b] = f()", 2, 7, "local a, b = list[1], list[2]"),
    ("let [a, b] = f()", 2, 1, "local a, b = ..."),
    ("return workers[1:2]", 2, 17, "Lua has no slices; take single items,"),
    ("return workers[..2]", 2, 16, "Lua has no slices; take single items,"),
    ("return [w for w in workers]", 2, 0, "list:filter(...) and list:map(...)"),
    ('return "a" * 3', 2, 0, "tonumber(x) or 0"),
    ("return 1 end;", 3, 1, "this end is one too many"),
    ("local x = “abc”", 2, 11, 'text stands in plain quotes, "..."'),
    ("return a \u2013 b", 2, 10, "a minus is a plain -"),
    ("if x then\n y = 1\n} else {\n y = 2\n}", 4, 1, "else without braces: if ... then ... else"),
    ("return {\n worker: workers[1],\n model: 'x'\n}", 3, 2, "{ worker = ... } with =, not :"),
    ("return {\n timeout: 5\n}", 3, 2, "{ timeout = ... } with =, not :"),
    ("local t = { a = 1\n b = 2 }", 3, 2, "the { of line 2 is not closed; add }, or"),
    ("else:\n x()", 2, 1, "else without :"),
    ("local x = 1 // don't do this", 2, 13, "comments with --; // divides whole numbers"),
    ("let {a} = x", 2, 1, "local a, b = ..."),
    ("workers:filter(function(w) if a then return 1 else if b then return 2 end end)", 2, 47, "elseif, in one word; else if begins a block"),
    ("return workers:filter(function(w)\nif a then\nreturn 1\nelse if b then\nreturn 2\nend\nend)", 8, 0, "elseif, in one word; else if begins a block"),
    ("if w.load => 3 then end", 2, 11, "`>=`"),
    ("x ||= 3", 2, 3, "x = x or ..."),
    ("local x = w.end", 2, 12, '["end"]'),
    ("local t = { end = 1 }", 2, 13, '["end"] = ...'),
    ("local x = 1 \\\n + 2", 2, 13, "Lua has no \\ outside of quotes; a statement"),
    ("return '\\d+'", 2, 8, "\\\\ for \\ itself, %d for a digit in a pattern"),
    ("local s = '\\u{zz}'", 2, 11, "\\\\ for \\ itself, %d for a digit in a pattern"),
    ("print 'a' .. 'b'", 2, 1, "log(...) with parentheses"),
    ("local x\n= 3\n + ", 5, 0, "line 4: a value is missing at the end of this line"),
    ("local t = {1, 2, 3]", 2, 19, "a } or a comma is missing before this"),
    ("class Foo {\n}", 2, 1, "Lua has no class; use plain tables and"),
    ("class Foo:\n pass", 2, 1, "Lua has no class; use plain tables and"),
    ("export default function route() end", 2, 1, "Lua has no export; leave it out"),
    ("public function x() end", 2, 1, "Lua has no public; leave it out"),
    ("&workers", 2, 1, "Lua has no references; leave the & out"),
    ("local x = vec![1, 2]", 2, 11, "Lua has no macros; a list is written { 1, 2"),
    ("return Some(1)", 2, 8, "the value itself"),
    ("return w.load.0", 2, 14, "Lua takes items by [ ]: list[1] is the first"),
    ("x = if a { 1 } else { 2 };", 2, 5, "condition and a or b"),
    ("while true {\n break\n}", 2, 12, "while x do ... end"),
    ("loop {\n break\n}", 3, 0, "while true do ... end"),
    ("unless x then end", 2, 1, "if not x then ... end"),
    ("for i in 0..<3 do end", 2, 10, "for i = 0, n do ... end"),
    ("return a and b ? c", 2, 16, "x or default, or condition and a or b"),
    ("local x = y!", 2, 12, "not x for the opposite"),
    ("return (function() return 1 end)(", 3, 0, "line 2: a value is missing at the end of this line"),
    ("do\nlocal x = 1", 5, 0, "the function of line 1, or a block inside"),
    ("repeat\nlocal x = 1", 4, 1, "repeat ends with until and a condition, not"),
    ("goto continue", 4, 0, "line 2: put ::continue:: just before the end of the"),
    ("local t = {'a': 1}", 2, 15, "{ ['a'] = ... }"),
    ("local a = 1, b = 2", 2, 16, "local a, b = 1, 2"),
    ("local function f(self, ...args) end", 2, 24, "... alone and reads it as {...}"),
    ("function f(...args) end", 2, 12, "... alone and reads it as {...}"),
    ("f(...workers)", 2, 3, "Lua spreads a list with table.unpack(list)"),
    ("local x = {...workers}", 2, 12, "Lua spreads a list with table.unpack(list)"),
    ("return workers[1] as Worker", 2, 19, "tonumber(x) or tostring(x)"),
    ("x = 0b101", 2, 5, "numbers in decimal or as 0xff"),
    ("x = 08h", 2, 5, "a number is digits alone, without a unit: 08"),
    ("if x then return 1 fi", 2, 20, "`end`"),
    ("x:y = 3", 2, 2, "x:y()"),
    ("function(w) return 1 end", 2, 1, "a function that stands alone needs a name:"),
    ("local x = y ? z\n : 3", 2, 13, "x or default, or condition and a or b"),
    ("if (a) return 1;", 2, 1, "then after the condition"),
    ("if (a)\n return 1\n", 3, 0, "if (a) then"),
    ("x <- 3", 2, 3, "x = ..."),
    ("x = @a", 2, 5, "Lua has no @; leave it out"),
    ("local t = {}\nreturn t[1].x", 3, 0, "no item is there: the list is empty or too"),
    ("return workers:sort_by(function(a,b) return a.vram < b.vram end)[1].x.y", 2, 45, "(a.vram or 0) < (b.vram or 0)"),
    ("local f = 3\nlocal g = function() return f() end g()", 3, 29, "what stands before the () is no function"),
    ("local f\nlocal g = function() return f.x end g()", 3, 29, "f is nil here; check it first: if not f"),
    ("return ('x').y.z", 2, 14, "y is nil here; check it before you use what"),
    ("return workers[1].metadata.a.b", 2, 28, "workers[1].metadata.a is nil here; check it"),
    ("return request.metadata:get('x').y", 2, 24, "get gives nil for a missing entry; give it"),
    ("return request.metadata['x'] < 3", 2, 8, "(request.metadata['x'] or 0) < 3"),
    ("return #workers < '3'", 2, 19, "3 without quotes"),
    ("return tostring(nil) .. nil .. 'x'", 2, 0, "a value is nil here; give it a default: (x"),
    ("return print .. 'x'", 2, 8, "print()"),
    ("return log .. 'x'", 2, 8, "log()"),
    ("return workers.filter", 2, 0, "a function stands there that was not"),
    ("return request.metadata.get('x', 'y')", 2, 24, "methods take a colon:"),
    ("return request.model.lower()", 2, 21, "methods take a colon:"),
    ("return 'x' < nil", 2, 0, "a value that is compared is nil; give it a"),
    ("return request.user_id:lower()", 2, 16, "request.user_id is nil here; check it"),
    ("return request.user_id.x", 2, 16, "request.user_id is nil here; check it"),
    ("for w in workers:filter(function(w) return true end) do end", 2, 0, "Lua walks a list with for _, item in"),
    ("for k, v in request.metadata do end", 2, 13, "for k, v in ipairs(request.metadata) do for"),
    ("for _, w in workers do end", 2, 13, "for _, w in ipairs(workers) do for a list,"),
    ("for i = 1, workers do end", 2, 12, "the last number of for is no number; the"),
    ("for i = 1, #workers do return workers[i].vram < 3 end", 2, 31, "(workers[i].vram or 0) < 3"),
    ("local t = {} t.x.y = 3", 2, 16, "t.x is nil here; check it before you use"),
    ("return workers[1].id + 1", 2, 0, "Lua joins texts with .., not +; text"),
    ("return tonumber(request.model) > 1", 2, 8, "(tonumber(x) or 0)"),
    ("return table.insert(workers[1].models, 'x')", 2, 0, "workers, the request and the libraries are only read"),
    ("local x = workers[0].id", 2, 18, "Lua counts from 1: workers[1] is the first"),
    ('return workers.filter(w => w.status === "ready")[0]', 2, 37, "`==` for equal"),
    ('let ready = workers.filter(|w| w.status == "ready");', 2, 1, "local ready = ..."),
    ("return workers[1].name", 2, 0, "worker.id"),
    ("return request.user", 2, 0, "request.user_id"),
    ("return workers[1].queue", 2, 0, "worker.waiting"),
    ("return workers[1]:filter(f)", 2, 0, "only workers and the lists they give have"),
    ("return ({1, 2}):filter(function(w) return w end)", 2, 17, "only workers and the lists they give have"),
    ("return timestamp():hours()", 2, 0, "timestamp():hour()"),
    ("return reqest.model", 2, 8, "the nearest name is request"),
    ('return request.metadata:get("tier"):lower()', 2, 24, "get gives nil for a missing entry; give it"),
    ("return workers:filter(function(w) return w.vram > 8 and w.load < 0.5 end)", 2, 42, "(w.vram or 0) > 8"),
    ("if request.max_tokens < 100 then return workers[1] end", 2, 4, "(request.max_tokens or 0) < 100"),
    ('local ready = {}\nreturn ready[hash_str("a") % #ready + 1]', 3, 28, "ready is empty here; check ready:is_empty()"),
    ("return workers:sort_by(function(a, b) return a.metadata.price < b.metadata.price end)[1]", 2, 46, "(a.metadata.price or 0) < (b.metadata.price"),
    ('print "hello" + 1', 2, 1, "log(...) with parentheses"),
    ("return workers[1]:load", 3, 0, "line 2: a field takes a dot: workers[1].load"),
    ("return workers[1].load:foo()", 2, 19, "workers[1].load is a number and has no such"),
    ("if workers:is_empty then return nil end", 2, 11, "workers:is_empty()"),
    ("local ready <- workers", 2, 13, "ready = ..."),
    ("If request.stream Then return workers[1] End", 2, 1, "Lua's own words are in lower case"),
    ('return request.model == "a" ? workers[1] : workers[2]', 2, 29, 'request.model == "a" and workers[1] or'),
    ("const pick = (ws) => ws[0]", 2, 1, "local pick = ..."),
    ("for i = 0, #workers do log(workers[i].id) end", 2, 9, "Lua counts from 1: for i = 1, #list do"),
    ("state.x = 1", 2, 1, 'state:set("x", value)'),
    ("workers[1].load += 1", 2, 17, "workers[1].load = workers[1].load + 1"),
    ('return request.metadata["tier"] ?? "free"', 2, 33, 'request.metadata["tier"] or "free"'),
    ("if not request.stream { return nil }", 2, 23, "if ... then ... end"),
    ("if request.stream: return workers[1]", 2, 18, "then after if, not :"),
    ("while i < 3: i += 1", 2, 1, "do after while ..."),
    ("workers.forEach(function(w) log(w.id) end)", 2, 0, "for _, item in ipairs(list) do ... end"),
    ("for w in workers:filter(f) { log(w) }", 3, 0, "for ... do ... end"),
    ("return workers.filter(fn (w) { w.load < 1 })", 2, 23, "function(w) return ... end"),
    ("return workers.sort((a, b) -> a.load - b.load)", 2, 21, "function(a, b) return ... end"),
    ('local t = { "a": 1, "b": 2 }', 2, 16, '{ ["a"] = ... }'),
    ('local t = { priority: "high" }', 2, 13, "{ priority = ... } with =, not :"),
    ("return queue(nil, { timeout_s: 5 })", 2, 21, "{ timeout_s = ... } with =, not :"),
    ('return reject({ status = 400, message: "x" })', 2, 31, "{ message = ... } with =, not :"),
    ('return request.model.split("-")[0]', 2, 0, "Lua counts from 1 to #list"),
    ('return request.model:split("-")[0]', 2, 0, "Lua counts from 1 to #list"),
]


def message_of(source: str | bytes) -> str:
    """What Lua or a helper says of a script that does not load or whose route_request fails, without our hint."""
    try:
        told = script(source).route(request(), fleet()).error
    except ScriptError as error:
        told = str(error)
    assert told is not None, "nothing went wrong"
    return told.partition(" (hint: ")[0]


def problem(source: str | bytes, **more: list[str]) -> Problem:
    whole = source if isinstance(source, bytes) else lua(source)
    return explain(message_of(source), SCRIPT, whole, **more)


@pytest.mark.parametrize(("source", "line", "column", "hint"), HABITS)
def test_a_habit_of_another_language_is_told_in_lua(source: str, line: int, column: int, hint: str) -> None:
    told = problem(source)
    assert hint in (told.hint or "")
    assert (told.line, told.column) == (line, column)
    assert told.message == message_of(source).removeprefix(f"{SCRIPT}:{line}: " if line else f"{SCRIPT}: ")


def test_the_table_holds_enough_habits() -> None:
    assert len({hint for _, _, _, hint in HABITS}) > 150


@pytest.mark.parametrize(
    "source",
    [
        'local s = "a != b" local x = = 1',
        "local s = 'if a && b {' foo(]",
        "-- let x = 1 && !y ? a : b\nlocal x = = 1",
        "--[[ else if (x) { ]] foo(]",
        "local s = [[ fn f() => 1 ]] local x = = 1",
        'local s = "// a comment of words" x = = 1',
        'error("No workers available")',
        'error("budget exceeded for anna")',
        'error("unexpected symbol in the request")',
        'error("attempt to bribe a nil value (global official)")',
        'error("a != b && c")',
        'error("the region has no gpu")',
        'error("Workers[0] is busy")',
        'error("call us with a colon")',
        'error("not enough memory on gpu1")',
        "error({})",
        "assert(false)",
        'return ("x"):rep(1e9)',
        'return "nobody"',
        "return a b",
        "f() = 3",
        'log "all is well"\nx = = 1',
        "x = y z = 3 4",
    ],
)
def test_there_is_no_hint_where_nothing_is_known(source: str) -> None:
    assert problem(source).hint is None


def test_a_habit_inside_of_quotes_does_not_hide_the_real_one() -> None:
    told = problem('if request.model == "a != b" && request.stream then return nil end')
    assert (told.hint, told.column) == ("Lua writes `and`", 30)


def test_the_log_gets_one_line_and_the_terminal_a_caret() -> None:
    told = problem("  if request.stream && true then return nil end")
    assert str(told) == "routing.lua:2: unexpected symbol near '&' (hint: Lua writes `and`)"
    assert told.rendered() == (
        "routing.lua:2: unexpected symbol near '&'\n"
        "    2 |   if request.stream && true then return nil end\n"
        "      |                     ^~\n"
        "hint: Lua writes `and`"
    )


def test_a_script_tells_its_errors_with_the_hint() -> None:
    told = ask("return workers:filter(function(w) return w.vram > 8 end)[1]").error or ""
    assert told.endswith("(hint: w.vram is nil here; write (w.vram or 0) > 8)")
    with pytest.raises(ScriptError, match="Lua writes `~=`"):
        script("if a != b then end")


def test_a_cause_on_another_line_is_shown_there() -> None:
    told = problem("if request.stream then\n  return workers[1]\nelse if true then\n  return nil\nend")
    assert told.hint is not None and told.hint.startswith("line 4: Lua writes elseif")
    assert (told.line, told.column, told.source_number, told.source_line) == (8, 0, 4, "else if true then")
    assert told.marker == "^~~~~~~"


def test_a_missing_end_is_found_by_the_indentation() -> None:
    source = "function route_request(request, workers)\n  if request.stream then\n    log(1)\n  for i = 1, 2 do\n  end\nend\n"
    told = problem(source.encode())
    assert (told.line, told.source_number, told.hint) == (7, 2, "line 2: this if has no end")


def test_an_else_if_with_both_its_ends_is_not_blamed() -> None:
    source = (
        b"local function f(a)\n  if a then\n    return 1\n  else if b then\n    return 2\n  end\n  end\nend\n"
        b"function route_request(request, workers)\n  if request.stream then\n    log(1)\nend\n"
    )
    assert problem(source).hint == "line 10: this if has no end"


def test_an_end_too_many_is_found_by_the_indentation() -> None:
    source = b"function route_request(request, workers)\n  if request.stream then\n    log(1)\n  end\n  end\nend\n"
    told = problem(source)
    assert (told.line, told.hint) == (6, "line 5: this end closes what began at line 1; one end is too many")


def test_the_nearest_name_is_told() -> None:
    assert problem("return hash_string(3)").hint == "the nearest name is hash_str"
    assert problem("return my_helpr(3)", known=["my_helper"]).hint == "the nearest name is my_helper"
    own = b"local function pick_worker(w) end\nfunction route_request(r, w)\n  return pick_wroker(w)\nend"
    assert problem(own).hint == "the nearest name is pick_worker"


def test_a_message_may_come_without_a_line_or_with_a_shortened_name() -> None:
    long_name = "a" * 60 + "_routing.lua"
    source = lua("if a != b then end")
    told = explain("..._routing.lua:2: 'then' expected near '!'", long_name, source)
    assert (told.file, told.line, told.hint) == (long_name, 2, "Lua writes `~=` for not equal")
    assert explain("routing.lua: not enough memory", SCRIPT, source).line == 0
    assert explain("not enough memory", SCRIPT, source).message == "not enough memory"
    foreign = explain("other.lua:2: 'then' expected near '!'", SCRIPT, source)
    assert (foreign.line, foreign.message) == (0, "other.lua:2: 'then' expected near '!'")


def test_tabs_and_wide_characters_keep_the_caret_below_its_token() -> None:
    told = explain("routing.lua:1: 'then' expected near '!'", SCRIPT, b"\tif\ta != b then end")
    assert told.source_line == "    if  a != b then end"
    assert told.source_line[told.marker.index("^") :].startswith("!=")
    assert told.column == 7
    wide = explain("routing.lua:1: 'then' expected near '!'", SCRIPT, "if '火' != b then end".encode())
    assert wide.marker == " " * 8 + "^~"


def test_a_long_line_is_cut_around_the_caret() -> None:
    source = b"local x = 1 " * 200 + b"if a != b then end " + b"local y = 2 " * 200
    told = explain("routing.lua:1: 'then' expected near '!'", SCRIPT, source)
    assert len(told.source_line) <= SHOWN_COLUMNS + 6
    assert told.source_line[told.marker.index("^") :].startswith("!= b then")
    assert told.column == source.index(b"!=") + 1


def test_nothing_that_is_shown_can_move_a_cursor() -> None:
    source = "local x = 1 \x1b[2J\u202e\u2066\x07\x9b \udcff".encode(errors="surrogatepass") + b"\xff != 2"
    told = explain("routing.lua:1: unexpected symbol near '\x1b[31m\u202e\r\n'", "rou\x1bting.lua", source)
    shown = str(told) + told.rendered().replace("\n", "")
    assert shown.isprintable() or all(character == "\ufffd" or character.isprintable() for character in shown)
    assert "\n" not in str(told)


def test_lines_are_counted_as_lua_counts_them() -> None:
    body = "local x = 1\r\nlocal y = 2\n\rlocal z = '\x0b\u2028'\rif a != b then end"
    told = problem(body)
    assert (told.line, told.source_line, told.column) == (5, "if a != b then end", 6)


PIECES = st.sampled_from(
    ["if ", "else if ", "end\n", "function f(", "(", ")", "{", "}", "[[", "]]", "--[[", "--", '"', "'", "\\", "\\z\n", "\n", "\r",
     "!=", "&&", "||", "|a|", "=>", "?", ":", "a.b", "a[0]", "w.vram > 3 ", "`", "é", "\u202e", "\x00", "\t", "1_000", "// a b", "x--"]
)  # fmt: skip
MESSAGES = st.sampled_from(
    ["'then' expected near '!'", "unexpected symbol near '='", "unexpected symbol near ')'", "unexpected symbol near '}'",
     "'end' expected (to close 'function' at line 1) near <eof>", "<eof> expected near 'end'", "unfinished string near '\"a",
     "unexpected symbol near '<\\226>'", "attempt to compare number with nil", "attempt to index a nil value (field 'vram')",
     "attempt to call a nil value (global 'f')", "'}' expected (to close '{' at line 99999) near ':'", "break outside loop at line 2",
     "a list has no 'push'", "attempt to compare two nil values", "malformed number near '1_'", "budget exceeded"]
)  # fmt: skip


@quick(max_examples=300)
@given(st.lists(PIECES, max_size=30).map("".join), MESSAGES | st.text(max_size=400), st.integers(0, 40))
def test_it_never_raises_and_tells_one_line(source: str, message: str, line: int) -> None:
    told = explain(f"routing.lua:{line}: {message}", SCRIPT, source.encode(errors="surrogatepass"))
    assert "\n" not in str(told) and "\r" not in str(told)
    assert str(told).encode()
    assert len(told.source_line) <= SHOWN_COLUMNS + 6
    assert told.rendered().startswith(told.place)
    assert told.marker == "" or told.marker.strip().startswith("^")


@quick(max_examples=200)
@given(st.binary(max_size=300), st.text(max_size=100), st.text(max_size=30))
def test_any_bytes_will_do(source: bytes, message: str, name: str) -> None:
    assert str(explain(message, name, source)).encode()
    assert explain(f"{name}:1: {message}", name, source).rendered().encode()


@pytest.mark.parametrize("piece", ["(", "{", "[[", "[=", '"', "'\\", "else if ", "a.", "a?b:c ", "if x ", "\t", " ", "a<b "])
def test_a_hostile_source_takes_no_long_time(piece: str) -> None:
    source = (piece * (32 * 1024 // len(piece))).encode()
    began = time.process_time()
    for message in ("'end' expected (to close 'if' at line 1) near <eof>", "unexpected symbol near '?'", "attempt to compare two nil values"):
        explain(f"routing.lua:1: {message}", SCRIPT, source)
    assert time.process_time() - began < 2
