"""The command `rbeerouter routing tune`: its options, and what it prints."""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbeerouter.cli import judging
from rbeerouter.cli.arguments import count, pairs
from rbeerouter.cli.scenario import scenario_of, scenario_options

if TYPE_CHECKING:
    from rbeerouter.sim.spans import Point
    from rbeerouter.sim.tune import Tuned
    from rbeerouter.sim.types import Scenario

MOST_RUNS = 100_000


def options(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("tune", help="try other values for a script's param()s, and show the trade-off")
    scenario_options(command)
    command.add_argument("--minimise", metavar="NAMES", help="what should be small (default p95_ttft_s,cost)")
    command.add_argument("--maximise", metavar="NAMES", default="", help="what should be large, such as goodput")
    command.add_argument("--runs", metavar="N", type=count, default=40, help="simulations in all (default 40)")
    command.add_argument("--jobs", metavar="N", type=count, default=0, help="processes (default: one for each core)")
    command.add_argument("--json", action="store_true")
    command.add_argument("--report", metavar="FILE", type=Path, help="write a page with plots")
    judging.assert_option(command, "values that break it are not recommended")
    command.epilog = "--param NAME=A,B,C or NAME=LOW..HIGH or NAME=LOW..HIGH/STEPS sweeps these values alone."
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns the exit code: 1 when nothing can be recommended. Raises ConfigError, ScriptError."""
    from rbeerouter.config.sections import ConfigError
    from rbeerouter.sim import jobs
    from rbeerouter.sim.tune import read_objectives, tune

    if judging.wants_help(options):
        return 0
    if not 2 <= options.runs <= MOST_RUNS:
        raise ConfigError(f"--runs {options.runs}: expected 2 to {MOST_RUNS}")
    objectives = read_objectives(_smallest(options), options.maximise)
    assertions = judging.read_assertions(options)
    fixed, swept = _parted(options.param)

    def make(seed: int) -> Scenario:
        given = copy.copy(options)
        given.seed, given.param = seed, fixed
        return scenario_of(given)

    scenario = make(options.seed)
    tried = _points(options, scenario, swept)
    found = tune(
        make, tried, objectives, options.runs, first_seed=options.seed, assertions=assertions,
        jobs=options.jobs or jobs.cores(), progress=judging.progress(options.runs, "simulating"),
    )  # fmt: skip
    _tell(options, found, scenario)
    return 0 if found.knee is not None else 1


def _smallest(options: argparse.Namespace) -> str:
    if options.minimise is not None:
        return options.minimise
    return "" if options.maximise else "p95_ttft_s,cost"


def _parted(given: list[str]) -> tuple[list[str], dict[str, str]]:
    """What --param fixes, and what it sweeps."""
    swept = {name: value for name, value in pairs(given).items() if "," in value or ".." in value}
    return [text for text in given if text.partition("=")[0] not in swept], swept


def _points(options: argparse.Namespace, scenario: Scenario, swept: dict[str, str]) -> list[Point]:
    """What is tried, at most so many points that runs are left for more seeds; values that were named, all of them."""
    from rbeerouter.config.sections import ConfigError
    from rbeerouter.sim.spans import points, spans_of
    from rbeerouter.sim.tune import points_within

    if scenario.script is None:
        raise ConfigError("tune: there is no script; pass --script FILE, or set [routing] script")
    params = {name: known for name, known in _params(scenario).items() if name in swept or name not in scenario.params}
    if not params:
        raise ConfigError(
            f"{scenario.script_name} has no param() to tune; name a number of it, as in\n"
            '  local most = param("most", 4, 1, 16)   -- name, default, lowest, highest\n'
            "and use it in place of the number"
        )
    spans = spans_of(params, swept)
    most = options.runs if all(span.values for span in spans) else points_within(options.runs)
    return points(spans, most, options.seed)


def _params(scenario: Scenario) -> dict[str, dict[str, float]]:
    """The script's params as they are set now, found by loading it."""
    import random

    from rbeerouter.core.types import Env
    from rbeerouter.routing.script import Script, configured_abilities, configured_limits

    assert scenario.script is not None
    routing = scenario.config.routing
    env = Env(lambda: 0.0, lambda: scenario.start_wall, random.Random(scenario.seed))
    script = Script(
        scenario.script, scenario.script_name, env, configured_limits(routing), configured_abilities(routing)
    )  # fmt: skip
    try:
        return script.params()
    finally:
        script.close()


def _tell(options: argparse.Namespace, found: Tuned, scenario: Scenario) -> None:
    from rbeerouter.sim import trade_off

    source, name = scenario.script or b"", scenario.script_name
    if options.report is not None:
        judging.write(options.report, trade_off.page(found, source, name, shlex.join(["rbeerouter", *sys.argv[1:]])))
    if options.json:
        print(msgspec.json.encode(found.told()).decode())
        return
    print(trade_off.terminal(found, source, name, colour=sys.stdout.isatty()), end="")
