"""`rbeerouter routing test`, all of it: what is printed and written, and whether it passed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.config.loading import load
from rbeerouter.workbench import trial

GOOD = """function route_request(request, workers)
  local ready = workers:filter(function(worker) return worker.status == "ready" end)
  return ready:filter(function(worker) return worker.models:contains(request.model) end):min_by("load")
end
"""
TESTS = """fleet{ worker{ id = "a", models = { "m" } }, worker{ id = "b", models = { "m" }, in_flight = 1 } }
test("the least loaded", function() expect(route{}):to_be("a") end)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "routing.lua"
    path.write_text(GOOD)
    return path


def run(script: Path, **options: Any) -> tuple[bool, str]:
    given = {"test": None, "seed": 1, "cases": 50, "junit": None, "lcov": None, "as_json": False, "config": None}
    out = io.StringIO()
    ok = trial.run(script, **{**given, **options}, out=out)  # type: ignore[arg-type]
    return ok, out.getvalue()


def test_what_passes_is_told_in_a_few_lines(script: Path) -> None:
    script.with_name("routing_test.lua").write_text(TESTS)
    ok, text = run(script)
    lines = text.splitlines()
    assert ok and len(lines) == 4
    assert lines[0].startswith("routing.lua: 50 generated cases, seed 1: passed (the slowest call took ")
    assert lines[1:] == [
        "routing_test.lua: 1 passed", "coverage 100 % (3 of 3 lines)", "passed: 50 generated cases and 1 test"
    ]  # fmt: skip


def test_without_tests_of_ones_own_the_generated_cases_are_enough(script: Path) -> None:
    ok, text = run(script)
    assert ok and text.endswith("passed: 50 generated cases; there is no file of tests\n")


def test_without_a_seed_any_is_taken_and_told(script: Path) -> None:
    seeds = {json.loads(run(script, seed=None, cases=1, as_json=True)[1])["seed"] for _ in range(4)}
    assert len(seeds) > 1


def test_a_broken_rule_is_told_with_line_case_and_command(script: Path) -> None:
    script.write_text("function route_request(request, workers)\n  local id = workers[1].id\nend\n")
    ok, text = run(script, seed=8)
    assert not ok and text.rstrip().endswith("FAILED")
    head, _, _ = text.partition("\n\n")
    assert head.splitlines()[0] == "FAILED  it never fails by mistake"
    assert "    2 |   local id = workers[1].id" in head and "    fleet{}" in head
    command = head.splitlines()[-1].split(" again: ")[1]
    words = command.split()
    assert words[:5] == ["rbeerouter", "routing", "test", "--script", str(script)]
    again = run(script, seed=int(words[words.index("--seed") + 1]), cases=int(words[words.index("--cases") + 1]))
    assert again[1].partition("\n\n")[0] == head


def test_a_failing_test_fails_all(script: Path) -> None:
    script.with_name("routing_test.lua").write_text(TESTS.replace('to_be("a")', 'to_be("b")'))
    ok, text = run(script, cases=0)
    assert not ok
    assert "FAILED  the least loaded  (routing_test.lua:2)" in text
    assert 'routing_test.lua:2: expected "b", got "a" (script, routing.lua:3)' in text
    assert "routing_test.lua: 0 passed, 1 failed" in text


def test_another_file_of_tests_may_be_named(script: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.lua"
    other.write_text("always(function() return false end)")
    ok, text = run(script, test=other)
    assert not ok and "FAILED  always, line 1  (other.lua:1)" in text
    assert f"--test {other} --seed" in text


def test_scripts_and_tests_that_cannot_be_read_are_told(script: Path, tmp_path: Path) -> None:
    assert run(script, test=tmp_path / "nothing.lua") == (False, f"{tmp_path}/nothing.lua: cannot be read: No such file or directory\n")
    script.write_text("function route_request(request, workers)\n  retrun nil\nend\n")
    ok, text = run(script)
    assert not ok and text.startswith("routing.lua:2: ") and "    2 |   retrun nil" in text
    ok, text = run(script, as_json=True)
    assert not ok and json.loads(text)["passed"] is False
    script.write_text(GOOD)
    script.with_name("routing_test.lua").write_text("test(")
    ok, text = run(script)
    assert not ok and "FAILED  the file of tests\nrouting_test.lua:1: " in text


def test_all_is_written_for_other_programs(script: Path, tmp_path: Path) -> None:
    script.with_name("routing_test.lua").write_text(TESTS)
    junit, lcov = tmp_path / "out.xml", tmp_path / "out.info"
    ok, text = run(script, junit=junit, lcov=lcov, as_json=True)
    found = json.loads(text)
    assert ok and found["passed"] and found["tests"][0]["name"] == "the least loaded"
    assert found["coverage"] == {"percent": 100, "lines": 3, "reached": 3, "missed": []}
    assert junit.read_text().startswith("<?xml") and f"SF:{script}" in lcov.read_text()


def test_the_limits_and_workers_of_a_configuration_hold(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[routing]\nscript_instructions = 3000\n[[workers]]\nid = "mine"\nurl = "http://w:1"\nmodels = ["special"]\n'
    )
    script.write_text('function route_request(request, workers)\n  for i = 1, 9000 do end\nend\n')
    ok, text = run(script, config=load(path), cases=20)
    assert not ok and "FAILED  it keeps within its budget" in text and f"--config {path}" in text
    script.write_text(
        'function route_request(request, workers)\n'
        '  if request.model == "spe" .. "cial" and #workers == 1 then return request.nothing end\nend\n'
    )
    ok, text = run(script, config=load(path), cases=100)
    assert not ok and 'worker{ id = "mine"' in text
    assert run(script, cases=100)[0]


def test_a_warning_does_not_fail(script: Path) -> None:
    script.write_text("function route_request(r, workers)\n  return workers:filter(function(w) return w.status == 'ready' end)[1]\nend\n")
    ok, text = run(script, cases=300)
    assert ok and "a worker was chosen that does not list the model" in text


def test_the_log_of_tests_is_shown(script: Path) -> None:
    script.with_name("routing_test.lua").write_text('test("it", function() log("seen", { 1 }) end)')
    assert "log of it:\n  seen {1}\n" in run(script)[1]


def test_a_file_that_cannot_be_written_is_told(script: Path, tmp_path: Path) -> None:
    ok, text = run(script, lcov=tmp_path / "nowhere" / "x.info")
    assert not ok and text.endswith("x.info: cannot be written: No such file or directory\n")
