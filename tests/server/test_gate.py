"""Tests of the gate: what a new script must pass before a reload takes it, with the real commands."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rbeerouter.server.gate import Verdict, examine
from rbeerouter.workbench.suite import suite_path
from tests.support.aio import story

GOOD = "function route_request(request, workers)\n  return nil\nend\n"


def write(folder: Path, script: str, tests: str | None = None) -> Path:
    path = folder / "routing.lua"
    path.write_text(script)
    if tests is not None:
        suite_path(path).write_text(tests)
    return path


@story
async def test_a_script_without_tests_needs_the_check_alone(tmp_path: Path) -> None:
    verdict = await examine(write(tmp_path, GOOD), None, "test", 30.0)
    assert verdict == Verdict(True, "routing.lua: no errors, no warnings")


@story
async def test_tests_are_run_only_where_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, 'test("no", function() expect(1):to_be(2) end)\n')
    assert (await examine(path, None, "check", 30.0)).ok
    verdict = await examine(path, None, "test", 30.0)
    assert (verdict.ok, "routing test failed" in verdict.problem, "expected 2" in verdict.problem) == (False, True, True)
    assert await examine(path, None, "off", 30.0) == Verdict(True, "not examined: reload_gate is off")


@story
async def test_warnings_pass_and_errors_do_not(tmp_path: Path) -> None:
    unused = "local unused = 1\n" + GOOD
    assert (await examine(write(tmp_path, unused), None, "check", 30.0)).told == "routing.lua: no errors, 1 warning"
    verdict = await examine(write(tmp_path, "local x = os.time()\n" + GOOD), None, "check", 30.0)
    assert (verdict.ok, "'os' is not available" in verdict.problem) == (False, True), verdict


@story
async def test_what_takes_too_long_is_killed_and_refused(tmp_path: Path) -> None:
    started = asyncio.get_running_loop().time()
    verdict = await examine(write(tmp_path, GOOD), None, "check", 0.01)
    assert verdict == Verdict(False, "", "routing check took longer than 0.01 s ([routing] gate_s)")
    assert asyncio.get_running_loop().time() - started < 5
