"""Checks a script without a request: `rbeerouter routing check`, and the gate of a reload.

Whether a script is Lua at all, and loads, is asked of Lua itself. Everything else is read from the syntax tree, over
every path and not only the executed one. The first rule is: no false errors. Where a kind is not known nothing is said,
and what only may go wrong is a warning.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection

import msgspec

from rbeerouter.core.types import Env
from rbeerouter.routing.language import LANGUAGE, Language
from rbeerouter.routing.problem import Problem, explain, picture
from rbeerouter.routing.script import Script, ScriptError
from rbeerouter.routing.syntax import parse
from rbeerouter.workbench.answers import Answers
from rbeerouter.workbench.finding import ERROR, WARNING, Finding, Report
from rbeerouter.workbench.flow import check_flow, endings
from rbeerouter.workbench.kinds import Kinds
from rbeerouter.workbench.members import Members
from rbeerouter.workbench.names import check_names
from rbeerouter.workbench.nils import Nils
from rbeerouter.workbench.scopes import Scopes

_NO_ENTRY = "defines no function"
_LINE_END = re.compile(r"\r\n|\n\r|\r|\n")
_TOLD_BY_LUA = {"syntax", "load", "missing-route-request"}


def check(
    source: bytes,
    name: str,
    language: Language = LANGUAGE,
    *,
    request_headers: Collection[str] | None = None,
    set_headers: Collection[str] | None = None,
) -> list[Finding]:
    """What is wrong in a script, in the order of its lines. Never raises.

    Args:
        name: the file's, as errors show it.
        request_headers, set_headers: what `[routing]` lets the script read and set; None when that is not known, and
            then nothing is said of headers.
    """
    problem = _load_problem(source, name)
    if problem is not None and problem.problem is None:
        return [Finding(ERROR, "not-loaded", 1, 1, str(problem).removeprefix(f"{name}: "))]
    if problem is not None and not problem.compiles:
        return [_told(problem, "syntax")]
    tree = parse(source)
    report = Report(tree)
    if tree.broken:
        report.add(tree.nodes[0], WARNING, "not-read", "the checker could not read all of this script")
    else:
        scopes = Scopes(tree)
        ends = endings(tree, scopes)
        kinds = Kinds(tree, scopes, language, ends)
        check_names(report, scopes, language)
        Members(report, kinds, language, _lower(request_headers)).check()
        Nils(report, scopes, kinds).check()
        check_flow(report, ends)
        Answers(report, scopes, kinds, language, _lower(set_headers)).check()
    found = report.sorted()
    if problem is None:
        return found
    told = _told(problem, "missing-route-request" if _NO_ENTRY in str(problem) else "load")
    if any(finding.severity == ERROR and finding.line == told.line for finding in found):
        return found                                           # the same, told better
    return sorted([told, *found], key=lambda finding: (finding.line, finding.column))


def _lower(names: Collection[str] | None) -> set[str] | None:
    return None if names is None else {name.lower() for name in names}


def _load_problem(source: bytes, name: str) -> ScriptError | None:
    """What Lua says when it compiles and runs the file. The clock stands still and chance is seeded."""
    try:
        Script(source, name, Env(lambda: 0.0, lambda: 0.0, random.Random(0))).close()
    except ScriptError as error:
        return error
    return None


def _told(error: ScriptError, code: str) -> Finding:
    found = error.problem
    assert found is not None
    return Finding(ERROR, code, max(found.line, 1), max(found.column, 1), found.message, found.hint)


def render(finding: Finding, source: bytes, name: str = "routing.lua") -> str:
    """A finding for a terminal: place, message, the line with a caret, the hint."""
    message = f"{finding.severity}: {finding.message} [{finding.code}]"
    if finding.code in _TOLD_BY_LUA:
        told = explain(f"{name}:{finding.line}: {finding.message}", name, source)
        return msgspec.structs.replace(told, message=message).rendered()
    lines = _LINE_END.split(source.decode(errors="replace"))
    line = lines[finding.line - 1] if finding.line <= len(lines) else ""
    shown, marker = picture(line, finding.column - 1, finding.column)
    place = f"{name}:{finding.line}:{finding.column}"
    return Problem(place, 0, finding.column, message, finding.hint, shown, finding.line, marker).rendered()
