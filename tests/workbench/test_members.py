"""Fields, methods and arguments: what is told of them, and that each error told is one that Lua raises."""

from __future__ import annotations

import pytest

from rbeerouter.routing.sandbox import Abilities
from rbeerouter.workbench.check import check
from tests.support.builders import SCRIPT, ask, lua
from tests.workbench.scripts import findings, hints, told

ERRORS = [
    ("return workers:filter(function(w) return w.lod < 1 end)[1]", "unknown-field 2:44", "did you mean load?"),
    ("return request.modle", "unknown-field 2:16", "did you mean model?"),
    ('return request["modle"]', "unknown-field 2:16", "did you mean model?"),
    ("for _, w in ipairs(workers) do if w.statuss == 'ready' then return w end end", "unknown-field 2:37",
     "did you mean status?"),
    ("return workers:filtr(function(w) return true end)", "unknown-method 2:16", "did you mean filter?"),
    ("return workers.length", "unknown-method 2:16", "instead of length, write #list, or list:len()"),
    ("return workers:forEach(function(w) end)", "unknown-method 2:16",
     "instead of forEach, write for _, item in ipairs(list) do ... end"),
    ("return request.model:startsWith('a')", "unknown-method 2:22", "instead of startsWith, write text:starts_with(prefix)"),
    ("return timestamp():hours()", "unknown-method 2:20", "instead of hours, write timestamp():hour()"),
    ("return state:increment('x')", "unknown-method 2:14", "did you mean incr?"),
    ("return request.metadata:fetch('tier')", "unknown-method 2:25", None),
    ("return workers.filter(function(w) return true end)[1]", "dot-call 2:8",
     "write workers:filter(function(w) return true end)"),
    ("return request.metadata.get('tier')", "dot-call 2:8", "write request.metadata:get('tier')"),
    ("return workers:filter(function(w) return w.models.contains('m') end)[1]", "dot-call 2:42",
     "write w.models:contains('m')"),
    ("return request.model.starts_with('m')", "dot-call 2:8", "write request.model:starts_with('m')"),
    ("return state.get('x')", "dot-call 2:8", "write state:get('x')"),
    ("return math:floor(2.5)", "colon-call 2:13", "write math.floor(...)"),
    ("return string.contain('a', 'b')", "unknown-function 2:15", "did you mean string.contains?"),
    ("return timestamp.hour()", "index-function 2:18", "write timestamp():hour()"),
    ("return workers[0]", "index-zero 2:16", "write workers[1]"),
    ("if timestamp().hour > 6 then return nil end", "not-called 2:4", "write timestamp():hour()"),
    ("local hour = timestamp().hour\nif hour < 6 then return nil end", "not-called 3:4", None),
    ("if workers.len > 5 then return nil end", "not-called 2:4", "write workers:len()"),
    ("return rand(1, 10)", "arguments 2:8", "for a whole number from 1 to 10 write math.random(1, 10)"),
    ("return param('canary', 25)", "arguments 2:8",
     'write param("canary_percent", 25, 0, 100): name, default, lowest, highest'),
    ("return param('canary', '25', 0, 100)", "argument 2:24",
     'write param("canary_percent", 25, 0, 100): name, default, lowest, highest'),
    ("return workers:filter()", "arguments 2:8", "write list:filter(function(w) return ... end)"),
    ("return workers:filter('status')", "argument 2:23", "write list:filter(function(w) return ... end)"),
    ("return workers:min_by(5)", "argument 2:23", 'write list:min_by("load") or list:min_by(function(w) return ... end)'),
    ("return workers:sort_by()[1]", "arguments 2:8",
     'write list:sort_by("load") or list:sort_by(function(a, b) return a.load < b.load end)'),
    ("return hash_str(workers)", "argument 2:17", "write hash_str(text)"),
    ("return queue(nil, { timeout = 5 })", "unknown-option 2:21", "did you mean timeout_s?"),
    ("return reject{ stauts = 400 }", "unknown-option 2:16", "did you mean status?"),
    ("return strategy('least-request:2,zzz')(request, workers)", "unknown-strategy 2:17", None),
    ("return strategy('lest-request')(request, workers)", "unknown-strategy 2:17", 'did you mean "least-request"?'),
    ("return workers:filter(function(w) return w.load < '0.5' end)[1]", "compare 2:42",
     "make a number of the text: tonumber(x)"),
    ("return workers < 5", "compare 2:8", None),
    ("for _, w in ipairs(workers) do w.load = 5 end", "read-only 2:34", None),
    ("for _, w in ipairs(workers) do w['load'] = 5 end", "read-only 2:34", None),
    ("for _, w in ipairs(workers) do w.metadata.tier = 1 end", "read-only 2:43", None),
    ("for _, w in ipairs(workers) do w.models[1] = 'm' end", "read-only 2:41", None),
    ("state.count = 1", "read-only 2:7", 'write state:set("count", value)'),
    ("math.half = 0.5", "read-only 2:6", None),
    ("return workers:sort_by('laod')[1]", "unknown-field 2:24", "did you mean load?"),
    ("return workers:min_by('vrma')", "unknown-field 2:23", "did you mean vram?"),
    ("return workers:max_by('vrma')", "unknown-field 2:23", "did you mean vram?"),
    ("log(workers:group_by('backnd'))", "unknown-field 2:22", "did you mean backend?"),
    ("return workers:filter(function(w) return w.load < 1 end):weighted('preformance')", "unknown-field 2:67",
     "did you mean performance?"),
    ("return request.headers:get('x-tier')", "unknown-header 2:24", 'write request.headers["x-name"]'),
    ("log(param('canary', 120, 0, 100))", "argument 2:21",
     'write param("canary_percent", 25, 0, 100): name, default, lowest, highest'),
    ("log(param('canary', -1, 0, 100))", "argument 2:21",
     'write param("canary_percent", 25, 0, 100): name, default, lowest, highest'),
    ("log(param('canary', 5, 10, 0))", "argument 2:21",
     'write param("canary_percent", 25, 0, 100): name, default, lowest, highest'),
    ("state:set('x', {})", "argument 2:16", None),
    ("for _, w in ipairs(workers) do if w.load() then return w end end", "not-a-function 2:35", "leave the () out"),
    ("for _, w in ipairs(workers) do if w:load() then return w end end", "not-a-function 2:37", "write w.load"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "where", "hint"), ERRORS)
def test_each_error_is_told_with_its_place_and_what_to_write(body: str, where: str, hint: str | None) -> None:
    assert (told(body), hints(body)) == ([f"error {where}"], [hint])


@pytest.mark.parametrize("body", [body for body, _, _ in ERRORS])
def test_each_error_that_is_told_is_one_that_lua_raises(body: str) -> None:
    choice = ask(body)
    line = findings(body)[0].line
    assert choice.error is not None
    assert choice.error.startswith(f"routing.lua:{line}: ")


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("if workers.is_empty then return nil end", "not-called 2:4"),
        ("if not workers.is_empty then return nil end", "not-called 2:8"),
        ("if workers.len == 0 then return nil end", "not-called 2:4"),
        ("return workers:filter(function(w) return w.status == 'online' end)[1]", "unknown-status 2:54"),
        ("return workers:filter(function(w) return 'Ready' ~= w.status end)[1]", "unknown-status 2:42"),
        ("log(request.model.name)", "unknown-field 2:19"),
        ("log(math.tau)", "unknown-function 2:10"),
        ("request.model = 'x'", "no-effect 2:9"),
        ("request['model'] = 'x'", "no-effect 2:9"),
        ("request.metadata.tier = 'x'", "no-effect 2:18"),
        ("log(hash_str(5))", "argument 2:14"),
        ("log(workers:len(1))", "arguments 2:5"),
    ],
)
def test_what_is_odd_and_no_error_is_a_warning(body: str, where: str) -> None:
    assert told(body) == [f"warning {where}"]
    assert ask(body).error is None


@pytest.mark.parametrize(
    "body",
    [
        "return workers.filter(workers, function(w) return true end)[1]",
        "return workers:filter(nothing_known and nothing_known.f)",
        "local f = workers.filter\nreturn f(workers, function(w) return w.load < 1 end)[1]",
        "if timestamp().hour() > 99 then return nil end",
        "if workers.filter == nil then return nil end",
        "return request.metadata.anything",
        "return request.metadata['x-y']",
        "return request.headers.accept",
        "return workers:min_by('load')",
        "log(workers[1].models:group_by('laod'))",
        "log(param('canary', 25, 25, 25))",
        "local l = workers[1].models l = workers:map(function(w) return w.id end) l[1] = 'x'",
        "local m = rand() < 2 and {} or workers[1].metadata m.tier = 1",
        "workers[1] = nil",
        "return workers:map(function(w) return w.id end):sort_by()[1]",
        "return workers:sample()",
        "return workers:sample(2)[1]",
        "return queue(nil, { timeout_s = 5, priority = 'high' })",
        "return queue(workers[1])",
        "return reject{ status = 503, message = 'later', retry_after = 5 }",
        "return reject('no')",
        "return strategy('least_request')(request, workers)",
        "workers.mine = 5\nif workers.mine > 3 then return nil end",
        "local kept = {}\nkept.nope = 1\nreturn kept.nope2 and nil",
        "local l = workers:filter(function(w) return true end)\nl[#l + 1] = { nope = 1 }\nreturn l[#l].nope and nil",
        "local l = workers:filter(function(w) return true end)\ntable.insert(l, { nope = 1 })\nreturn l[#l].nope and nil",
        "local text = request.model\nreturn text:gsub('a', 'b') and nil",
        "local parts = ('a b'):split()\nreturn parts:first() and nil",
        "local key = 'lod'\nif false then log(workers[1][key]) end",
        "return (function(w) return w.anything end)({})",
        "local get = function(t) return t.anything end\nreturn get({}) or get(request.metadata)",
    ],
)
def test_nothing_is_called_an_error_that_is_none(body: str) -> None:
    assert [line for line in told(body) if line.startswith("error")] == []


@pytest.mark.parametrize("read", ['request.headers["x-teir"]', 'request.headers["X-Teir"]', "request.headers.x_teir"])
def test_a_header_that_may_not_be_read_is_told_when_the_settings_are_known(read: str) -> None:
    able = Abilities(request_headers=("x-tier",))
    (found,) = check(lua(f"log({read})"), SCRIPT, request_headers=["X-Tier"])
    assert (found.severity, found.code, found.hint) == ("error", "unknown-header", "did you mean x-tier?")
    assert found.message in (ask(f"log({read})", abilities=able).error or "")
    assert told(f"log({read})") == []


def test_a_header_that_may_be_read_is_right_in_any_case() -> None:
    body = 'log(request.headers["X-Tier"], request.headers["x-tier"])'
    assert check(lua(body), SCRIPT, request_headers=["x-tier"]) == []
    assert ask(body, abilities=Abilities(request_headers=("x-tier",))).error is None
    assert [found.hint for found in check(lua("log(request.headers.a)"), SCRIPT, request_headers=[])] == [
        "add it to request_headers, and reload"
    ]


def test_both_sides_of_every_branch_are_read() -> None:
    body = (
        "if request.stream then return request.a1 elseif request.model == '' then return request.b1 else\n"
        "for i = 1, 0 do log(request.c1) end while request.stream do log(request.d1) end end"
    )
    assert told(body) == [
        "error unknown-field 2:39", "error unknown-field 2:89", "error unknown-field 3:29", "error unknown-field 3:73",
    ]  # fmt: skip


def test_the_hooks_know_what_they_are_called_with() -> None:
    source = (
        b"function route_request(request, workers) return nil end\n"
        b"function on_complete(r, o) log(r.modle, o.okay) end\n"
        b"function on_failure(r, a, ws) if a.tried:contain('x') then return a.numbr end return ws:frist() end\n"
    )
    assert told(source) == [
        "error unknown-field 2:34", "error unknown-field 2:43", "error unknown-method 3:42",
        "error unknown-field 3:69", "error unknown-method 3:89",
    ]  # fmt: skip
