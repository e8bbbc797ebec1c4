"""Time, chance, hashes, log, state, param and strategy, as a script calls them (helpers.lua)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Request, Worker
from rbeerouter.dialects.surfaces import SURFACES
from rbeerouter.routing.sandbox import Limits
from rbeerouter.routing.script import ScriptError
from rbeerouter.routing.strategies import STRATEGIES
from tests.support.builders import WALL, Clock, fleet, picked, quick, request, script, shown, told, worker

# rand, timestamp, hash_str.


def test_rand_is_at_least_zero_and_below_one_and_follows_the_seed() -> None:
    body = "local t = {} for i = 1, 20 do t[i] = string.format('%.6f', rand()) end"
    rolls = [
        [float(roll) for roll in (script(f"{body} error(table.concat(t, ' '), 0)", seed=seed)
                                  .route(request(), fleet()).error or "").split()[1:]]
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert rolls[0] == rolls[1] != rolls[2]
    assert all(0 <= roll < 1 for roll in rolls[0]) and len(set(rolls[0])) == 20


@pytest.mark.parametrize(
    ("offset_s", "expected"),
    [(0, "12 0 0"), (3600, "13 0 0"), (-5 * 3600, "7 0 0"), (5 * 3600 + 1800, "17 30 0"), (12 * 3600, "0 0 1"),
     (-12 * 3600 - 60, "23 59 6")],
)  # fmt: skip
def test_the_clock_shows_local_time(offset_s: int, expected: str) -> None:
    clock = Clock()
    clock.utc_offset_s = offset_s
    asked = "local t = timestamp() error(t:hour() .. ' ' .. t:minute() .. ' ' .. t:weekday(), 0)"
    choice = script(asked, clock=clock).route(request(), fleet())
    assert choice.error == f"routing.lua: {expected}"


def test_the_clock_moves_with_each_request_and_daylight_saving_is_seen_within_a_minute() -> None:
    clock = Clock()
    one = script("error(timestamp():hour() .. ':' .. timestamp():minute(), 0)", clock=clock)
    seen = []
    for seconds, offset_s in ((0.0, 0), (3600.0, 0), (10.0, 3600), (50.0, 3600), (-7200.0, 3600)):
        clock.advance(seconds)
        clock.utc_offset_s = offset_s
        seen.append((one.route(request(), fleet()).error or "").removeprefix("routing.lua: "))
    assert seen == ["12:0", "13:0", "13:0", "14:1", "12:1"]


def test_the_clock_tells_unix_seconds() -> None:
    assert shown("timestamp():epoch()") == str(WALL)


def fold(data: bytes) -> int:
    """FNV-1a, 64 bits, its halves folded into one: written from the definition, not from prelude.lua."""
    value = fnv1a(data)
    return (value ^ value >> 32) & 0xFFFFFFFF


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for octet in data:
        value = (value ^ octet) * 0x100000001B3 % (1 << 64)
    return value


def test_the_reference_gives_the_published_hashes() -> None:
    assert [fnv1a(text) for text in (b"", b"a", b"foobar")] == [
        0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "a", "foobar", "user-42", "ü", "x" * 7, "x" * 8, "x" * 9, "x" * 16, "x" * 1000])
def test_hash_str_is_folded_fnv_1a(text: str) -> None:
    assert shown(f"hash_str({text!r})") == str(fold(text.encode()))


def test_hash_str_never_changes() -> None:
    assert [shown(f"hash_str('{text}')") for text in ("", "a", "foobar", "user-42")] == [
        "1339080641", "694300864", "1923950233", "2146635118",
    ]  # fmt: skip


@quick(max_examples=80)
@given(st.binary(max_size=60))
def test_hash_str_hashes_any_bytes(data: bytes) -> None:
    spelled = "".join(f"\\x{octet:02x}" for octet in data)
    assert shown(f"hash_str('{spelled}')") == str(fold(data))


def test_hash_str_of_a_number_hashes_its_digits() -> None:
    assert shown("hash_str(12345)") == str(fold(b"12345"))


# The calendar.


def calendar(wall: float, offset_s: int) -> str:
    clock = Clock()
    clock.wall_s, clock.utc_offset_s = wall, offset_s
    asked = (
        "local t = timestamp() log(t:year(), t:month(), t:day(), t:weekday(), t:hour(), t:minute(), t:iso())"
    )  # fmt: skip
    return script(asked, clock=clock).route(request(), fleet()).log[0]


def expected_calendar(wall: float, offset_s: int) -> str:
    then = datetime.fromtimestamp(wall, timezone(timedelta(seconds=offset_s)))
    iso = then.replace(microsecond=0).isoformat()
    return f"{then.year} {then.month} {then.day} {then.isoweekday() % 7} {then.hour} {then.minute} {iso}"


@quick(max_examples=300)
@given(st.integers(86_400_000, 4_102_444_800_000 * 2), st.integers(-14 * 4, 14 * 4).map(lambda quarters: quarters * 900))
def test_the_calendar_agrees_with_python_at_any_millisecond_and_offset(wall_ms: int, offset_s: int) -> None:
    assert calendar(wall_ms / 1000, offset_s) == expected_calendar(wall_ms / 1000, offset_s)


@pytest.mark.parametrize("year", [1970, 1999, 2000, 2024, 2026, 2028, 2100, 2400])
def test_the_calendar_knows_the_ends_of_februaries_and_years(year: int) -> None:
    for month, day in ((1, 1), (2, 28), (3, 1), (12, 31)):
        start = datetime(year, month, day, tzinfo=UTC).timestamp()
        for wall, offset_s in ((start, 0), (start + 86399.9, 0), (start, -1800), (start, 5 * 3600 + 2700), (start + 86399, 3600)):
            if wall + offset_s >= 0 and wall > 3600:
                assert calendar(wall, offset_s) == expected_calendar(wall, offset_s)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"])
def test_the_calendar_follows_a_time_zone_through_its_changes(zone: str) -> None:
    place = ZoneInfo(zone)
    for day in range(0, 366, 3):
        then = datetime(2026, 1, 1, 0, 30, tzinfo=UTC) + timedelta(days=day, minutes=day * 7)
        offset = then.astimezone(place).utcoffset()
        assert offset is not None
        assert calendar(then.timestamp(), int(offset.total_seconds())).endswith(then.astimezone(place).isoformat())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("timestamp():huor()", "timestamp() has no 'huor'; did you mean 'hour'?"),
        ("timestamp().nothing_near_it", "timestamp() has no 'nothing_near_it'"),
        ("timestamp().hour = 5", "cannot set 'hour': this object is read-only"),
        ("rand(10)", "rand() takes no arguments; for a whole number from 1 to 10 write math.random(1, 10)"),
    ],
)
def test_time_and_chance_say_what_they_have(wrong: str, error: str) -> None:
    assert picked(f"local x\n{wrong if '=' in wrong else 'x = ' + wrong}") == f"routing.lua:3: {error}"


# log and print.


def logged(body: str, limits: Limits | None = None, **changes: Any) -> tuple[str, ...]:
    return script(body, limits=limits).route(request(**changes), fleet()).log


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("'a', 1, 2.5, true, nil", "a 1 2.5 true nil"), ("", ""), ("nil, nil", "nil nil"), ("workers[1]", "worker(w1)"),
        ("{1, 2, 'x'}", '{1, 2, "x"}'), ("{a = 1}", "{a = 1}"), ("{1, {2, {3, {4}}}}", "{1, {2, {3, {...}}}}"),
        ("{}", "{}"), ("workers", "{worker(w1), worker(w2), worker(w3)}"), ("workers[1].models", '{"m"}'),
        ("request.metadata", '{type = "llm"}'), ("hash_str", "function"), ("{hash_str}", "{function}"), ("0/0", "-nan"),
        ("workers:sort_by('load')", "{worker(w1), worker(w2), worker(w3)}"), ("'a\\nb'", "a\nb"), ("'\\255x'", "?x"),
        ("{[1.5] = 2}", "{1.5 = 2}"), ("{[{}] = 1}", "{}"), ("{[true] = 'x'}", '{true = "x"}'), ("state", "{"),
    ],
)  # fmt: skip
def test_log_shows_values_as_a_person_reads_them(arguments: str, line: str) -> None:
    for name in ("log", "print"):
        (shown_line,) = logged(f"{name}({arguments})")
        assert shown_line.startswith(line) if line == "{" else shown_line in (line, line.replace("-nan", "nan"))


def test_a_wide_table_is_cut() -> None:
    (line,) = logged("local t = {} for i = 1, 100 do t[i] = i end log(t)")
    assert line == "{" + ", ".join(str(number) for number in range(1, 21)) + ", ...}"
    (line,) = logged("local t = {} for i = 1, 100 do t['k' .. i] = i end log(t)")
    assert line.endswith(", ...}") and line.count("=") == 20


def test_a_table_that_holds_itself_is_shown_to_a_depth() -> None:
    assert logged("local t = {} t.t = t log(t)") == ("{t = {t = {t = {...}}}}",)


def test_the_log_of_a_decision_is_bounded_in_lines_and_length() -> None:
    lines = logged("for i = 1, 50 do log(i, ('x'):rep(100)) end", Limits(log_lines=3, log_line_chars=20))
    assert lines == ("1 " + "x" * 18 + "...", "2 " + "x" * 18 + "...", "3 " + "x" * 18 + "...",
                     "(more was left out: [routing] log_lines)")  # fmt: skip


def test_each_decision_has_its_own_log_also_when_it_fails() -> None:
    made, one = fleet(), script("log(request.model) if request.stream then error('x') end return workers[1]")
    found = [one.route(request(model=name, stream=name == "b"), made).log for name in "abc"]
    assert found == [("a",), ("b",), ("c",)]


@pytest.mark.parametrize(
    "body",
    ["log('x') while true do end", "log('x') local s = 'x' while true do s = s .. s end", "log('x') return 5", "log('x') return {{}}"],
)
def test_what_was_logged_before_a_fault_is_kept(body: str) -> None:
    choice = script(body).route(request(), fleet())
    assert choice.error is not None and choice.log == ("x",)


def test_a_line_that_fails_while_it_is_shown_is_not_there_and_harms_nothing() -> None:
    made, one = fleet(), script("if request.stream then log(workers:sort_by('models')) end log('fine') return workers[1]")
    assert told(one.route(request(stream=True), made)) == "routing.lua:2: cannot compare a table with a table"
    assert one.route(request(), made).log == ("fine",)


def test_what_is_logged_at_load_is_noted_and_not_told_of_a_decision() -> None:
    one = script(b"log('hello') function route_request() log('x') end")
    assert (one.notes, one.route(request(), fleet()).log) == (["hello"], ("x",))


# state.


def test_state_lasts_from_request_to_request() -> None:
    made, one = fleet(), script("log(state:incr('n'), state:get('n'), state:get('no', 7), state:get('no'))")
    assert [one.route(request(), made).log[0] for _ in range(3)] == ["1 1 7 nil", "2 2 7 nil", "3 3 7 nil"]


@pytest.mark.parametrize(
    ("statements", "value"),
    [
        ("state:set('k', 'text')", "text"), ("state:set('k', 1.5)", "1.5"), ("state:set('k', false)", "false"),
        ("state:set('k', 1) state:set('k', nil)", "nil"), ("state:set('k', 1) state:set('k', 'x')", "x"), ("state:incr('k', 5)", "5"),
        ("state:incr('k') state:incr('k', -3)", "-2"), ("state:incr('k', 0.5)", "0.5"), ("state:set('k', '')", ""),
        ("state:set('', 1) state:set('k', state:get(''))", "1"), ("state:set('k', 1, 60)", "1"), ("state:incr('k', 1, 60)", "1"),
        ("state:set(('x'):rep(512), 1) state:set('k', 2)", "2"), ("state:set('k', ('x'):rep(4096))", "x" * 1000 + "..."),
    ],
)  # fmt: skip
def test_state_keeps_texts_numbers_and_booleans(statements: str, value: str) -> None:
    assert shown("state:get('k')", None, statements) == value


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("state:set('k', {})", "state:set keeps texts, numbers and booleans, not a table"),
        ("state:set('k', workers[1])", "state:set keeps texts, numbers and booleans, not a table"),
        ("state:set('k', print)", "state:set keeps texts, numbers and booleans, not a function"),
        ("state:set('k', ('x'):rep(20000))", "state:set: a text has at most 16384 bytes, this one has 20000"),
        ("state:set(('k'):rep(513), 1)", "state:set: a key has at most 512 bytes, this one has 513"),
        ("state:set(5, 1)", "state:set expects a text as its key, got number"),
        ("state:get(nil)", "state:get expects a text as its key, got nil"),
        ("state:incr(request.user_id)", "state:incr expects a text as its key, got nil"),
        ("state:set('k', 1, 0)", "state:set expects a number of seconds above 0 as its ttl, got 0"),
        ("state:set('k', 1, -1)", "state:set expects a number of seconds above 0 as its ttl, got -1"),
        ("state:set('k', 1, 'x')", "state:set expects a number of seconds above 0 as its ttl, got x"),
        ("state:incr('k', 'x')", "state:incr expects a number to add, got string"),
        ("state:set('k', 'x') state:incr('k')", "state:incr: 'k' holds a string, not a number"),
        ("state.get('k')", "call it with a colon: state:get(...)"),
        ("state.k = 1", "cannot set 'k': this object is read-only"),
        ("local x = state.sett", "state has no 'sett'; did you mean 'set'? (write state:get(\"name\"))"),
        ("local x = state.counter", "state has no 'counter' (write state:get(\"name\"))"),
    ],
)  # fmt: skip
def test_state_says_what_it_expects(statement: str, error: str) -> None:
    assert picked(f"\n{statement}") == f"routing.lua:3: {error}"


def test_an_entry_expires_and_incr_keeps_its_first_time() -> None:
    clock = Clock()
    one = script("log(state:incr('n', 1, 10), state:get('m')) state:set('m', 1, 5)", clock=clock)
    seen = []
    for seconds in (0, 4, 5.9, 0.2, 4.9, 100):
        clock.advance(seconds)
        seen.append(one.route(request(), fleet()).log[0])
    assert seen == ["1 nil", "2 1", "3 nil", "1 1", "2 1", "1 nil"]


def test_past_its_keys_the_state_forgets_what_was_written_longest_ago() -> None:
    one = script("state:set('k' .. request.max_tokens, 1) state:set('first', 1)", limits=Limits(state_keys=10))
    for number in range(30):
        assert one.route(request(max_tokens=number), fleet()).error is None
    keys = [key for key, *_ in one.state()]
    assert len(keys) <= 10 and keys[-2:] == ["k29", "first"]
    numbers = [int(key[1:]) for key in keys[:-1]]
    assert numbers == list(range(numbers[0], 30))


def test_past_its_keys_the_state_forgets_what_has_expired_first() -> None:
    clock = Clock()
    one = script("state:set('old', 1) for i = 1, request.max_tokens do state:set('t' .. i, i, 5) end", clock=clock, limits=Limits(state_keys=10))
    one.route(request(max_tokens=8), fleet())
    clock.advance(6)
    one.route(request(max_tokens=0), fleet())
    again = script("for i = 1, 9 do state:set('n' .. i, i) end", clock=clock, limits=Limits(state_keys=10))
    again.adopt(one)
    again.route(request(), fleet())
    assert [key for key, *_ in again.state()] == ["old", *(f"n{number}" for number in range(1, 10))]


def test_past_its_bytes_the_state_forgets_too() -> None:
    one = script("state:set('k' .. request.max_tokens, ('x'):rep(1000))", limits=Limits(state_bytes=10_000))
    for number in range(30):
        one.route(request(max_tokens=number), fleet())
    assert 5 <= len(one.state()) <= 10 and one.state()[-1][0] == "k29"


def test_state_survives_a_new_script_with_its_order_and_its_times() -> None:
    clock, made = Clock(), fleet()
    old = script("state:set('b', 'ü', 10) state:set('a', 1.5) state:set('c', false) state:incr('n', 3)", clock=clock)
    old.route(request(), made)
    new = script("log(state:get('b'), state:get('a'), state:get('c'), state:incr('n'))", clock=clock)
    new.adopt(old)
    assert [key for key, *_ in new.state()] == ["b", "a", "c", "n"]
    assert new.route(request(), made).log == ("ü 1.5 false 4",)
    clock.advance(10.5)
    assert new.route(request(), made).log == ("nil 1.5 false 5",)


def test_state_is_there_again_after_the_heap_was_built_anew() -> None:
    source = b"""local kept, calls = {}, 0
    function route_request(request, workers)
      calls = calls + 1
      for i = 1, 12000 do kept = { kept } end
      log(state:incr("n"), calls)
    end"""
    made, one = fleet(), script(source)
    seen = [one.route(request(), made).log[0].split() for _ in range(20)]
    assert [int(count) for count, _ in seen] == list(range(1, 21))
    assert [calls for _, calls in seen].count("1") > 1, "the state was never built anew"


def test_a_self_test_leaves_no_state() -> None:
    one = script("log(state:incr('n')) return workers[1]")
    assert one.self_test(fleet()) is None and one.state() == []
    assert one.route(request(), fleet()).log == ("1",)


def test_a_script_goes_on_when_its_state_is_full() -> None:
    one = script("state:incr('user' .. request.max_tokens) return workers[1]")
    for number in range(10_500):
        choice = one.route(request(max_tokens=number), fleet() if number == 0 else MADE)
        assert choice.error is None, (number, choice.error)


def test_an_endless_ttl_survives_a_new_script() -> None:
    old, new = script("state:set('k', 1, math.huge)"), script("log(state:get('k'))")
    old.route(request(), fleet())
    new.adopt(old)
    assert new.state() and new.route(request(), fleet()).log == ("1",)


@pytest.mark.parametrize("call", ["state:set('k', 1/0)", "state:set('k', 0/0)", "state:incr('k', math.huge)"])
def test_state_keeps_finite_numbers_only(call: str) -> None:
    said = picked(f"{call} return workers[1]")
    assert said is not None
    assert "finite" in said or "would be inf" in said


MADE = fleet()

# param.


def test_a_param_has_its_default_until_it_is_set() -> None:
    made, one = fleet(), script("log(param('canary_percent', 25, 0, 100))")
    assert one.route(request(), made).log == ("25",)
    one.set_param("canary_percent", 60)
    assert one.route(request(), made).log == ("60",)
    assert one.params() == {"canary_percent": {"value": 60, "default": 25, "min": 0, "max": 100}}


def test_a_param_is_known_before_it_is_reached_when_its_call_is_plain() -> None:
    one = script("if request.stream then\n  return workers[param('index', 1, 1, 3)]\nend\nreturn workers[2]")
    assert one.params() == {"index": {"value": 1, "default": 1, "min": 1, "max": 3}}
    one.set_param("index", 3)
    made = fleet()
    assert one.route(request(stream=True), made).worker is made.workers["w3"]


def test_a_param_whose_name_is_made_up_is_known_once_it_was_reached() -> None:
    one = script("log(param('a' .. 1, 0.5, 0, 1))")
    assert one.params() == {}
    one.route(request(), fleet())
    assert one.params() == {"a1": {"value": 0.5, "default": 0.5, "min": 0, "max": 1}}


@pytest.mark.parametrize(("value", "error"), [(101, ValueError), (-0.1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError)])
def test_a_param_is_set_within_its_bounds_only(value: float, error: type[Exception]) -> None:
    one = script("log(param('p', 25, 0, 100))")
    with pytest.raises(error, match="expected a number from 0 to 100"):
        one.set_param("p", value)
    with pytest.raises(KeyError):
        one.set_param("q", 1)
    assert one.route(request(), fleet()).log == ("25",)


def test_params_that_were_set_go_over_to_a_new_script_which_may_have_other_bounds() -> None:
    old, new = script("log(param('p', 25, 0, 100))"), script("log(param('p', 5, 0, 10))")
    old.set_param("p", 60)
    new.adopt(old)
    assert new.params()["p"]["value"] == 10 and new.route(request(), fleet()).log == ("10",)


def test_params_that_were_set_survive_a_heap_that_is_built_anew() -> None:
    source = b"kept = {} function route_request() for i = 1, 20000 do kept = { kept } end log(param('p', 1, 0, 9)) end"
    one = script(source, limits=Limits(cpu_s=10.0))
    one.set_param("p", 7)
    assert {one.route(request(), fleet()).log for _ in range(12)} == {("7",)}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("param('p')", "param(name, default, min, max): argument "),
        ("param('p', '1', 0, 2)", "param(name, default, min, max): argument 2 is a number, got string"),
        ("param('p', 1, 0, 0/0)", "param(name, default, min, max): argument 4 is a finite number, got "),
        ("param('p', 1, 0, 1/0)", "param(name, default, min, max): argument 4 is a finite number, got inf"),
        ("param({}, 1, 0, 2)", "bad argument #1 to 'param' (string expected, got table)"),
        ("param('p', 3, 0, 2)", "param 'p': the default 3 is not within 0 and 2"),
        ("param('p', 1, 2, 0)", "param 'p': the default 1 is not within 2 and 0"),
    ],
)
def test_param_says_what_it_expects(call: str, error: str) -> None:
    assert str(picked(f"return {call}")).startswith(f"routing.lua:2: {error}")


def test_a_param_may_be_read_while_the_script_is_loaded() -> None:
    one = script(b"local share = param('share', 2, 1, 3) function route_request(_, workers) return workers[share] end")
    assert one.params()["share"]["value"] == 2


# strategy.


def least(name: str, _: Request, workers: list[Worker]) -> Worker | None:
    """Stands for the built-in ones: the last ready one of the list, and what it was asked is in `ASKED`."""
    ASKED.append((name, [one.id for one in workers]))
    return next((one for one in reversed(workers) if one.status == "ready"), None)


ASKED: list[tuple[str, list[str]]] = []


def chosen(body: str | bytes, made: Fleet | None = None, explain: bool = False, **changes: Any) -> str | None:
    ASKED.clear()
    choice = script(body, explain=explain).route(request(**changes), made or fleet(), least)
    return choice.worker.id if choice.worker else told(choice)


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize(
    ("body", "worker", "asked"),
    [
        ("return strategy('least-request')(request, workers)", "w3", [["w1", "w2", "w3"]]),
        ("return strategy('least-request')(request, workers:filter(function(w) return w.id ~= 'w3' end))", "w2", [["w1", "w2"]]),
        ("return strategy('least-request')(request, { workers[2], workers[1] })", "w1", [["w2", "w1"]]),
        ("return strategy('least-request')(request, workers:sort_by(function(a, b) return a.id > b.id end))", "w1", [["w3", "w2", "w1"]]),
        ("return strategy('least-request')(request, workers:filter(function() end))", None, []),
        ("return strategy('least-request')(request, {}) or workers[2]", "w2", []),
        ("local f = strategy('least-request') return f(request, { f(request, workers), f(request, { workers[1] }) })", "w1",
         [["w1", "w2", "w3"], ["w1"], ["w3", "w1"]]),
        ("return workers:filter(function(w) return strategy('least-request')(request, { w }) == workers[2] end)[1]", "w2",
         [["w1"], ["w2"], ["w3"]]),
        ("local sorted = workers:sort_by(function(a, b) return strategy('least-request')(request, { a, b }) == a end) return sorted[1]",
         "w1", [["w2", "w1"], ["w3", "w1"]]),
        ("for _, name in ipairs({'round-robin', 'ROUND_ROBIN', 'Least_Request'}) do strategy(name) end return workers[1]", "w1", []),
    ],
)  # fmt: skip
def test_a_strategy_can_be_asked_and_put_together(body: str, worker: str | None, asked: list[list[str]], explain: bool) -> None:
    assert (chosen(body, explain=explain), [ids for _, ids in ASKED]) == (worker, asked)


def test_a_strategy_is_asked_by_its_right_name() -> None:
    chosen("return strategy('LEAST_request')(request, workers)")
    assert ASKED[0][0] == "least-request"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("strategy('least-requst')", "there is no strategy 'least-requst'; did you mean 'least-request'?"),
        ("strategy('zzz')", "there is no strategy 'zzz'; known: round-robin,least-request"),
        ("strategy(5)", "there is no strategy '5'; known: round-robin,least-request"),
        ("strategy('least-request:2,zzz')", "there is no strategy 'zzz'; known: round-robin,least-request"),
        ("strategy('least_connections:1,least-request:x')", "strategy: the weight 'x' of least-request: expected a whole number from 0 to 1000000"),
        ("strategy('least-request:1000001')", "strategy: the weight '1000001' of least-request: expected a whole number from 0 to 1000000"),
        ("strategy('least-request:0,round-robin:0')", "strategy: every weight of 'least-request:0,round-robin:0' is 0"),
        ("strategy('least-request,round-robin')", "strategy: round-robin cannot be part of a list"),
        ("strategy('least-request,' .. ('x'):rep(1000))", "a list of strategies with 1014 characters"),
        ("strategy('least_request : 2 , round_robin : 0')(request, workers)", None),
        ("strategy({})", "bad argument #1 to 'strategy' (string expected, got table)"),
        ("strategy('least-request')(request)", 'strategy("least-request") is called with (request, workers), got nil as workers'),
        ("strategy('least-request')(workers)", 'strategy("least-request") is called with (request, workers), got nil as workers'),
        ("strategy('least-request')(request, { 1 })", 'strategy("least-request"): item 1 of the list is no worker'),
        ("strategy('least-request')(request, { workers[1], 'w2' })", 'strategy("least-request"): item 2 of the list is no worker'),
        ("strategy('least-request')(request, request.metadata)", None),
    ],
)  # fmt: skip
def test_strategy_says_what_it_expects(body: str, error: str | None) -> None:
    known = ",".join(STRATEGIES)
    expected = error and "routing.lua:2: " + error.replace("round-robin,least-request", known)
    assert chosen(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        "(('a'):gsub('a', function() return strategy('least-request')(request, workers).id end))",
        "table.concat(workers:map(function(w) return w.id end):sort_by(function() return strategy('least-request')(request, workers) end))",
    ],
)
def test_a_strategy_cannot_be_asked_across_a_c_function(body: str) -> None:
    error = "routing.lua:2: a strategy cannot be asked inside of a text function's callback"
    assert chosen(f"local x = {body} return workers[1]") == error


def test_a_strategy_cannot_be_asked_while_the_script_is_loaded() -> None:
    with pytest.raises(ScriptError, match=r"routing\.lua:1: a strategy can be asked only while a request is decided"):
        script(b"strategy('least-request')({}, { 1 }) function route_request() end")


def test_an_error_after_a_question_does_not_harm_the_next_decision() -> None:
    made = fleet()
    body = "local one = strategy('least-request')(request, workers) if request.stream then %s end return one"
    for harm in ("error('x')", "local x = one.role.y", "while true do end", "local s = 'x' while true do s = s .. s end"):
        one = script(body % harm)
        for _ in range(3):
            assert one.route(request(stream=True), made, least).error is not None
            assert one.route(request(), made, least).worker is made.workers["w3"]


def test_an_error_in_the_strategy_itself_does_not_harm_the_next_decision() -> None:
    made, one = fleet(), script("return strategy('least-request')(request, workers)")

    def broken(*_: Any) -> Worker | None:
        raise RuntimeError("broken")

    for _ in range(3):
        with pytest.raises(RuntimeError):
            one.route(request(), made, broken)
        assert one.route(request(), made, least).worker is made.workers["w3"]


def test_the_budget_goes_on_behind_a_question() -> None:
    limits = Limits(instructions=20_000, cpu_s=5.0)
    one = script("while true do strategy('least-request')(request, workers) end", limits=limits)
    ASKED.clear()
    assert told(one.route(request(), fleet(), least)) == "routing.lua:2: budget exceeded"
    assert 10 < len(ASKED) < 2000


def test_the_log_is_kept_across_a_question() -> None:
    one = script("log('before') local x = strategy('least-request')(request, workers) log('after', x) return x")
    assert one.route(request(), fleet(), least).log == ("before", "after worker(w3)")


@pytest.mark.parametrize("length", [20])
def test_a_line_that_is_cut_inside_of_a_character_keeps_the_others(length: int) -> None:
    (line,) = logged("log('x' .. ('ü'):rep(50))", Limits(log_line_chars=length))
    assert line.startswith("xüüüüüüü")


def test_what_was_deleted_from_the_state_stays_deleted_when_another_script_takes_it_over() -> None:
    old, new = script("state:set('gone', 1) state:set('kept', 1)"), script("state:set('gone', nil) return workers[1]")
    back = script("log(state:get('gone'), state:get('kept'))")
    for one in (old, back):
        one.route(request(), fleet())
    back.adopt(old)
    new.adopt(old)
    new.route(request(), fleet())
    back.adopt(new)
    assert back.route(request(), fleet()).log == ("nil 1",)


def test_a_param_that_counts_stays_a_whole_number() -> None:
    one = script("return 'w' .. param('which', 1, 1, 3)")
    one.set_param("which", 2.0)
    assert (one.route(request(), fleet()).worker or fleet().workers["w1"]).id == "w2"
    assert one.params()["which"]["value"] == 2 and isinstance(one.params()["which"]["value"], int)


@pytest.mark.parametrize(
    ("path", "protocol"),
    [(surface.name, surface.protocol) for surface in SURFACES.values()],
)
def test_the_protocol_of_a_request_is_that_of_its_path(path: str, protocol: str) -> None:
    source = "log(request.protocol) return nil"
    by = script(source)
    choice = by.route(request(path=path), fleet(worker("a")))
    assert (choice.error, choice.log) == (None, (protocol,))
