"""The command `rbeerouter routing simulate`: its options, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbeerouter.cli import scenario
from rbeerouter.config.sections import ConfigError

if TYPE_CHECKING:
    from rbeerouter.sim.asserts import Verdict
    from rbeerouter.sim.ledger import Ledger
    from rbeerouter.sim.types import Result, Scenario

EXIT_FAILED = 1
IN_FULL = ""
"""What --report is without a file."""


def options(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser(
        "simulate", help="run a script on traffic that is made up or recorded, with workers of numbers"
    )
    scenario.scenario_options(command)
    shown = command.add_argument_group("what is shown")
    shown.add_argument("--report", metavar="FILE", nargs="?", const=IN_FULL,
                       help="everything: as text, or as one HTML page in FILE")  # fmt: skip
    shown.add_argument("--json", action="store_true", help="the result as JSON, the same for the same scenario")
    shown.add_argument("--timing", action="store_true", help="with --json: what the simulation itself took")
    shown.add_argument("--assert", metavar="EXPR", dest="expressions", action="append", default=[],
                       help="exit code 1 unless it holds, as in 'p95_ttft_s < 2 and rejected == 0'; may be repeated; "
                       "'help' shows what there is")  # fmt: skip
    shown.add_argument("--log", metavar="FILE", type=Path, help="write the requests as a routing.log does")
    shown.add_argument("--no-ledger", action="store_true", help="do not hold it against simpler rules")
    shown.add_argument("--remote-price", metavar="IN,OUT", help="per million tokens: what a service on the internet "
                       "would cost, for the ledger")  # fmt: skip
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns the exit code. Raises ConfigError, ScriptError."""
    from rbeerouter.sim import asserts, ledger, metrics

    if asserts.HELP in options.expressions:
        print(metrics.listed())
        return 0
    assertions = [asserts.Assertion(text) for text in options.expressions]
    if options.timing and not options.json:
        raise ConfigError("--timing: is for --json; expected both")
    if options.json and options.report == IN_FULL:
        raise ConfigError("--report without a file is text, and --json is not; expected --report FILE, or one of them")
    price = None if options.remote_price is None else ledger.read_price(options.remote_price)
    prepared = scenario.prepare(options)
    if options.report:
        _check_writable(options.report)
    result = _simulated(prepared.scenario, options)
    compared = None if options.no_ledger else _ledger(prepared.scenario, result, price)
    verdicts = asserts.judge_all(assertions, metrics.metrics(result))
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(_json(result, compared, verdicts, options.timing).decode())
    else:
        _print_text(result, compared, prepared.scenario, options)
    if options.report:
        _write_page(result, compared, prepared.scenario, options)
    for verdict in verdicts:
        print(verdict, file=sys.stderr if options.json or not verdict.ok else sys.stdout)
    return 0 if all(verdict.ok for verdict in verdicts) else EXIT_FAILED


def _simulated(given: Scenario, options: argparse.Namespace) -> Result:
    from rbeerouter.cli.progress import Progress
    from rbeerouter.sim import logged, world

    with contextlib.ExitStack() as stack:
        recorder = None
        if options.log is not None:
            recorder = stack.enter_context(logged.log_of(options.log, given.config))
        told = stack.enter_context(Progress(given.workload.count))
        if recorder is None:
            return world.run(given, told)
        return world.run(given, told, on_line=recorder.record, on_roll=recorder.enroll)


def _ledger(given: Scenario, result: Result, price: tuple[float, float] | None) -> Ledger:
    from rbeerouter.cli.progress import Progress
    from rbeerouter.sim import ledger, world

    def run_one(baseline: Scenario) -> Result:
        with Progress(baseline.workload.count, "simpler rules") as told:
            return world.run(baseline, told)

    return ledger.ledger(given, run_one, result, remote_price=price)


def _json(result: Result, compared: Ledger | None, verdicts: list[Verdict], timing: bool) -> bytes:
    """The result with what was found besides. Without `timing` it depends on nothing but the scenario."""
    shown = msgspec.to_builtins(result)
    if not timing:
        del shown["timing"]
    shown["ledger"] = msgspec.to_builtins(compared)
    shown["assertions"] = msgspec.to_builtins(verdicts)
    return msgspec.json.format(msgspec.json.encode(shown), indent=2)


def _print_text(result: Result, compared: Ledger | None, given: Scenario, options: argparse.Namespace) -> None:
    from rbeerouter.sim import tables, text

    colour = sys.stdout.isatty()
    if options.report == IN_FULL:
        print(text.full(result, source=given.script, ledger=compared, colour=colour), end="")
        return
    print(text.summary(result, colour=colour), end="")
    if compared is not None:
        print()
        print(text.section(tables.ledger(compared), colour=colour), end="")


def _write_page(result: Result, compared: Ledger | None, given: Scenario, options: argparse.Namespace) -> None:
    from rbeerouter.cli.judging import write
    from rbeerouter.sim import page

    made = page.page(result, source=given.script, scenario=given, command=options.command, ledger=compared)
    write(Path(options.report), made)
    print(f"\nreport: {options.report}", file=sys.stderr if options.json else sys.stdout)


def _check_writable(name: str) -> None:
    """Before anything is simulated. Raises ConfigError."""
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise ConfigError(f"--report {name}: {what}; expected the name of a file")
