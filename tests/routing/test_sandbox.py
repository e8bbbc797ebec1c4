"""What a script cannot reach, cannot use up and cannot break. Whole hostile scripts run in test_hostile.py."""

from __future__ import annotations

import faulthandler
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rbeerouter.routing.sandbox import Abilities, Limits, Sandbox
from rbeerouter.routing.script import Choice, ScriptError
from tests.support.builders import fill, fleet, picked, request, script, shown, told, worker

HANG_S = 20.0
ROOT = Path(__file__).resolve().parents[2]
BUDGET = "routing.lua: budget exceeded"
MEMORY = "routing.lua: not enough memory"


def error_of(choice: Choice) -> str | None:
    """The fault told; where the budget ran out without its line, which chance decides."""
    error = told(choice)
    return BUDGET if error and error.endswith(": budget exceeded") else error


@pytest.fixture(scope="module")
def real_stderr(pytestconfig: pytest.Config) -> Iterator[int]:
    """Standard error as it is outside of pytest's capture, which is lost when the process ends at once."""
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        descriptor = os.dup(2)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(autouse=True)
def _no_hang(real_stderr: int) -> Iterator[None]:
    """Ends the whole run, with a traceback, when a script does not come back: nothing in Python could interrupt it."""
    faulthandler.dump_traceback_later(HANG_S, exit=True, file=real_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


# Out of reach.

ABSENT = [
    "collectgarbage", "coroutine", "debug", "dofile", "getmetatable", "io", "load", "loadfile", "loadstring",
    "newproxy", "os",
    "package", "pcall", "python", "rawequal", "rawget", "rawlen", "rawset", "require", "setfenv", "getfenv",
    "setmetatable", "warn", "xpcall", "lupa", "_G", "_VERSION", "module", "jit", "ffi", "sandbox", "host", "globals",
]  # fmt: skip
SINCE_5_4 = {
    "collectgarbage", "coroutine", "debug", "dofile", "getmetatable", "io", "load", "loadfile", "os", "package",
    "pcall", "python", "rawequal", "rawget", "rawlen", "rawset", "require", "setmetatable", "warn", "xpcall", "_G",
    "_VERSION",
}  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
def test_a_dangerous_name_is_not_there(name: str) -> None:
    expected = (
        f"routing.lua:2: '{name}' is not available in routing scripts" if name in SINCE_5_4 else "routing.lua: gone"
    )
    assert picked(f"if {name} == nil then error('gone', 0) end return workers[1]") == expected


@pytest.mark.parametrize(
    "name",
    [
        "string.dump", "string.pack", "string.unpack", "string.packsize", "table.move", "math.randomseed", "utf8.codes",
        "utf8.offset",
    ],
)  # fmt: skip
def test_a_dangerous_function_of_a_library_is_not_there(name: str) -> None:
    assert shown(name) == "nil"


def test_the_globals_are_these_and_no_others() -> None:
    """Walks every name a script can read, through its environment and by name."""
    known = ["assert", "error", "hash_str", "ipairs", "log", "math", "next", "pairs", "param", "print", "queue", "rand",
             "reject", "select", "state", "strategy", "string", "table", "timestamp", "tonumber", "tostring", "type",
             "unpack", "utf8"]  # fmt: skip
    body = "local t = {} for name in pairs(_ENV) do t[#t + 1] = name end table.sort(t)"
    assert shown("table.concat(t, ' ')", None, body) == "_rbee_line route_request"
    for name in known:
        assert shown(f"type({name})") in ("function", "table")


@pytest.mark.parametrize(
    ("library", "names"),
    [
        ("string",
         "byte char contains ends_with find format gmatch gsub len lower match rep reverse split starts_with sub trim upper"),
        ("table", "concat insert pack remove sort unpack"),
        ("math",
         "abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger modf pi rad random sin "
         "sqrt tan tointeger type ult"),
        ("utf8", "char charpattern codepoint len"),
    ],
)  # fmt: skip
def test_the_libraries_hold_these_names_and_no_others(library: str, names: str) -> None:
    body = f"local t = {{}} for name in pairs({library}) do t[#t + 1] = name end table.sort(t)"
    assert shown("table.concat(t, ' ')", None, body) == names


@pytest.mark.parametrize(
    "body",
    [
        "return ('').dump ~= nil and workers[1]",
        "string.format = nil",
        "getmetatable('').__index = nil",
        "(''):rep(1e9)",
        "local s = '' s.x = 1",
    ],
)
def test_texts_lead_to_the_guarded_library_only(body: str) -> None:
    assert picked(body) is None or "routing.lua" in str(picked(body))
    assert picked("return workers[2]") == "w2"


def test_no_address_is_ever_shown() -> None:
    shows = [
        "tostring({})", "tostring(workers)", "tostring(workers[1])", "tostring(hash_str)",
        "tostring(workers[1].models)",
        "tostring(workers[1].metadata)", "tostring(timestamp())", "tostring(string)",
    ]  # fmt: skip
    assert shown(" .. ' ' .. ".join(shows)) == "table table worker(w1) function table table table table"
    for template in ("%p", "%%%p", "%-20p", "% 5p"):
        assert picked(f"string.format('{template}', {{}})") == "routing.lua:2: %p is not available in routing scripts"


def test_a_percent_sign_before_a_p_may_be_formatted() -> None:
    assert shown("string.format('50%%plus')") == "50%plus"


def test_no_python_object_enters_lua() -> None:
    kinds = "for key, value in pairs(thing) do t[type(value)] = true end"
    body = (
        "local t = {} local things = {request, request.metadata, workers[1], workers[1].metadata, _ENV} "
        f"for _, thing in ipairs(things) do {kinds} end "
        "local names = {} for name in pairs(t) do names[#names + 1] = name end table.sort(names)"
    )
    made = fleet(worker("w1", metadata={"a": 1, "b": True, "c": 0.5, "d": "x"}, models=("m",)))
    assert (
        shown("table.concat(names, ' ')", made, body, metadata={"a": 1, "b": True})
        == "boolean function number string table"
    )


# Time, memory and patterns.

BOMBS = {
    "loop": ("while true do end", BUDGET),
    "repeat": ("repeat until false", BUDGET),
    "goto": ("::top:: goto top", BUDGET),
    "tail call": ("local function f() return f() end return f()", BUDGET),
    "recursion": ("local function f(n) return 1 + f(n + 1) end return f(1)", "EITHER"),
    "loop in a filter": ("workers:filter(function() while true do end end)", BUDGET),
    "loop in a comparator": ("return workers:sort_by(function() while true do end end)[1]", BUDGET),
    "loop in gsub": ("('aaaa'):gsub('a', function() while true do end end)", BUDGET),
    "nested gsub": ("local function f() return (('a'):gsub('a', f)) end return f()",
                    "gsub callbacks are nested too deep"),
    "huge rep": ("return ('x'):rep(1e9)", "the result of string.rep is too long"),
    "rep of nothing": ("return workers[#('')+1] and (''):rep(1e15) == '' and workers[1]", "w1"),
    "rep with a separator": ("return ('x'):rep(1e6, ('y'):rep(60000))", "the result of string.rep is too long"),
    "many reps": ("while true do local s = ('x'):rep(60000) end", BUDGET),
    "doubling": ("local s = 'x' while true do s = s .. s end", MEMORY),
    "a growing list": ("local t = {} while true do t[#t + 1] = {#t} end", "EITHER"),
    "a growing map": ("local t, i = {}, 0 while true do i = i + 1 t['k' .. i] = i end", "EITHER"),
    "many texts": ("local t, i = {}, 0 while true do i = i + 1 t[i] = 'u' .. i end", "EITHER"),
    "cubic pattern": ("(('a'):rep(3000)):match('.*.*.*x')", "the pattern is too expensive for a text of 3000 bytes"),
    "lazy pattern": ("(('a'):rep(3000)):find('.-.-.-.-b')", "the pattern is too expensive for a text of 3000 bytes"),
    "optional items": ("(('a'):rep(40)):find(('a?'):rep(40) .. 'b')",
                       "the pattern is too expensive for a text of 40 bytes"),
    "a pattern in a loop": ("while true do (('a'):rep(1000)):find('.-b') end", BUDGET),
    "a long pattern": ("('a'):find(('a'):rep(300))", "the pattern is longer than 256 bytes"),
    "gsub that expands": ("(('a'):rep(60000)):gsub('.', ('%0'):rep(100))", "the result of gsub could be too long"),
    "format that expands": ("local s = ('a'):rep(60000) string.format('%s%s', s, s)",
                            "the result of string.format is too long"),
    "a huge unpack": ("return table.unpack({}, 1, 1e8)", "unpack gives at most 256 values"),
    "an overflowing unpack": ("local x = table.unpack({}, math.mininteger, math.maxinteger)",
                              "too many results to unpack"),
    "a long byte": ("(('x'):rep(60000)):byte(1, -1)", "'byte' takes at most 256 characters at once"),
    "inserts at the front": ("local t = {} for i = 1, 1e5 do t[i] = i end while true do table.insert(t, 1, 0) end",
                             "EITHER"),
    "hashing in a loop": ("local s = ('x'):rep(60000) while true do hash_str(s) end", BUDGET),
    "comparing long texts": ("local a = ('x'):rep(60000) for i = 1, 4 do a = a .. a end "
                             "local b, c = a .. 'b', a .. 'c' while true do local d = b < c end", "EITHER"),
    "a long concat": ("local t = {} for i = 1, 60000 do t[i] = ('x'):rep(200) end while true do table.concat(t) end",
                      "EITHER"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "end"), BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_ends_within_the_budget_and_the_next_decision_is_right(body: str, end: str) -> None:
    made = fleet()
    one = script(f"if request.stream then {body} end return workers[3]")
    started = time.process_time()
    choices = [one.route(request(stream=True), made) for _ in range(3)]
    spent_s = time.process_time() - started
    found = {choice.worker.id if choice.worker else error_of(choice) for choice in choices}
    if end == "EITHER":
        assert found <= {BUDGET, MEMORY}, found
    else:
        assert len(found) == 1 and end in str(found.pop()), choices
    assert spent_s < 3 * 0.25, "three decisions of 20 ms each took too long"
    assert [one.route(request(), made).worker for _ in range(3)] == [made.workers["w3"]] * 3


def test_a_decision_after_a_bomb_begins_with_a_budget_of_its_own() -> None:
    body, made = BOMBS["a long concat"][0], fleet()
    for _ in range(30):                                        # where the hook comes next is chance
        one = script(f"if request.stream then {body} end return workers[3]")
        one.route(request(stream=True), made)
        assert one.route(request(), made).worker is made.workers["w3"]


@pytest.mark.parametrize(
    ("pattern", "fits", "too_long"),
    [(".-b", 1990, 2010), (".*.*b", 155, 160), ("^.*.*b", 1990, 2010), ("a?" * 8 + "b", 15_000, 16_000),
     ("%bxy", 1990, 2010), ("[*+-]b", 65_536, None), ("%*%-%+b", 65_536, None), ("^a-b", 65_536, None)],
)  # fmt: skip
def test_a_pattern_is_refused_by_what_it_could_cost_at_worst(pattern: str, fits: int, too_long: int | None) -> None:
    body = "return string.find(('a'):rep({}), '{}') == nil and workers[1]"
    assert picked(body.format(fits, pattern)) == "w1"
    if too_long is not None:
        expected = f"routing.lua:2: the pattern is too expensive for a text of {too_long} bytes"
        assert picked(body.format(too_long, pattern)) == expected


def test_the_budget_is_the_operators() -> None:
    body = "for i = 1, 100000 do end return workers[1]"
    enough, scarce = (script(body, limits=Limits(instructions=count)) for count in (1_000_000, 50_000))
    assert enough.route(request(), fleet()).error is None
    assert error_of(scarce.route(request(), fleet())) == BUDGET


def test_loading_may_take_ten_times_the_budget_of_a_decision() -> None:
    source = b"for i = 1, %d do end function route_request(request, workers) return workers[1] end"
    limits = Limits(instructions=20_000, cpu_s=5.0)
    assert script(source % 100_000, limits=limits).route(request(), fleet()).error is None
    with pytest.raises(ScriptError, match="budget exceeded"):
        script(source % 400_000, limits=limits)


def test_processor_time_ends_what_instructions_do_not_show() -> None:
    limits = Limits(instructions=10**12, cpu_s=0.01)
    started = time.process_time()
    assert error_of(script("while true do end", limits=limits).route(request(), fleet())) == BUDGET
    assert time.process_time() - started < 0.2


def test_a_decision_may_add_as_much_memory_as_the_operator_says() -> None:
    body = "local s = ('x'):rep(65536) for i = 1, 5 do s = s .. s end return workers[1]"
    roomy, tight = (script(body, limits=Limits(memory_bytes=size << 20)) for size in (16, 1))
    assert roomy.route(request(), fleet()).error is None
    assert error_of(tight.route(request(), fleet())) == MEMORY


def test_the_memory_of_a_bomb_is_given_back() -> None:
    """Were it not, the state would be built anew, and the script would count from one again."""
    made = fleet()
    one = script(
        b"local calls = 0 function route_request(request) calls = calls + 1 "
        b"if request.stream then error(tostring(calls), 0) end local s = 'x' while true do s = s .. s end end"
    )
    for _ in range(50):
        assert error_of(one.route(request(), made)) == MEMORY
    assert one.route(request(stream=True), made).error == "routing.lua: 51"


def test_filling_memory_to_the_brim_leaves_the_host_able_to_update_its_workers() -> None:
    """A limit that stayed on would abort the process in the host's next push."""
    made = fleet()
    source = b"""local kept = {}
    function route_request(request, workers)
      local size = 60000
      while true do
        kept[#kept + 1] = string.rep("x", size) .. #kept
        if #kept > 60 and size > 40 then size = size // 2 end
      end
    end"""
    one = script(source)
    for step in range(20):
        assert error_of(one.route(request(), made)) in (BUDGET, MEMORY)
        fill(made, "w2", 1)
        made.configure([worker(f"w{number}", max_concurrency=99) for number in range(1, 4 + step % 3)])
    one = script("return workers[2].in_flight == 20 and workers[2]")
    assert one.route(request(), made).worker is made.workers["w2"]


def test_the_sandbox_alone_says_what_happened_as_a_code_and_a_text() -> None:
    sandbox = Sandbox(Limits(), Abilities())
    assert sandbox.load(b"x =", "a.lua") == (-1, "a.lua:1: unexpected symbol near <eof>")
    assert sandbox.load(b"x = 1", "a.lua") == (-6, "the script defines no function route_request(request, workers)")
    assert sandbox.load(b"error('no')", "a.lua") == (-7, "a.lua:1: no")
    assert sandbox.load(b"local x = nothing.x", "a.lua")[0] == -3
    assert sandbox.load(b"while true do end", "a.lua") == (-2, "a.lua:1: budget exceeded")
    assert sandbox.load(b"local s = 'x' while true do s = s .. s end", "a.lua") == (-4, "not enough memory")
    assert sandbox.load(b"function route_request() end", "a.lua") == (0, "")


def walked(table: str, before: str = "", inside: str = "") -> str:
    """The keys of a table in the order of `pairs`, joined."""
    body = f"{before} local keys = {{}} local t = {table} for key, value in pairs(t) do keys[#keys + 1] = tostring(key) {inside} end"
    return shown('table.concat(keys, " ")', before=body)


def test_pairs_goes_in_an_order_that_no_process_changes() -> None:
    assert walked('{ zeta = 1, alpha = 2, ["10"] = 3, [30] = 4, [2.5] = 5, "first", [true] = 6 }') == (
        "1 2.5 30 10 alpha zeta true"
    )
    assert walked("{ 'a', 'b', 'c' }") == "1 2 3"
    assert walked("{}") == ""
    assert walked("string").split()[:3] == ["byte", "char", "contains"]


def test_what_a_walk_sets_to_nil_does_not_come_any_more_and_new_values_are_seen() -> None:
    assert walked("{ a = 1, b = 2, c = 3, d = 4 }", inside="t.c = nil t[key] = nil") == "a b d"
    summed = "local sum = 0 local t = { a = 1, b = 2 } for key, value in pairs(t) do t.b = 10 sum = sum + value end"
    assert shown("sum", before=summed) == "11"


def test_putting_many_keys_in_order_is_paid_for_by_the_budget() -> None:
    body = "local t = {} for i = 1, 3000 do t['key-' .. i] = i end local n = 0 for _ in pairs(t) do n = n + 1 end"
    choice = script(body, limits=Limits(instructions=150_000)).route(request(), fleet(worker("a")))
    assert "budget" in (error_of(choice) or "")
