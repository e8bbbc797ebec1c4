"""`rbeerouter routing test`: the built-in properties, the user's tests and the coverage of both, told in one go.

`cli` calls `run`. It reads and writes files and prints; what is found is found by `properties` and `suite`.
"""

from __future__ import annotations

import random
import shlex
from pathlib import Path
from typing import TextIO

import msgspec

from rbeerouter.config.sections import Config
from rbeerouter.routing.problem import explain
from rbeerouter.routing.script import ScriptError, read_source
from rbeerouter.workbench import report
from rbeerouter.workbench.fleets import row_of
from rbeerouter.workbench.literals import literals
from rbeerouter.workbench.properties import Broken, Properties, check_properties
from rbeerouter.workbench.report import Coverage
from rbeerouter.workbench.stage import Play, rules_of
from rbeerouter.workbench.suite import Suite, Tested, run_suite, suite_path

CASES = 500
RULE_CASES = 200
"""Cases for each rule of `always`; fewer when fewer, but some, are wished for the properties."""

_MOST_SEED = 1_000_000


def run(
    script: Path,
    test: Path | None,
    *,
    seed: int | None,
    cases: int,
    junit: Path | None,
    lcov: Path | None,
    as_json: bool,
    out: TextIO,
    config: Config | None,
) -> bool:
    """Tries a script and prints what came of it. Returns whether all is well.

    Args:
        test: the file of tests; None takes NAME_test.lua beside NAME.lua if there is one.
        seed: of the first case; None takes any, which is printed.
        cases: how many to make up; 0 runs the user's tests alone.
        config: its workers are among the fleets, its limits hold.
    """
    first = random.SystemRandom().randrange(1, _MOST_SEED) if seed is None else seed
    test = test or _beside(script)
    try:
        source = read_source(script)
        play = rules_of(config, literals(source).texts)
        suite = None
        if test is not None:
            tests, rules = read_source(test), min(cases or RULE_CASES, RULE_CASES)
            suite = run_suite(source, script.name, tests, test.name, play, seed=first, cases=rules)
        given = (tuple(map(row_of, config.workers)) if config is not None else (), suite.workers if suite else ())
        found = check_properties(source, script.name, play, seed=first, cases=cases, given=given)
    except ScriptError as error:
        told = error.problem.rendered() if error.problem is not None else str(error)
        out.write(_json({"script": script.name, "passed": False, "problem": str(error)}) if as_json else told + "\n")
        return False
    covered = report.coverage(source, found.covered, suite.covered if suite is not None else {})
    try:
        if junit is not None:
            junit.write_bytes(report.junit(script.name, found, suite))
        if lcov is not None:
            lcov.write_text(report.lcov(str(script), covered))
    except OSError as error:
        out.write(f"{error.filename}: cannot be written: {error.strerror}\n")
        return False
    if as_json:
        out.write(_json(report.data(script.name, found, suite, covered)))
    else:
        command = _command(script, test, config)
        out.write("\n".join(_told(source, script.name, found, suite, covered, play, command)) + "\n")
    return bool(found) and (suite is None or bool(suite))


def _beside(script: Path) -> Path | None:
    path = suite_path(script)
    return path if path.is_file() else None


def _json(data: object) -> str:
    return msgspec.json.format(msgspec.json.encode(data)).decode() + "\n"


def _command(script: Path, test: Path | None, config: Config | None) -> str:
    """The command that was given, for whoever wants to see a failure again."""
    words = ["rbeerouter", "routing", "test", "--script", str(script)]
    if test is not None and test != suite_path(script):
        words += ["--test", str(test)]
    if config is not None and config.source is not None:
        words += ["--config", str(config.source)]
    return shlex.join(words)


# What is printed


def _told(
    source: bytes, name: str, found: Properties, suite: Suite | None, covered: Coverage, play: Play, command: str
) -> list[str]:
    lines: list[str] = []
    for broken in found.broken:
        lines += [*_broken(source, name, broken, command), ""]
    if suite is not None:
        if suite.problem is not None:
            lines += ["FAILED  the file of tests", suite.problem.rendered(), ""]
        for test in suite.tests:
            lines += _tested(suite.file, test, command)
    if found.cases:
        lines.append(_summary(name, found, play))
    if found.mismatch is not None:
        lines.append(
            f"warning: in {_count(found.mismatches, 'case')} a worker was chosen that does not list the model, while "
            "one was ready that does; the first:"
        )
        lines += _indented(found.mismatch)
    failed = 0
    if suite is not None:
        failed = sum(test.problem is not None for test in suite.tests)
        passed = len(suite.tests) - failed
        lines.append(f"{suite.file}: {passed} passed" + (f", {failed} failed" if failed else ""))
    lines.append(str(covered))
    tests = f" and {_count(len(suite.tests), 'test')}" if suite is not None else "; there is no file of tests"
    if found and (suite is None or suite):
        lines.append(f"passed: {_count(found.cases, 'generated case')}{tests}")
    else:
        lines.append("FAILED")
    return lines


def _summary(name: str, found: Properties, play: Play) -> str:
    verdict = f"failed in {_count(len(found.broken), 'way')}" if found.broken else "passed"
    spent = f"the slowest call took {found.slowest_s * 1e6:.0f} us, the longest {found.instructions:,} of "
    cases = _count(found.cases, "generated case")
    return f"{name}: {cases}, seed {found.seed}: {verdict} ({spent}{play.limits.instructions:,} instructions)"


def _broken(source: bytes, name: str, broken: Broken, command: str) -> list[str]:
    message = broken.message.partition(" (hint: ")[0]
    again = f"{command} --seed {broken.seed} --cases {broken.cases}"
    found = "the smallest case that was found:" if broken.cases == 1 else "fails only after the cases before it:"
    return [
        f"FAILED  {broken.property}", explain(message, name, source).rendered(), f"  {found}", *_indented(broken.case),
        f"  again: {again}",
    ]  # fmt: skip


def _tested(file: str, test: Tested, command: str) -> list[str]:
    lines = []
    if test.problem is not None:
        lines += [f"FAILED  {test.name}  ({file}:{test.line})", test.problem.rendered()]
        if test.case is not None:
            lines += ["  the smallest case that was found:", *_indented(test.case)]
            lines.append(f"  again: {command} --seed {test.seed}")
    if test.log:
        lines += [f"log of {test.name}:", *(f"  {line}" for line in test.log)]
    return [*lines, ""] if lines else []


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]
