"""The options that describe what is simulated, alike for simulate, diff and tune, and the scenario made of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.cli.arguments import config_option, number, pairs
from rbeerouter.config.sections import Config, ConfigError
from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim.types import Scenario, SimWorker, Workload
from rbeerouter.sim.workload import Traffic

USUAL_LOAD = 0.6
"""Of what the workers could do at most, where nobody says how many requests come."""
USUAL_MODEL = "llama-3-8b"
"""Asked for where neither workers nor traffic name a model."""


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
    traffic = parser.add_argument_group("traffic")
    traffic.add_argument("--requests", metavar="N", type=int, help="how many (default 1000, of a file: all)")
    traffic.add_argument("--for", metavar="TIME", dest="lasts", help="nothing arrives later, such as 2h")
    traffic.add_argument("--rate", metavar="R", type=float, help="requests per second; default: so many that the "
                         f"workers are {USUAL_LOAD:.0%} busy".replace("%", "%%"))  # fmt: skip
    traffic.add_argument("--workload", metavar="KEY=VALUE", action="append", default=[],
                         help="a key of [workload], such as arrivals=bursts or users=200; may be repeated")  # fmt: skip
    traffic.add_argument("--model", metavar="NAME", help="asked for by all requests that name none")
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
    settings = _settings(options)
    if options.scenario is not None:
        file, where = scenario_file.read_scenario(options.scenario, settings), str(options.scenario)
    else:
        file, where = scenario_file.scenario_of({}, "the command line", settings), "the command line"
    specs = _specs(config, file.workload, notes)
    tables = dict(file.workers)
    scenario_file.check_known(tables, [spec.id for spec in specs], where)
    if options.workers is not None:
        tables |= (given := scenario_file.read_workers(options.workers))
        scenario_file.check_known(given, [spec.id for spec in specs], str(options.workers))
    workers = staff.sim_workers(specs, tables)
    faults = [scenario_file.fault_of(entry, where) for entry in file.faults]
    faults += [scenario_file.fault_in_short(text) for text in options.fault]
    scenario_file.check_known((fault.worker for fault in faults), [spec.id for spec in specs], where, "fault: ")
    workload = _generated(file.workload, workers, options.seed, notes)
    lasts_s = None if options.lasts is None else scenario_file.seconds(options.lasts, "--for")
    return Prepared(
        Scenario(
            config, workers, workload, *_script(config), strategy=config.routing.strategy,
            params=_numbers(options.param), faults=tuple(faults), seed=options.seed, stop_after_s=lasts_s,
            targets=scenario_file.targets_of(file.targets, _numbers(options.target)),
        ),
        tuple(notes),
    )  # fmt: skip


def _numbers(given: list[str]) -> dict[str, float]:
    return {name: number(name, value) for name, value in pairs(given).items()}


def _config(options: argparse.Namespace) -> Config:
    """The configuration with what the command line puts in its place."""
    from rbeerouter.config.loading import load
    from rbeerouter.config.values import strategy_spelling
    from rbeerouter.dialects.engines import ENGINES
    from rbeerouter.routing.decide import STRATEGIES

    config = load(options.config, script=options.script, strategies=tuple(STRATEGIES), engines=tuple(ENGINES))
    if options.strategy is None:
        return config
    name = strategy_spelling(options.strategy)
    if name not in STRATEGIES:
        raise ConfigError(f"--strategy {options.strategy}: expected one of {', '.join(STRATEGIES)}")
    routing = msgspec.structs.replace(config.routing, strategy=name)
    script = config.script if options.script is not None else None        # a strategy that is named is to decide
    return msgspec.structs.replace(config, routing=routing, script=script)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of [workload]."""
    from rbeerouter.config.reading import read_setting

    settings: dict[str, Any] = {}
    for text in options.workload:
        _merge(settings, read_setting(text, "--workload"))
    for name in ("requests", "rate"):
        value = getattr(options, name)
        if value is not None:
            if value <= 0:
                raise ConfigError(f"--{name} {value:g}: expected more than 0")
            settings[name] = value
    if options.model is not None:
        settings["models"] = {options.model: 1.0}
    return settings


def _merge(into: dict[str, Any], given: dict[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def _specs(config: Config, traffic: Traffic, notes: list[str]) -> tuple[WorkerSpec, ...]:
    """The workers: configured, or those of a home lab."""
    from rbeerouter.sim import staff

    if not config.workers:
        where = f"{config.source} has no [[workers]]" if config.source is not None else "no config"
        notes.append(f"{where}: the built-in home lab is simulated ({', '.join(spec.id for spec in staff.HOME_LAB)})")
        return staff.HOME_LAB
    if any(spec.models for spec in config.workers):
        return config.workers
    asked = tuple(dict.fromkeys([*traffic.models, *(model for mix in traffic.mix for model in mix.models or ())]))
    names = asked or (USUAL_MODEL,)
    notes.append(f"the workers list no models: all of them have {', '.join(names)}")
    return staff.with_models(config.workers, names)


def _generated(traffic: Traffic, workers: tuple[SimWorker, ...], seed: int, notes: list[str]) -> Workload:
    """Traffic for these workers: the models they have, and as many requests as keep them busy."""
    from rbeerouter.sim import staff
    from rbeerouter.sim.workload import Generated

    if not traffic.models:
        traffic = msgspec.structs.replace(traffic, models=staff.usual_models(workers))
    if traffic.rate is None:
        most = staff.most_requests_per_s(workers, traffic)
        traffic = msgspec.structs.replace(traffic, rate=USUAL_LOAD * most)
        notes.append(
            f"rate: {traffic.rate:.3g} requests/s, {USUAL_LOAD:.0%} of the {most:.3g} that these workers could "
            "serve at most; --rate says another"
        )
    return Generated(traffic, seed)


def _script(config: Config) -> tuple[bytes | None, str]:
    """The text and the name of the script. Raises ConfigError."""
    if config.script is None:
        return None, "routing.lua"
    try:
        return config.script.read_bytes(), config.script.name
    except OSError as error:
        raise ConfigError(f"{config.script}: cannot be read: {error.strerror}") from None
