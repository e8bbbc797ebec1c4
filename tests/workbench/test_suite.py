"""The user's tests in Lua: what they can say, how they fail, and that nothing in them hurts us.

docs/testing-scripts.md is run as well: its examples do what it tells, and it shows every word there is.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from rbeerouter.routing.script import ScriptError
from rbeerouter.workbench import suite, trial
from rbeerouter.workbench.stage import Play, rules_of
from tests.docs.pages import REPOSITORY, Block, read

PAGE = read("docs/testing-scripts.md")
LUA = [block for block in PAGE.blocks if block.language == "lua"]
SCRIPT = next(block.text for block in LUA if block.text.startswith("-- routing.lua"))
TESTS = [block for block in LUA if block.text.startswith("-- routing_test.lua")]
LEAST = b'function route_request(request, workers) return workers:min_by("load") end'
TWO = 'fleet{ worker{ id = "a" }, worker{ id = "b", in_flight = 1 } }\n'


def run(tests: str, source: bytes = LEAST, play: Play | None = None, **options: int) -> suite.Suite:
    return suite.run_suite(source, "routing.lua", tests.encode(), "routing_test.lua", play or rules_of(None), **options)


def problem(body: str, before: str = TWO, source: bytes = LEAST) -> str:
    """Why a test with this body at line 3 fails."""
    found = run(f'{before}test("it", function()\n{body}\nend)', source).tests[0].problem
    assert found is not None, "it should have failed"
    return str(found)


def passes(tests: str, source: bytes = LEAST, **options: int) -> None:
    found = run(tests, source, **options)
    assert found, [str(test.problem) for test in found.tests if test.problem] or str(found.problem)


# The documentation.


def after(block: Block) -> Block | None:
    following = [other for other in PAGE.blocks if other.line > block.line]
    return following[0] if following and following[0].text.startswith("FAILED") else None


@pytest.mark.parametrize("block", TESTS, ids=str)
def test_each_example_of_the_page_does_what_it_tells(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "routing.lua"
    script.write_text(SCRIPT)
    (tmp_path / "routing_test.lua").write_text(block.text)
    out = io.StringIO()
    expected = after(block)
    ok = trial.run(
        script, None, seed=3, cases=60, junit=None, lcov=None, as_json=False, out=out, config=None
    )  # fmt: skip
    assert ok is (expected is None), out.getvalue()
    if expected is not None:
        assert expected.text in out.getvalue()


def test_the_page_shows_every_word_that_tests_can_use() -> None:
    source = (REPOSITORY / "rbeerouter/routing/lua/testing.lua").read_text()
    words = set(re.findall(r"^function globals\.(\w+)", source, re.MULTILINE))
    matchers = set(re.findall(r"^function matchers:(\w+)", source, re.MULTILINE))
    shown = "\n".join(block.text for block in TESTS)
    assert {"test", "always", "route"} <= words and {"to_be"} <= matchers
    assert {word for word in words if not re.search(rf"\b{word}\b", shown)} == set()
    assert {word for word in matchers if f":{word}" not in shown} == set()
    assert matchers == {re.findall(r":(\w+)", name)[0] for name in PAGE.table("Expectations")}


def test_the_page_tells_every_field_of_a_result() -> None:
    from rbeerouter.workbench.stage import Result

    assert set(PAGE.table("Requests")) == set(Result.__struct_fields__)


def test_a_long_name_of_a_file_is_cut_and_its_lines_are_still_told() -> None:
    found = suite.run_suite(LEAST, "routing.lua", b"test('x', function()\nexpect(1):to_be(2) end)", "n" * 80 + "_test.lua", Play())
    (test,) = found.tests
    assert test.problem is not None
    assert test.problem.line == 2 and test.problem.source_line == "expect(1):to_be(2) end)"


# What a test can say.


def test_a_result_is_compared_by_its_worker() -> None:
    passes(TWO + 'test("it", function() expect(route{}):to_be("a") expect(route{}):to_be(route{}) end)')
    assert problem('expect(route{}):to_be("b")') == (
        'routing_test.lua:3: expected "b", got "a" (script, routing.lua:1)'
    )  # fmt: skip


def test_a_request_that_waits_for_a_worker_has_not_got_it() -> None:
    source = b'function route_request(request, workers) return queue("a") end'
    told = problem('fleet{ worker{ id = "a", status = "busy" } } expect(route{}):to_be("a")', source=source)
    assert told.endswith('expected "a", got waits for a')


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("expect(route{}):not_to_be('a')", 'expected anything but "a", got "a" (script, routing.lua:1)'),
        ("expect(1):to_be(2)", "expected 2, got 1"),
        ("expect(nil):to_be(true)", "expected true, got nil"),
        ("expect({ 1, x = 'y' }):to_be{ 1 }", 'expected { 1 }, got { 1, x = "y" }'),
        ("expect(3):to_be_one_of{ 1, 2 }", "expected one of { 1, 2 }, got 3"),
        ("expect(0.5):to_be_close(0.25, 0.125)", "expected 0.25 (+- 0.125), got 0.5"),
        ("expect('x'):to_be_close(0.25, 0.125)", 'expected 0.25 (+- 0.125), got "x"'),
        ("expect(0 / 0):to_be_close(0.25, 0.125)", "expected 0.25 (+- 0.125), got -nan"),
        ("expect(route{}):to_be_rejected()", 'expected a rejection, got "a" (script, routing.lua:1)'),
        ("expect(route{}):to_wait()", 'expected to wait, got "a" (script, routing.lua:1)'),
        ("expect(route{}):to_fail('x')", 'expected a failure with "x", got "a" (script, routing.lua:1)'),
        ("fleet{} expect(route{}):to_be('a')", 'expected "a", got no worker (503 no worker is configured)'),
    ],
)
def test_an_expectation_that_is_not_met_tells_both_sides(body: str, told: str) -> None:
    assert problem(body).replace("got nan", "got -nan") == f"routing_test.lua:3: {told}"


def test_a_script_that_failed_is_told_with_the_expectation() -> None:
    source = b"function route_request(request, workers) return workers[1].foo end"
    told = problem('expect(route{}):to_be("b")', source=source)
    assert "after the script failed: routing.lua:1: a worker has no field 'foo'" in told


def test_the_line_is_shown_with_a_caret_at_the_expectation() -> None:
    found = run(TWO + 'test("it", function()\n  route{}  expect(1):to_be(2)\nend)').tests[0]
    assert found.line == 2
    assert found.problem is not None
    assert found.problem.rendered().splitlines()[1:] == [
        "    3 |   route{}  expect(1):to_be(2)",
        "      |            ^",
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("route{ modle = 'm' }", "a request has no field 'modle'; did you mean 'model'?"),
        ("route{ max_tokens = '5' }", "route: max_tokens: expected a whole number, got 5"),
        ("route{ metadata = { x = {} } }", "route: metadata.x: expected a text, a number or a boolean, got a table"),
        ("route{ metadata = { x = 1 / 0 } }", "route: metadata.x: no request can carry inf"),
        ("route{ priority = 1.5 }", "route: priority: expected a text or a whole number, got 1.5"),
        ("route('m')", "a request expects a table in braces, got string"),
        ("worker{ stauts = 'ready' }", "a worker has no field 'stauts'; did you mean 'status'?"),
        ("worker{ status = 'redy' }", 'worker: status: expected "ready", "busy", "draining" or "offline", got "redy"'),
        ("worker{ deployment = 'here' }", 'worker: deployment: expected "local" or "remote", got "here"'),
        ("worker{ models = 'm' }", "worker: models: expected a table, got m"),
        ("worker{ load = 0.5, in_flight = 1 }", "worker: give load or in_flight, not both"),
        ("worker{ status = 'busy', in_flight = 1 }", "worker: a busy worker is full"),
        ("worker{ status = 'ready', in_flight = 4 }", "worker: a ready worker has room"),
        ("worker{ capacity = 0 }", "worker: capacity: expected a whole number from 1, got 0"),
        ("fleet{ { id = 'a' } }", "fleet: item 1: expected worker{...}, got a table"),
        ("fleet{ worker{ id = 'a' }, worker{ id = 'a' } }", "fleet: two workers are named a"),
        ("at('yesterday')", 'at: expected a time such as "2026-03-01 14:00", got "yesterday"'),
        ("seed('x')", "seed expects a whole number, got x"),
        ("fails('c')", "fails: the fleet has no worker c; it has a, b"),
        ("param_set('x', 1)", "param_set: the script has no param 'x'; it has none"),
        ("share(0, route)", "share expects how often, a whole number from 1"),
        ("share(1, function() end)", "share: the function returned nil; write: return route{...}"),
        ("route{}.wroker = 1  local x = route{}.wroker", "a result has no 'wroker'; did you mean 'worker'?"),
        ("expect(1):to_bee(1)", "expect(...) has no 'to_bee'; did you mean 'to_be'?"),
        ("expect(1):equals(1)", "expect(...) has no 'equals'; it has to_be, not_to_be,"),
        ("expect(1).to_be(1)", "call it with a colon: expect(...):to_be(...)"),
        ("expect(1):to_wait()", "to_wait is for what route{...} gives, got 1"),
        ("test('x', function() end)", "test stands outside of other tests"),
        ("state:get('x')", "'state' is not available in tests"),
        ("local x = nil  x.y = 1", "attempt to index a nil value (local 'x')"),
        ("error('mine')", "mine"),
    ],
)
def test_a_mistake_in_a_test_is_told_at_its_line(body: str, told: str) -> None:
    assert problem(body).startswith(f"routing_test.lua:3: {told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("test(", "routing_test.lua:1: "),
        ("route{}", "routing_test.lua:1: route{...} stands inside of test(...)"),
        ("test('x')", "routing_test.lua:1: test expects a function, got nil"),
        ("local x = y.z", "routing_test.lua:1: "),
        ("while true do end", "routing_test.lua"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(text: str, told: str) -> None:
    found = run(text)
    assert not found and found.tests == [] and str(found.problem).startswith(told)


def test_each_test_begins_with_a_fresh_script_and_what_was_set_outside() -> None:
    source = b"""
        local calls = 0
        function route_request(request, workers)
          calls = calls + 1
          return workers[1], calls .. " " .. state:incr("x") .. " " .. timestamp():iso():sub(1, 16)
        end"""
    once = 'expect(route{}.reason):to_be("routing.lua:5: 1 1 2026-05-01T10:00") at("2026-01-01 00:00") fleet{} seed(5)'
    tests = "".join(f'test("{name}", function() {once} end)\n' for name in "abc")
    passes(f'{TWO} at("2026-05-01 10:00")\n{tests}', source)


def test_what_a_script_keeps_stays_within_a_test() -> None:
    source = b'function route_request(request, workers) return workers[state:incr("x", 1, 60)] end'
    passes(
        TWO + 'test("it", function() expect(route{}):to_be("a") expect(route{}):to_be("b") '
        'at("2026-03-02 12:02") expect(route{}):to_be("a") end)',
        source,
    )


def test_chance_repeats_itself_after_the_same_seed() -> None:
    source = b"function route_request(request, workers) return workers:sample() end"
    passes(
        TWO + """
        local function draw()
          local text = ""
          for _ = 1, 30 do text = text .. route{}.worker end
          return text
        end
        local first
        test("one", function() first = draw() seed(2) expect(draw()):not_to_be(first) end)
        test("two", function() expect(draw()):to_be(first) seed(1) expect(draw()):to_be(first) end)""",
        source,
    )


def test_a_request_leaves_the_fleet_as_it_was() -> None:
    source = b"""function route_request(request, workers)
      local worker = workers[1]
      return worker, worker.status .. " " .. worker.in_flight .. " " .. tostring(worker.latency_ms)
    end"""
    passes(
        'fleet{ worker{ id = "a", in_flight = 1, latency_ms = 5 }, worker{ id = "b" } }\n'
        'test("it", function() for i = 1, 9 do if i == 5 then fails("a") end '
        'expect(route{}.reason:contains("ready 1 5")):to_be(true) end end)',
        source,
    )


def test_the_type_and_the_path_of_a_request_go_together() -> None:
    source = b'function route_request(request, workers) return workers[1], request.type .. " " .. request.path end'
    reasons = {
        "route{}": "llm /v1/chat/completions",
        'route{ type = "image" }': "image /v1/images/generations",
        'route{ metadata = { type = "embedding" } }': "embedding /v1/embeddings",
        'route{ path = "/v1/audio/speech" }': "audio /v1/audio/speech",
        'route{ path = "/v1/completions", type = "odd" }': "odd /v1/completions",
    }
    lines = [f'expect({asked}.reason):to_be("routing.lua:1: {told}")' for asked, told in reasons.items()]
    passes(TWO + 'test("it", function()\n' + "\n".join(lines) + "\nend)", source)


def test_headers_are_seen_only_when_the_configuration_lets_them() -> None:
    source = b'function route_request(request, workers) return workers[1], request.headers["x-mine"] end'
    tests = TWO + 'test("it", function() expect(route{ headers = { ["X-Mine"] = "v" } }.reason):to_be("routing.lua:1: v") end)'
    assert run(tests, source, rules_of(None, {"x-mine"}))
    assert "x-mine is not in [routing] request_headers" in str(run(tests, source).tests[0].problem)


def test_shares_count_what_did_not_go_to_anybody() -> None:
    source = b"""function route_request(request, workers)
      if request.max_tokens == 1 then return reject{} end
      if request.max_tokens == 2 then return queue("a") end
      if request.max_tokens == 3 then error("no") end
    end"""
    passes(
        'fleet{ worker{ id = "a", status = "busy", models = { "x" } } }\n'
        'test("it", function() local split = share(4, function(i) return route{ model = "m", max_tokens = i } end) '
        "expect(split):to_be{ rejected = 0.25, waiting = 0.25, failed = 0.5 } end)",
        source,
    )


def test_before_each_runs_before_each_test() -> None:
    passes(TWO + 'local n = 0 before_each(function() n = n + 1 end)\ntest("a", function() end)\n'
                 'test("b", function() expect(n):to_be(2) end)')  # fmt: skip


def test_the_log_of_a_test_is_kept() -> None:
    found = run(TWO + 'test("it", function() log("hello", { 1 }) end) test("other", function() end)')
    assert [test.log for test in found.tests] == [["hello {1}"], []]


def test_a_test_that_does_not_end_is_stopped_and_the_others_run() -> None:
    found = run(TWO + 'test("loop", function()\nwhile true do end end)\ntest("ok", function() end)')
    assert "stopped: it takes more than" in str(found.tests[0].problem)
    assert found.tests[1].problem is None


def test_a_test_that_fills_the_memory_is_stopped_and_the_others_run() -> None:
    found = run(TWO + 'test("fill", function() local t = {} while true do t[#t + 1] = ("x"):rep(9999) .. #t end end)\n'
                      'test("ok", function() expect(route{}):to_be("a") end)')  # fmt: skip
    assert "not enough memory" in str(found.tests[0].problem)
    assert found.tests[1].problem is None


# Rules.


def test_a_rule_that_is_broken_is_told_with_the_smallest_case() -> None:
    found = run(TWO + 'always("never b", function(request, workers, choice) return choice.worker ~= "b" end)', seed=1)
    (rule,) = found.tests
    assert str(rule.problem) == (
        'routing_test.lua:2: the rule does not hold; the choice: "b" (script, routing.lua:1)'
    )  # fmt: skip
    assert rule.case is not None
    assert rule.case.splitlines()[1:] == ["fleet{", '  worker{ id = "b" },', "}", 'route{ model = "m" }']
    again = run(TWO + "always(function(request, workers, choice) return choice.worker ~= 'b' end)", seed=rule.seed or 0, cases=1)
    assert again.tests[0].case == rule.case


def test_a_rule_sees_request_and_workers_as_scripts_do() -> None:
    passes(TWO + """always(function(request, workers, choice)
      assert(request.metadata:get("nothing", 5) == 5)
      local busy = workers:filter(function(worker) return worker.status == "busy" end)
      return #busy <= #workers and (choice.action ~= "send" or workers:any(function(w) return w.id == choice.worker end))
    end)""", cases=100)  # fmt: skip


def test_a_rule_that_raises_fails_with_its_line() -> None:
    (rule,) = run("always(function(request, workers, choice)\n return request.modle end)").tests
    assert str(rule.problem).startswith("routing_test.lua:2: a request has no field 'modle'")


def test_a_rule_that_depends_on_what_came_before_is_told_with_the_first_seed() -> None:
    source = b"local n = 0 function route_request(r, w) n = n + 1 if n > 20 then error('late') end return w[1] end"
    (rule,) = run("always(function(_, _, choice) return not (choice.error or ''):contains(': late') end)", source, seed=100).tests
    assert rule.problem is not None and rule.seed == 100


# All of it.


def test_the_lines_of_all_tests_are_counted() -> None:
    source = b"function route_request(request, workers)\nif request.max_tokens then\nreturn workers[1]\nend\nreturn workers[2]\nend"
    tests = TWO + 'test("a", function() route{} end)\ntest("b", function() route{ max_tokens = 1 } end)'
    assert {2, 3, 5} <= set(run(tests, source).covered)
    assert 3 not in run(TWO + 'test("a", function() route{} end)', source).covered


def test_files_that_are_not_there_and_scripts_that_do_not_load_are_refused(tmp_path: Path) -> None:
    (tmp_path / "routing.lua").write_text("function route_request(")
    (tmp_path / "routing_test.lua").write_text("")
    with pytest.raises(ScriptError, match=r"routing\.lua:1"):
        suite.run(tmp_path / "routing.lua", tmp_path / "routing_test.lua")
    with pytest.raises(ScriptError, match="cannot be read"):
        suite.run(tmp_path / "nothing.lua", tmp_path / "routing_test.lua")
