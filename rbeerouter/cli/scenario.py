"""The options that describe what is simulated, alike for simulate, diff and tune, and the scenario made of them."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.cli import traffic
from rbeerouter.cli.arguments import config_option, number, pairs
from rbeerouter.config.sections import Config, ConfigError
from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim.types import Fault, Scenario

if TYPE_CHECKING:
    from rbeerouter.sim.scenario_file import WorkerTable
    from rbeerouter.sim.traces import Trace
    from rbeerouter.sim.workload import Generated


_MOST_FAULTS = 100_000
"""They are made before it begins and kept in memory."""


class Prepared(msgspec.Struct, frozen=True):
    """A scenario, and in words what was chosen because nobody said it."""

    scenario: Scenario
    notes: tuple[str, ...]


def scenario_options(parser: argparse.ArgumentParser) -> None:
    """Adds --script, --config, the workload, the workers' profiles, faults, targets and --seed."""
    config_option(parser)
    parser.add_argument("--script", metavar="FILE", type=Path, help="default: the configured one, else the strategy")
    parser.add_argument("--strategy", metavar="NAME", help="in place of [routing] strategy")
    parser.add_argument("--param", metavar="NAME=VALUE", action="append", default=[], help="of the script's param()s")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="another one brings other chance (default 1)")
    parser.add_argument("--scenario", metavar="FILE", type=Path, help="TOML: [workload], [workers.ID], [[faults]], ...")
    parser.add_argument("--workers", metavar="FILE", type=Path, help="TOML: [workers.ID], as routing calibrate writes")
    traffic.traffic_options(parser)
    trouble = parser.add_argument_group("faults and targets")
    trouble.add_argument("--fault", metavar="WORKER:KIND@AT+LONG", action="append", default=[],
                         help="such as gpu1:crash@60s+30s or gpu1:slow*4@5m+2m; may be repeated")  # fmt: skip
    trouble.add_argument("--random-faults", metavar="N", type=float, help="so many per hour")
    trouble.add_argument("--target", metavar="NAME=SECONDS", action="append", default=[],
                         help="ttft_s, tpot_s or e2e_s: what goodput counts as good")  # fmt: skip


def scenario_of(options: argparse.Namespace) -> Scenario:
    """What the options say. Raises ConfigError, ScriptError."""
    return prepare(options).scenario


def prepare(options: argparse.Namespace) -> Prepared:
    """The same with what was chosen for want of a word. Raises ConfigError, ScriptError."""
    from rbeerouter.sim import scenario_file, staff

    notes: list[str] = []
    config = _config(options)
    settings = traffic.settings(options)
    if options.scenario is not None:
        file, where = scenario_file.read_scenario(options.scenario, settings), str(options.scenario)
    else:
        file, where = scenario_file.scenario_of({}, "the command line", settings), "the command line"
    trace = traffic.trace_of(options, file)
    specs = _specs(config, traffic.asked_models(file.workload, trace), notes)
    ids = [spec.id for spec in specs]
    tables = _tables(options, file.workers, ids, where, notes)
    workers = staff.sim_workers(specs, tables)
    notes += staff.unknown_machines(specs, tables)
    faults = [scenario_file.fault_of(entry, where) for entry in file.faults]
    faults += [scenario_file.fault_in_short(text) for text in options.fault]
    scenario_file.check_known((fault.worker for fault in faults), ids, where, "fault: ")
    if trace is None:
        workload: Generated | Trace = traffic.generated(file.workload, workers, config, options.seed, notes)
    else:
        workload = traffic.recorded(trace, file.workload, workers, config, notes)
    lasts_s = None if options.lasts is None else scenario_file.seconds(options.lasts, "--for")
    faults += _random_faults(options, file.random_faults, ids, workload, lasts_s)
    made = Scenario(
        config, workers, workload, *_script(config), strategy=config.routing.strategy,
        params=_numbers(options.param), faults=tuple(faults), seed=options.seed,
        targets=scenario_file.targets_of(file.targets, _numbers(options.target)),
        stop_after_s=lasts_s,
    )  # fmt: skip
    if trace is not None and trace.start_wall is not None:
        made = msgspec.structs.replace(made, start_wall=trace.start_wall)
    return Prepared(made, tuple(notes))


def _tables(
    options: argparse.Namespace, of_scenario: dict[str, WorkerTable], ids: list[str], where: str, notes: list[str]
) -> dict[str, WorkerTable]:
    """What the scenario and --workers say of workers. A calibrated log may tell of workers that are gone by now; a
    file that tells of none of the present ones belongs to another configuration. Raises ConfigError."""
    from rbeerouter.sim import scenario_file

    scenario_file.check_known(of_scenario, ids, where)
    if options.workers is None:
        return of_scenario
    given = scenario_file.read_workers(options.workers)
    gone = [name for name in given if name not in ids]
    if len(gone) == len(given):
        scenario_file.check_known(given, ids, str(options.workers))
    if gone:
        notes.append(f"{options.workers}: tells of {', '.join(gone)}, which is no worker here: left out")
    return {**of_scenario, **{name: table for name, table in given.items() if name in ids}}


def _random_faults(
    options: argparse.Namespace, of_file: float, ids: list[str], workload: Generated | Trace, lasts_s: float | None
) -> tuple[Fault, ...]:
    """So many per hour as --random-faults or the scenario says, for as long as traffic comes. Raises ConfigError."""
    from rbeerouter.sim.faults import random_faults

    per_hour = of_file if options.random_faults is None else options.random_faults
    if not 0 <= per_hour <= 1e6:
        raise ConfigError(f"--random-faults {per_hour:g}: expected 0 or more per hour, and at most 1000000")
    until_s = (workload.count or 0) / workload.requests_per_s
    until_s = until_s if lasts_s is None else min(until_s, lasts_s)
    if per_hour * until_s > _MOST_FAULTS * 3600:
        raise ConfigError(
            f"--random-faults {per_hour:g}: {per_hour * until_s / 3600:.3g} faults in {until_s:.3g} s of traffic; "
            f"expected {_MOST_FAULTS} at most"
        )
    return random_faults(random.Random(f"{options.seed} faults"), ids, per_hour, until_s)


def _numbers(given: list[str]) -> dict[str, float]:
    return {name: number(name, value) for name, value in pairs(given).items()}


def _config(options: argparse.Namespace) -> Config:
    """The configuration with what the command line puts in its place."""
    from rbeerouter.config.loading import load
    from rbeerouter.config.strategies import StrategyError
    from rbeerouter.dialects.engines import ENGINES
    from rbeerouter.routing.strategies import NAMES

    config = load(options.config, script=options.script, strategies=NAMES, engines=tuple(ENGINES))
    if options.strategy is None:
        return config
    try:
        name = NAMES.spelled(options.strategy)
    except StrategyError as error:
        raise ConfigError(f"--strategy {error}") from None
    routing = msgspec.structs.replace(config.routing, strategy=name)
    script = config.script if options.script is not None else None        # a strategy that is named is to decide
    return msgspec.structs.replace(config, routing=routing, script=script)


def _specs(config: Config, asked: tuple[str, ...], notes: list[str]) -> tuple[WorkerSpec, ...]:
    """The workers: configured, or those of a home lab. asked: the models that traffic names."""
    from rbeerouter.sim import staff

    if not config.workers:
        where = f"{config.source} has no [[workers]]" if config.source is not None else "no config"
        notes.append(f"{where}: the built-in home lab is simulated ({', '.join(spec.id for spec in staff.HOME_LAB)})")
        return staff.HOME_LAB
    if any(spec.models for spec in config.workers):
        return config.workers
    names = asked or (traffic.USUAL_MODEL,)
    notes.append(f"the workers list no models: all of them have {', '.join(names)}")
    return staff.with_models(config.workers, names)


def _script(config: Config) -> tuple[bytes | None, str]:
    """The text and the name of the script. Raises ConfigError."""
    if config.script is None:
        return None, "routing.lua"
    try:
        return config.script.read_bytes(), config.script.name
    except OSError as error:
        raise ConfigError(f"{config.script}: cannot be read: {error.strerror}") from None
