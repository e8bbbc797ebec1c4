"""The command `rbeerouter routing diff`: its options, and what it prints."""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbeerouter.cli import judging
from rbeerouter.cli.arguments import count, number, pairs
from rbeerouter.cli.scenario import scenario_of, scenario_options

if TYPE_CHECKING:
    from rbeerouter.sim.diff import Diff
    from rbeerouter.sim.types import Scenario

LIVE = ("-", "live")
"""In place of a file: the configured script, or the strategy where there is none."""
MOST_SEEDS = 1000


def options(commands: Any) -> None:
    """Adds the command."""
    command = commands.add_parser("diff", help="what another script would change, on the same traffic")
    command.add_argument("before", metavar="A", help="a script, a strategy's name, or live: the configured script")
    command.add_argument("after", metavar="B", help="the same, to be held against it")
    command.add_argument("--seeds", metavar="N", type=count, default=5, help="how many to simulate (default 5)")
    command.add_argument("--jobs", metavar="N", type=count, default=0, help="processes (default: one for each core)")
    command.add_argument("--json", action="store_true")
    command.add_argument("--report", metavar="FILE", type=Path, help="write a page with plots")
    command.add_argument("--markdown", metavar="FILE", nargs="?", const="-", help="for a pull request; without FILE it "
                         "is printed")  # fmt: skip
    judging.assert_option(command, "exit code 1 when it does not hold of B")
    scenario_options(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Returns the exit code. Raises ConfigError, ScriptError."""
    from rbeerouter.config.sections import ConfigError
    from rbeerouter.sim import jobs
    from rbeerouter.sim.asserts import judge_all
    from rbeerouter.sim.diff import ASSERTED, ASSERTED_BEFORE, diff

    if judging.wants_help(options):
        print(f"Of A: before.p95_ttft_s. Beside these: {', '.join(ASSERTED)}.")
        return 0
    if options.script is not None or options.strategy is not None:
        raise ConfigError("diff: A and B say who decides; --script and --strategy are not needed")
    if not 1 <= options.seeds <= MOST_SEEDS:
        raise ConfigError(f"--seeds {options.seeds}: expected 1 to {MOST_SEEDS}")
    assertions = judging.read_assertions(options, ASSERTED, ASSERTED_BEFORE)

    def make(seed: int) -> tuple[Scenario, Scenario]:
        return side(options, options.before, seed), side(options, options.after, seed)

    first = make(options.seed)                                 # what cannot be simulated is told before forks are made
    _check_params(options, *first)
    seeds = range(options.seed, options.seed + options.seeds)
    found = diff(
        make, seeds, _names(*first), options.jobs or jobs.cores(), judging.progress(len(seeds), "simulating seeds")
    )  # fmt: skip
    verdicts = judge_all(assertions, found.values())
    _tell(options, found, judging.told(verdicts))
    if options.json:
        print(msgspec.json.encode(found.told() | {"assertions": verdicts}).decode())
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def side(options: argparse.Namespace, who: str, seed: int) -> Scenario:
    """The scenario in which this script or strategy decides. Raises ConfigError."""
    from rbeerouter.config.sections import ConfigError
    from rbeerouter.config.strategies import StrategyError
    from rbeerouter.routing.strategies import NAMES

    given = copy.copy(options)
    given.seed, given.param = seed, []
    if who not in LIVE:
        if Path(who).is_file():
            given.script = Path(who)
        else:
            try:
                given.strategy = NAMES.spelled(who)
            except StrategyError as error:
                raise ConfigError(f"{who}: there is no such file; as a strategy, {error}; or live") from None
    scenario = scenario_of(given)
    return msgspec.structs.replace(scenario, params=_params(options, scenario.script))


def _params(options: argparse.Namespace, script: bytes | None) -> dict[str, float]:
    """What --param says of this side's params: the other side may have others."""
    from rbeerouter.routing.syntax import params

    there = {param.name for param in params(script)} if script is not None else set()
    return {name: number(name, value) for name, value in pairs(options.param).items() if name in there}


def _check_params(options: argparse.Namespace, before: Scenario, after: Scenario) -> None:
    from rbeerouter.config.sections import ConfigError

    for name in pairs(options.param):
        if name not in before.params and name not in after.params:
            raise ConfigError(f"--param {name}: neither side has it, written out as param({name!r}, number, ...)")


def _names(before: Scenario, after: Scenario) -> tuple[str, str]:
    """What the sides are called."""
    first, second = (
        one.script_name if one.script is not None else one.strategy for one in (before, after)
    )  # fmt: skip
    return (first, second) if first != second else (f"{first} (A)", f"{second} (B)")


def _tell(options: argparse.Namespace, found: Diff, asserted: str) -> None:
    from rbeerouter.sim import comparison

    if options.report is not None:
        judging.write(options.report, comparison.page(found, shlex.join(["rbeerouter", *sys.argv[1:]])))
    if options.markdown not in (None, "-"):
        judging.write(Path(options.markdown), comparison.markdown(found))
    if options.json:
        return
    if options.markdown == "-":
        print(comparison.markdown(found) + asserted, end="")
        return
    print(comparison.terminal(found, colour=sys.stdout.isatty()) + (f"\n{asserted}" if asserted else ""), end="")
