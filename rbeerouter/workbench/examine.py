"""`rbeerouter routing check`: what is wrong in a script, which workers it never chooses, what a decision costs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TextIO

import msgspec

from rbeerouter.config.sections import Config
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import configured_abilities, read_source
from rbeerouter.workbench.check import check, render
from rbeerouter.workbench.cost import decision_us
from rbeerouter.workbench.finding import ERROR, WARNING, Finding
from rbeerouter.workbench.reach import never_chosen


def run(script: Path, config: Config | None, out: TextIO, as_json: bool = False, static: bool = False) -> bool:
    """Checks a file and prints what was found. Returns whether there are no errors; warnings are none.

    Args:
        config: where its workers are, which are asked for those that no request can reach.
        static: only read the script, do not try it.

    Raises:
        ScriptError: the file cannot be read.
    """
    source = read_source(script)
    abilities = configured_abilities(config.routing) if config is not None else Abilities()
    findings = check(source, script.name, **_headers(abilities, config))
    errors = [finding for finding in findings if finding.severity == ERROR]
    cost: dict[int, float] = {}
    if not errors and not static:
        if config is not None and config.workers:
            findings += [
                Finding(WARNING, "never-chosen", 1, 1, f"no request that was tried goes to the worker {worker}")
                for worker in never_chosen(source, script.name, config.workers, abilities)
            ]
        cost = decision_us(source, script.name, abilities)
    if as_json:
        print(_as_json(source, script, findings, cost), file=out)
        return not errors
    for finding in sorted(findings, key=lambda finding: finding.severity != ERROR):
        print(render(finding, source, script.name), end="\n\n", file=out)
    if cost:
        told = ", ".join(f"{us:g} us with {count}" for count, us in cost.items())
        print(f"a decision takes {told} workers", file=out)
    print(f"{script.name}: {_count(len(errors), 'error')}, {_count(len(findings) - len(errors), 'warning')}", file=out)
    return not errors


def _headers(abilities: Abilities, config: Config | None) -> dict[str, tuple[str, ...]]:
    """Those that the script may read and set; without a configuration nobody knows."""
    if config is None:
        return {}
    return {"request_headers": abilities.request_headers, "set_headers": abilities.set_headers}


def _as_json(source: bytes, script: Path, findings: list[Finding], cost: dict[int, float]) -> str:
    report: dict[str, Any] = {
        "ok": all(finding.severity != ERROR for finding in findings),
        "script": str(script),
        "hash": hashlib.sha256(source).hexdigest()[:12],
        "findings": findings,
        "decision_us": {str(count): us for count, us in cost.items()},
    }
    return msgspec.json.encode(report).decode()


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
