"""The user's script: how it is loaded, what its answers become, what it sees of the fleet, and what it remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Report
from rbeerouter.routing.sandbox import Limits
from rbeerouter.routing.script import MAX_SOURCE_BYTES, Script, ScriptError, read_source, script_fields
from tests.support.builders import (
    FULL_WORKER,
    ask,
    down,
    env,
    fill,
    fleet,
    lua,
    picked,
    quick,
    request,
    script,
    worker,
)

# The answer: a plain one; test_answers.py has the others.

WRONG = (
    "routing.lua:2: route_request returned %s; expected a worker, a worker id, a list of them, nil, queue(...), "
    "reject{...} or {worker = ..., model = ..., headers = ..., reason = ...}"
)


def test_the_answer_names_its_worker_and_its_line() -> None:
    choice = ask("if request.stream then\n  return workers[1]\nend\n\nreturn workers[3]")
    assert (choice.worker and choice.worker.id, choice.line, choice.error) == ("w3", 6, None)


@pytest.mark.parametrize(("stream", "line"), [(True, 3), (False, 5)])
def test_of_several_returns_the_one_that_was_taken_is_named(stream: bool, line: int) -> None:
    body = (
        "if request.stream then\nreturn workers[1] else\nlocal f = function() return 1 end\nreturn workers[f() + 1] end"
    )
    assert ask(body, stream=stream).line == line


def test_a_line_is_not_kept_from_the_request_before() -> None:
    made, one = fleet(), script("if request.stream then return workers[1] end")
    assert [one.route(request(stream=stream), made).line for stream in (True, False)] == [2, 0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("workers[1], 'the first', 5", "w1"), ("{}", None), ("workers", "w1"), ("{workers[2], 'w1'}", "w2"),
        ("'w3'", "w3"), ("workers:sort_by('id')[-1]", "w3"),
        ("{id = 'w1'}", WRONG % "a table"), ("request", WRONG % "a table"), ("1", WRONG % "a number"),
        ("true", WRONG % "a boolean"), ("route_request", WRONG % "a function"),
        ("''", WRONG % "the unknown worker id ''"), ("'W1'", WRONG % "the unknown worker id 'W1'"),
        ("'w1\\0'", WRONG % "the unknown worker id 'w1?'"), ("'\\xff'", WRONG % "the unknown worker id '?'"),
        ("nil", None), ("", None), ("workers[99]", None), ("workers:min_by('ttft_ms')", None),
    ],
)  # fmt: skip
def test_an_answer_is_a_worker_or_its_id_or_nil(answer: str, expected: str | None) -> None:
    assert picked(f"return {answer}") == expected


def test_a_wrong_answer_without_a_known_line_names_none() -> None:
    assert "line 0" not in str(picked(b"local function f() return function() return {} end end route_request = f()"))


def test_a_script_that_meddles_with_the_line_gets_no_further_than_its_own_choice() -> None:
    choice = ask("_rbee_line = 0.5")
    assert choice.worker is None


# Loading.


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (b"function route_request(r, w)\n  while true do\n",
         "routing.lua:3: 'end' expected (to close 'while' at line 2) near <eof>"),
        (b"return", "routing.lua: the script defines no function route_request(request, workers)"),
        (b"\n@", "routing.lua:2: unexpected symbol near '@'"),
        (b"\x1bLua", "routing.lua: attempt to load a binary chunk (mode is 't')"),
        (b"", "routing.lua: the script defines no function route_request(request, workers)"),
        (b"route_request = 5", "routing.lua: the script defines no function route_request(request, workers)"),
        (b"function route_reqest() end", "routing.lua: the script defines no function route_request(request, workers)"),
        (b"local function route_request() end",
         "routing.lua: the script defines no function route_request(request, workers)"),
        (b"\nlocal x = nothing.x", "routing.lua:2: attempt to index a nil value (global 'nothing')"),
        (b"error('not today')", "routing.lua:1: not today"),
        (b"while true do end", "routing.lua:1: budget exceeded"),
        (b"local s = 'x' while true do s = s .. s end", "routing.lua: not enough memory"),
        (b"os.exit()", "routing.lua:1: 'os' is not available in routing scripts"),
    ],
)  # fmt: skip
def test_a_script_that_cannot_be_used_is_refused_with_its_line(source: bytes, error: str) -> None:
    with pytest.raises(ScriptError) as raised:
        script(source)
    assert str(raised.value).partition(" (hint: ")[0] == error


def test_a_script_that_is_too_long_is_refused_before_it_is_compiled() -> None:
    fits = lua("return workers[1]").ljust(MAX_SOURCE_BYTES)
    assert picked(fits) == "w1"
    with pytest.raises(ScriptError) as raised:
        script(fits + b" ")
    assert str(raised.value) == "routing.lua: 32769 bytes; a script may have at most 32768"
    assert raised.value.problem is None


def test_a_script_that_cannot_be_used_is_told_in_parts_too() -> None:
    with pytest.raises(ScriptError) as raised:
        script(b"function route_request(request, workers)\n  if request.stream != true then return nil end\nend")
    problem = raised.value.problem
    assert problem is not None and str(problem) == str(raised.value)
    assert (problem.file, problem.line, problem.hint) == ("routing.lua", 2, "Lua writes `~=` for not equal")


def test_a_file_is_named_by_its_last_part(tmp_path: Path) -> None:
    path = tmp_path / "mine.lua"
    path.write_bytes(lua("error('x')"))
    loaded = Script(read_source(path), path.name, env())
    assert (loaded.name, loaded.hash, loaded.place(3), loaded.place(0)) == (
        "mine.lua",
        "8149831e2501",
        "mine.lua:3",
        "mine.lua",
    )
    assert loaded.route(request(), fleet()).error == "mine.lua:2: x"


def test_a_file_that_cannot_be_read_is_refused_with_its_path(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "no.lua", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ScriptError) as raised:
            read_source(path)
        assert str(raised.value) == f"{path}: cannot be read: {why}"


def test_a_file_may_have_a_name_that_is_not_utf_8() -> None:
    assert Script(lua("return workers[1]"), "caf\udce9.lua", env()).route(request(), fleet()).error is None


def test_a_long_file_name_is_shortened() -> None:
    name = "x" * 70 + ".lua"
    error = Script(lua("error('no')"), name, env()).route(request(), fleet()).error
    assert error == "...xxxxxxxx.lua:2: no"


def test_a_top_level_global_is_the_scripts_own_and_lasts() -> None:
    made, one = (
        fleet(),
        script(b"turn = 0 function route_request(_, workers) turn = turn % #workers + 1 return workers[turn] end"),
    )
    seen = [one.route(request(), made).worker for _ in range(4)]
    assert [worker and worker.id for worker in seen] == ["w1", "w2", "w3", "w1"]


# The self-test.


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("return workers[1]", None),
        ("return nil", None),
        ("return workers:filter(function(w) return w.status == 'ready' and w.load == 0 end)[3].id", None),
        ("error('No workers available')", None),
        ("error({})", None),
        (
            "return request.metadata:get('type') == 'llm' and request.model == 'm' and workers[2] or workers[1].role.y",
            None,
        ),
        ("return workers[1].gpu.name", "routing.lua:2: a worker has no field 'gpu'"),
        ("return nothing()", "routing.lua:2: attempt to call a nil value (global 'nothing')"),
        ("while true do end", "routing.lua:2: budget exceeded"),
        ("local s = 'x' while true do s = s .. s end", "routing.lua: not enough memory"),
        ("local x = hash_str({})", "routing.lua:2: bad argument #1 to 'hash_str' (string expected, got table)"),
        ("return os.time()", "routing.lua:2: 'os' is not available in routing scripts"),
        ("workers[1].load = 5", "routing.lua:2: cannot set 'load': this object is read-only"),
    ],
)
def test_the_self_test_finds_a_script_that_is_broken(body: str, fault: str | None) -> None:
    made = fleet(up=False)
    made.apply(Report("w2", True, None, 0.0))
    fill(made, "w2", 3)
    found = script(body).self_test(made)
    assert (found and found.partition(" (hint: ")[0]) == fault


@pytest.mark.parametrize(
    "body",
    [
        "return {workers[1], 5}",
        "return {worker = workers[1], header = {}}",
        "return reject(5)",
        "return workers[1], {}",
        "return 5",
        "return 'no-such-worker'",
        "return workers:weighted('id')",
        "return workers.filter(function() return true end)[1]",
        "return workers[0]",
        "return workers:filter()[1]",
        "turn = 1 return workers[1]",
        "return workers:sort_by('models')[1]",
    ],
)
def test_the_self_test_finds_a_wrong_answer_and_a_misused_helper(body: str) -> None:
    assert script(body).self_test(fleet()) is not None


def test_the_self_test_leaves_the_true_state_of_the_workers_for_the_next_request() -> None:
    made = fleet()
    down(made, "w1")
    fill(made, "w2", 4)
    one = script("error(workers[1].status .. ' ' .. workers[2].status .. ' ' .. workers[2].in_flight, 0)")
    one.self_test(made)
    assert one.route(request(), made).error == "routing.lua: offline busy 4"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("return workers[1]", ()),
        ('return strategy("power_of_two")(request, workers)', {"power-of-two"}),
        ("return strategy 'least-connections:2,session-affinity:1' (request, workers)", {"least-request", "session-affinity"}),
        ('local slow = workers:weighted("capacity") local s = strategy("ip-hash") return math.random(2) == 1 and slow or s(request, workers)', {"ip-hash"}),
    ],
)  # fmt: skip
def test_the_strategies_that_a_script_names_are_known_and_no_parts_of_other_words(body: str, names: set[str]) -> None:
    assert set(script(body).asks) == set(names) | ({"round-robin"} if names else set())


def test_the_self_test_asks_with_every_worker_ready_and_idle() -> None:
    made = fleet("w1", "w2", up=False)
    fill(made, "w1", 3)
    wrong = "w.status ~= 'ready' or w.load ~= 0 or w.in_flight ~= 0"
    body = f"for _, w in ipairs(workers) do if {wrong} then hash_str({{}}) end end"
    assert script(body).self_test(made) is None


# The mirror of the fleet.

SEE = """local t = {}
for i, w in ipairs(workers) do
  local names = {}
  for j, name in ipairs(w.models) do names[j] = name end
  t[i] = table.concat({w.id, w.status, w.in_flight, string.format('%.4f', w.load), w.capacity, tostring(w.backend),
                       tostring(w.metadata.zone), table.concat(names, '+')}, ' ')
end
error(table.concat(t, ';'), 0)"""


def seen(one: Script, made: Fleet) -> list[str]:
    text = (one.route(request(), made).error or "").removeprefix("routing.lua: ")
    return text.split(";") if text else []


def truth(made: Fleet) -> list[str]:
    return [
        f"{w.id} {w.status} {w.in_flight} {w.load:.4f} {w.capacity} {w.backend or 'nil'} "
        f"{w.metadata.get('zone', 'nil')} {'+'.join(w.models)}"
        for w in made.ordered
    ]


def test_a_script_sees_each_change_of_load_and_status() -> None:
    made, one = fleet(), script(SEE)
    rows = [seen(one, made)]
    fill(made, "w2", 4)
    rows.append(seen(one, made))
    made.finished(made.workers["w2"], None, 0.0)
    down(made, "w3")
    rows.append(seen(one, made))
    for _ in range(made.rules.connect_failures):
        made.finished(made.workers["w2"], FAILURES["upstream_connect_failed"], 0.0)
    for _ in range(made.rules.rise):
        made.apply(Report("w3", True, None, 0.0))
    fill(made, "w1", 1)
    rows.append(seen(one, made))
    assert [[" ".join(row.split()[1:3]) for row in row_of_three] for row_of_three in rows] == [
        ["ready 0", "ready 0", "ready 0"],
        ["ready 0", "busy 4", "ready 0"],
        ["ready 0", "ready 3", "offline 0"],
        ["ready 1", "offline 0", "ready 0"],
    ]
    assert rows[-1] == truth(made)


def test_a_script_sees_models_that_were_learnt() -> None:
    made, one = fleet(worker("w1"), worker("w2")), script(SEE)
    before = seen(one, made)
    made.apply(Report("w2", True, ("a", "b"), 1.0))
    assert (before[1].split(" ")[-1], seen(one, made)) == ("", truth(made))


def test_a_script_sees_workers_that_were_added_removed_renamed_and_put_in_another_order() -> None:
    made, one = fleet(), script(SEE)
    for specs in (
        [worker("w1"), worker("w2"), worker("w3"), worker("w4", backend="cuda")],
        [worker("w4"), worker("w2", metadata={"zone": "b"}), worker("w1")],
        [worker("w9", url="http://w1.test:8000")],
        [],
        [worker("w1", max_concurrency=2), worker("w2")],
    ):
        made.configure(specs)
        assert seen(one, made) == truth(made)


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 3)),
        st.tuples(st.just("finish"), st.integers(0, 3)),
        st.tuples(st.just("probe"), st.integers(0, 3), st.booleans(), st.sampled_from([None, ("a",), ("a", "b"), ()])),
        st.tuples(st.just("configure"), st.permutations(["w1", "w2", "w3", "w4"]), st.integers(0, 4)),
        st.tuples(st.just("look")),
    ),
    max_size=25,
)


def change(made: Fleet, what: str, *given_values: Any) -> None:
    if what == "configure":
        names, count = given_values
        made.configure([worker(name) for name in names[:count]])
        return
    if what == "look" or not made.ordered:
        return
    one = made.ordered[given_values[0] % len(made.ordered)]
    if what == "send":
        made.sent(one, 0.0)
    elif what == "finish" and one.in_flight:
        made.finished(one, None, 0.0)
    elif what == "probe":
        made.apply(Report(one.id, given_values[1], given_values[2], 0.0))


@quick(max_examples=80)
@given(CHANGES)
def test_the_script_sees_the_fleet_as_it_is_after_any_changes(changes: list[tuple[Any, ...]]) -> None:
    made, one = fleet(worker("w1"), worker("w2"), worker("w3")), script(SEE)
    for step in changes:
        change(made, *step)
        if step[0] == "look":
            assert seen(one, made) == truth(made)
    assert seen(one, made) == truth(made)


def test_the_control_plane_shows_what_the_script_sees() -> None:
    made = fleet(FULL_WORKER)
    fill(made, "gpu-1", 2)
    assert script_fields(made.ordered[0]) == {
        "id": "gpu-1", "status": "ready", "backend": "cuda", "vram": 24.0, "vram_used": None, "load": 0.25,
        "models": ("a", "b", "c"), "performance": 1.5, "cost_per_hour": 0.75,
        "metadata": {"region": "eu", "tier": 2, "spot": True, "price": 0.5}, "engine": "vllm", "capacity": 8,
        "in_flight": 2, "waiting": None, "kv_usage": None, "latency_ms": None, "ttft_ms": None, "role": None,
        "loras": (), "deployment": "local", "loaded": ("a", "b", "c"), "running": None, "load_age_s": None,
        "tokens_per_s": None, "inter_token_ms": None, "error_rate": None, "temperature_c": None, "watts": None,
        "owner_active": None, "price_in": None, "price_out": None,
    }  # fmt: skip


# A worker that the script kept.

KEEP = b"kept = false function route_request(request, workers) kept = kept or workers[1] return %b end"


def test_a_worker_kept_in_a_global_stays_true_while_it_is_in_the_fleet() -> None:
    made = fleet()
    one = script(KEEP % b"(request.stream and kept.status == 'busy' and kept.backend == 'cuda') and 'w3' or kept")
    first = one.route(request(), made).worker
    made.configure([worker("w3"), worker("w2"), worker("w1", backend="cuda")])
    fill(made, "w1", 4)
    assert [first, one.route(request(), made).worker] == [made.workers["w1"]] * 2
    assert one.route(request(stream=True), made).worker is made.workers["w3"]


def test_a_kept_worker_that_was_removed_is_refused_as_an_answer_also_when_its_name_returns() -> None:
    made = fleet()
    one = script(KEEP % b"kept")
    one.route(request(), made)
    errors = []
    for names in (("w2", "w3"), ("w1", "w2", "w3")):
        made.configure([worker(name) for name in names])
        errors.append(one.route(request(), made).error)
    assert errors == [(WRONG % "a table").replace(":2:", ":1:")] * 2


def test_a_kept_worker_that_was_removed_can_still_be_read() -> None:
    made = fleet()
    one = script(KEEP % b"kept.id == 'w1' and workers[1]")
    one.route(request(), made)
    made.configure([worker("w2"), worker("w3")])
    assert one.route(request(), made).worker is made.workers["w2"]


# A state that grew too large.

LEAK = b"""local kept, calls = {}, 0
function route_request(request, workers)
  calls = calls + 1
  for i = 1, 12000 do kept = { kept } end
  error(tostring(calls), 0)
end"""


def calls_seen(made: Fleet, one: Script, times: int) -> list[int]:
    return [int((one.route(request(), made).error or "").removeprefix("routing.lua: ")) for _ in range(times)]


def test_a_state_whose_heap_stays_high_is_built_anew_and_goes_on_with_the_right_workers() -> None:
    made = fleet()
    calls = calls_seen(made, script(LEAK), 20)
    assert calls[0] == 1 and calls.count(1) > 1, calls
    assert max(calls) < 16, "the heap may grow by 4 MiB, each call keeps about 0.7 MiB"
    fill(made, "w2", 4)
    one = script(LEAK.replace(b"tostring(calls)", b"workers[2].status .. #workers"))
    assert {one.route(request(), made).error for _ in range(20)} == {"routing.lua: busy3"}


def test_a_script_that_keeps_little_is_never_built_anew() -> None:
    source = LEAK.replace(b"12000", b"10")
    assert calls_seen(fleet(), script(source), 300) == list(range(1, 301))


def test_a_state_that_grows_between_changes_of_the_fleet_is_built_anew_too() -> None:
    made, one = fleet(worker("w1")), script(LEAK)
    calls = []
    for step in range(30):
        calls += calls_seen(made, one, 2)
        made.apply(Report("w1", True, (f"model-{step}",), 0.0))
    assert calls.count(1) > 1


def test_a_script_that_loads_much_data_of_its_own_is_not_built_anew_at_each_request() -> None:
    source = b"""local data, calls = {}, 0
    for i = 1, 52000 do data[i] = { i } end
    function route_request(request, workers)
      calls = calls + 1
      error(tostring(calls + #data), 0)
    end"""
    assert calls_seen(fleet(), script(source), 4) == [52001, 52002, 52003, 52004]


def test_the_limit_on_the_heap_does_not_grow_with_each_change_of_the_fleet() -> None:
    made = fleet(*(worker(f"w{number}", models=tuple("abcdef")) for number in range(64)))
    one = script(LEAK.replace(b"for i", b"if not request.stream then return end for i"))
    for _ in range(150):
        made.version += 1
        one.route(request(), made)
    told = [one.route(request(stream=True), made).error for _ in range(20)]
    calls = [int((error or "").removeprefix("routing.lua: ")) for error in told]
    assert len({count - step for step, count in enumerate(calls)}) > 1, "the state was never built anew"


def test_a_script_that_fails_when_it_is_loaded_again_is_a_choice_with_an_error() -> None:
    made, one = fleet(), script(b"if rand() < 0.5 then error('bad luck') end\n" + LEAK, seed=0)
    for _ in range(40):
        assert one.route(request(), made).error is not None


def test_a_new_state_is_built_within_the_same_limits() -> None:
    made = fleet()
    one = script(LEAK, limits=Limits(memory_bytes=2 << 20))
    assert max(calls_seen(made, one, 12)) < 5


# Load and figures as they change.


def test_a_script_computes_the_load_that_python_does_with_requests_of_others_and_in_slow_start() -> None:
    made = fleet(*(worker(f"w{n}", models=("m",), max_concurrency=7) for n in range(3)))
    one = script(SEE)
    seen(one, made)
    made.apply(Report("w0", True, None, 1.0, running=9, waiting=4_000_000_000))
    down(made, "w1")
    for _ in range(made.rules.rise):
        made.apply(Report("w1", True, None, 1.0))
    fill(made, "w1", 3)
    fill(made, "w2", 2)
    made.apply(Report("w2", True, None, 1.0, running=3, waiting=0))
    rows = [seen(one, made), truth(made)]
    made.tick(12.0)
    rows += [seen(one, made), truth(made)]
    made.drain("w2")
    rows += [seen(one, made), truth(made)]
    assert rows[0] == rows[1] and rows[2] == rows[3] and rows[4] == rows[5]
    assert rows[0] != rows[2] and "draining" in rows[4][2]


FIGURES = """
local w = workers[1]
log(tostring(w.running), tostring(w.error_rate), tostring(w.owner_active), tostring(w.watts))"""


def test_a_script_that_names_figures_reads_them_as_they_change() -> None:
    made, one = fleet("w1"), script(FIGURES)
    seen_figures = [one.route(request(), made).log]
    made.apply(Report("w1", True, None, 1.0, running=2, owner_active=True, watts=310.0))
    seen_figures.append(one.route(request(), made).log)
    made.apply(Report("w1", True, None, 2.0, running=1, owner_active=False))
    seen_figures.append(one.route(request(), made).log)
    made.tick(20.0)
    seen_figures.append(one.route(request(), made).log)
    assert seen_figures == [
        ("nil nil nil nil",), ("2 nil true 310.0",), ("1 nil false nil",), ("nil nil nil nil",),
    ]  # fmt: skip


def test_a_script_that_names_the_age_of_the_load_sees_it_grow_while_nothing_else_happens() -> None:
    made, one = fleet("w1"), script("log(tostring(workers[1].load_age_s))")
    made.apply(Report("w1", True, None, 1.0, running=2, waiting=0))
    ages = []
    for now in (1.0, 3.0, 9.0):
        made.tick(now)
        ages += one.route(request(), made).log
    assert ages == ["0.0", "2.0", "8.0"]


def test_a_script_sees_which_models_are_in_memory_now() -> None:
    made, one = fleet(worker("w1", models=("a", "b"))), script("log(table.concat(workers[1].loaded, ' '))")
    logs = [one.route(request(), made).log]
    made.apply(Report("w1", True, None, 1.0, loaded=("b",)))
    logs.append(one.route(request(), made).log)
    assert logs == [("a b",), ("b",)]
