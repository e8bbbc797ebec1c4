"""The options that say who asks for what, and the workload made of them; `scenario` has the rest of a scenario."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbeerouter.cli.arguments import count, pairs
from rbeerouter.config.sections import Config, ConfigError

if TYPE_CHECKING:
    from rbeerouter.sim.scenario_file import ScenarioFile
    from rbeerouter.sim.traces import Trace
    from rbeerouter.sim.types import SimWorker
    from rbeerouter.sim.workload import Generated, Traffic

USUAL_LOAD = 0.6
"""Of what the workers could do at most, where nobody says how many requests come."""
USUAL_MODEL = "llama-3-8b"
"""Asked for where neither workers nor traffic name a model."""
_OF_FILES = ("format", "from", "to", "skip", "speed", "scale", "map")


def traffic_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of traffic that is made up, and of traffic that a file tells of."""
    group = parser.add_argument_group("traffic")
    group.add_argument("--requests", metavar="N", type=int, help="how many (default 1000; of a trace: all)")
    group.add_argument("--for", metavar="TIME", dest="lasts", help="nothing arrives later, such as 2h")
    group.add_argument("--rate", metavar="R", type=float, help="requests per second; default: "
                       f"{USUAL_LOAD:.0%} of what the workers could serve".replace("%", "%%"))  # fmt: skip
    group.add_argument("--workload", metavar="KEY=VALUE", action="append", default=[],
                       help="a key of [workload], such as arrivals=bursts or users=200; may be repeated")  # fmt: skip
    group.add_argument("--model", metavar="NAME", help="asked for by all requests that name none")
    trace = parser.add_argument_group("traffic of a file")
    trace.add_argument("--trace", metavar="FILE", type=Path,
                       help="a routing.log, or a trace of Azure, BurstGPT or Mooncake; gzipped or not")  # fmt: skip
    trace.add_argument("--format", metavar="NAME", help="azure, burstgpt, mooncake or log; default: by the content")
    trace.add_argument("--from", metavar="TIME", dest="from_time", help="begin here, since its first request: 90s, 2h")
    trace.add_argument("--to", metavar="TIME", help="end here")
    trace.add_argument("--skip", metavar="N", type=count, help="leave out the first N requests")
    trace.add_argument("--speed", metavar="F", type=float, help="let time go F times as fast (default 1)")
    trace.add_argument("--scale", metavar="F", type=float, help="F times as many requests in the same time (default 1)")
    trace.add_argument("--map", metavar="MODEL=MODEL", action="append", default=[],
                       help="ask for another model than it names; *=MODEL for all others; may be repeated")  # fmt: skip


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of [workload]. Raises ConfigError."""
    from rbeerouter.config.reading import read_setting

    found: dict[str, Any] = {}
    for text in options.workload:
        _merge(found, read_setting(text, "--workload"))
    for name in ("requests", "rate"):
        value = getattr(options, name)
        if value is not None:
            if not value > 0:
                raise ConfigError(f"--{name} {value:g}: expected more than 0")
            found[name] = value
    if options.model is not None:
        found["models"] = {options.model: 1.0}
    return found


def _merge(into: dict[str, Any], given: dict[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def trace_of(options: argparse.Namespace, file: ScenarioFile) -> Trace | None:
    """The file of traffic that the options or the scenario name, with the options before the scenario. Raises
    ConfigError."""
    from rbeerouter.sim.scenario_file import TraceTable, check_trace
    from rbeerouter.sim.traces import Cut, Trace

    table = file.trace
    if options.trace is None and table is None:
        for name in _OF_FILES:
            if getattr(options, "from_time" if name == "from" else name):
                raise ConfigError(f"--{name}: is for traffic of a file; expected --trace FILE as well")
        return None
    if options.rate is not None:
        raise ConfigError(
            "--rate: a trace has a rate of its own; --speed 2 lets time go twice as fast, --scale 2 brings twice as "
            "many requests in the same time"
        )
    if options.trace is not None:
        path = options.trace
        table = TraceTable("") if table is None else table
    else:
        path = (options.scenario.parent / Path(table.file).expanduser()).absolute()
    table = msgspec.structs.replace(table, **_given(options), map={**table.map, **pairs(options.map)})
    check_trace(table, "--")
    cut = Cut(table.from_s, table.to_s, table.skip, table.requests, table.speed, table.scale)
    return Trace(path, table.format, cut, file.workload, table.map, options.seed)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of [trace]. Raises ConfigError."""
    from rbeerouter.sim.scenario_file import seconds

    names = ("format", "skip", "requests")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    for name in ("speed", "scale"):
        value = getattr(options, name)
        if value is not None:
            if not 0 < value <= 1e6:
                raise ConfigError(f"--{name} {value:g}: expected more than 0, and at most 1000000")
            given[name] = value
    for name, text in (("from", options.from_time), ("to", options.to)):
        if text is not None:
            given[f"{name}_s"] = seconds(text, f"--{name}")
    return given


def asked_models(traffic: Traffic, trace: Trace | None) -> tuple[str, ...]:
    """The models that are asked for by name."""
    named = [] if trace is None else [trace.mapped(model) for model in trace.survey.models if model is not None]
    named += [*traffic.models, *(model for mix in traffic.mix for model in mix.models or ())]
    return tuple(dict.fromkeys(named))


def _strange(asked: Iterable[str], workers: tuple[SimWorker, ...], config: Config) -> list[str]:
    """Those of these models that no worker has, sorted."""
    if not all(worker.spec.models for worker in workers):
        return []                                              # one takes any
    known = {model for worker in workers for model in worker.spec.models}
    known |= {name for model in config.models for name in (model.name, *model.aliases)}
    return sorted({*asked} - known)


def generated(
    traffic: Traffic, workers: tuple[SimWorker, ...], config: Config, seed: int, notes: list[str]
) -> Generated:
    """Traffic for these workers: the models they have, and as many requests as keep them busy."""
    from rbeerouter.sim import staff
    from rbeerouter.sim.workload import Generated

    if not traffic.models:
        traffic = msgspec.structs.replace(traffic, models=staff.usual_models(workers))
    strange = _strange(staff.model_weights(traffic), workers, config)
    if strange:
        notes.append(f"no worker has {', '.join(strange)}: asked for in vain")
    if traffic.rate is None:
        most = staff.most_requests_per_s(workers, traffic)
        traffic = msgspec.structs.replace(traffic, rate=USUAL_LOAD * most)
        notes.append(
            f"rate: {traffic.rate:.3g} requests/s, {USUAL_LOAD:.0%} of the {most:.3g} that these workers could "
            "serve at most; --rate says another"
        )
    return Generated(traffic, seed)


def recorded(
    trace: Trace, traffic: Traffic, workers: tuple[SimWorker, ...], config: Config, notes: list[str]
) -> Trace:
    """A file's traffic for these workers. Raises ConfigError where it asks for models that nobody has."""
    from rbeerouter.sim import staff

    usual = staff.usual_models(workers)
    named = {model: many for model, many in trace.survey.models.items() if model is not None}
    missing = _strange(map(trace.mapped, named), workers, config)
    strange = sorted(model for model in named if trace.mapped(model) in missing)
    if strange and trace.kind != "log":
        raise ConfigError(
            f"{trace.path}: asks for {', '.join(strange)}, which no worker has; expected --map {strange[0]}=MODEL with "
            f"one of {', '.join(usual)}"
        )
    if strange:
        notes.append(f"no worker has {', '.join(strange)}: asked for in vain; --map {strange[0]}=MODEL changes that")
    trace.traffic = msgspec.structs.replace(traffic, models=traffic.models or usual)
    if trace.kind != "log":
        told = "tiers, regions, users and the like" if named else "models, tiers, regions, users and the like"
        notes.append(f"the trace names no {told}: they are made up; --workload 'tiers={{}}' leaves one out")
    most = staff.most_requests_per_s(workers, _like(trace))
    load = trace.requests_per_s / most
    other = f"; --speed {USUAL_LOAD / load:.2g} would make it {USUAL_LOAD:.0%}" if load > 1.0 else ""
    notes.append(
        f"load: {trace.requests_per_s:.3g} requests/s, {load:.0%} of what these workers could serve at most{other}"
    )
    return trace


def _like(trace: Trace) -> Traffic:
    """Traffic with the models and the mean lengths of a file."""
    from rbeerouter.sim.draws import Lengths
    from rbeerouter.sim.workload import Traffic

    weights: dict[str, float] = {}
    for model, many in trace.survey.models.items():
        if model is not None:
            weights[trace.mapped(model)] = weights.get(trace.mapped(model), 0.0) + many
    most_tokens = 1 << 31
    return Traffic(
        models=weights or trace.traffic.models,
        tokens_in=Lengths("constant", mean=max(1.0, trace.survey.tokens_in), most=most_tokens),
        tokens_out=Lengths("constant", mean=max(1.0, trace.survey.tokens_out), most=most_tokens),
    )
