"""What a trial found, for other programs: coverage by line, lcov text, JUnit XML, plain data for JSON.

`trial` calls it. Nothing here writes a file or runs a script.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree as xml

import msgspec

from rbeerouter.routing import syntax
from rbeerouter.workbench.properties import PROPERTIES, Properties
from rbeerouter.workbench.suite import Suite, Tested

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Coverage(msgspec.Struct, frozen=True):
    """{line at which a statement stands: how often it ran}."""

    counts: dict[int, int]

    @property
    def lines(self) -> int:
        return len(self.counts)

    @property
    def reached(self) -> int:
        return sum(count > 0 for count in self.counts.values())

    @property
    def missed(self) -> list[int]:
        return sorted(line for line, count in self.counts.items() if not count)

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 means all of them."""
        return 100 * self.reached // self.lines if self.lines else 100

    def __str__(self) -> str:
        told = f"coverage {self.percent} % ({self.reached} of {self.lines} lines)"
        return f"{told}; not reached: {ranges(self.missed)}" if self.missed else told


def coverage(source: bytes, *seen: dict[int, int]) -> Coverage:
    """Which statements of a script ran, of the counts by line of one or more runs."""
    total: dict[int, int] = {}
    for counts in seen:
        for line, count in counts.items():
            total[line] = total.get(line, 0) + count
    ran = syntax.covered(source, set(total))
    lines = sorted(syntax.statement_lines(source))
    return Coverage({line: max(total.get(line, 0), 1) if line in ran else 0 for line in lines})


def ranges(lines: Iterable[int]) -> str:
    """31, 44-46 of [31, 44, 45, 46]."""
    told: list[list[int]] = []
    for line in lines:
        if told and line == told[-1][1] + 1:
            told[-1][1] = line
        else:
            told.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in told)


def lcov(path: str, found: Coverage) -> str:
    """The format of `geninfo`, which editors and coverage services read."""
    rows = [f"DA:{line},{count}" for line, count in found.counts.items()]
    return "\n".join(["TN:", f"SF:{path}", *rows, f"LF:{found.lines}", f"LH:{found.reached}", "end_of_record", ""])


def junit(name: str, properties: Properties, suite: Suite | None) -> bytes:
    """JUnit XML: one suite with a test case for each property, and one for the user's tests."""
    root = xml.Element("testsuites")
    found = {broken.property: broken for broken in reversed(properties.broken)}
    part = _suite(root, f"{name}: generated cases", len(PROPERTIES), len(found))
    for title in PROPERTIES:
        broken = found.get(title)
        _case(part, name, title, 0.0, (broken.message, broken.case) if broken else None)
    if suite is not None:
        failed = sum(test.problem is not None for test in suite.tests) + (suite.problem is not None)
        part = _suite(root, suite.file, len(suite.tests) + (suite.problem is not None), failed)
        if suite.problem is not None:
            _case(part, suite.file, "the file is read", 0.0, (str(suite.problem), suite.problem.rendered()))
        for test in suite.tests:
            _case(part, suite.file, test.name, test.seconds, _failure(test))
    xml.indent(root)
    return xml.tostring(root, encoding="utf-8", xml_declaration=True)


def _suite(root: xml.Element, name: str, tests: int, failures: int) -> xml.Element:
    counts = {"tests": str(tests), "failures": str(failures), "errors": "0"}
    return xml.SubElement(root, "testsuite", {"name": _clean(name), **counts})


def _failure(test: Tested) -> tuple[str, str] | None:
    if test.problem is None:
        return None
    return str(test.problem), "\n".join(filter(None, (test.problem.rendered(), test.case)))


def _case(part: xml.Element, file: str, name: str, seconds: float, failure: tuple[str, str] | None) -> None:
    case = xml.SubElement(part, "testcase", {"classname": _clean(file), "name": _clean(name), "time": f"{seconds:.3f}"})
    if failure is not None:
        xml.SubElement(case, "failure", {"message": _clean(failure[0])}).text = _clean(failure[1])


def _clean(text: str) -> str:
    """Without the characters that no XML may have."""
    return _NOT_XML.sub("?", text)


def data(name: str, properties: Properties, suite: Suite | None, found: Coverage) -> dict[str, Any]:
    """All of it as plain data, for `--json`; docs/testing-scripts.md tells the keys."""
    return {
        "script": name,
        "passed": bool(properties) and (suite is None or bool(suite)),
        "seed": properties.seed,
        "cases": properties.cases,
        "slowest_us": round(properties.slowest_s * 1e6, 1),
        "instructions": properties.instructions,
        "failures": [msgspec.structs.asdict(broken) for broken in properties.broken],
        "mismatches": properties.mismatches,
        "tests": [] if suite is None else [_tested(test) for test in suite.tests],
        "problem": str(suite.problem) if suite is not None and suite.problem is not None else None,
        "coverage": {
            "percent": found.percent, "lines": found.lines, "reached": found.reached, "missed": found.missed,
        },
    }  # fmt: skip


def _tested(test: Tested) -> dict[str, Any]:
    told: dict[str, Any] = {"name": test.name, "line": test.line, "passed": test.problem is None, "log": test.log}
    if test.problem is not None:
        told["message"], told["failed_at"] = str(test.problem), test.problem.line
    if test.case is not None:
        told["case"], told["seed"] = test.case, test.seed
    return told
