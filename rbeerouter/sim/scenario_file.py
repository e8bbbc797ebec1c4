"""What is simulated, as a TOML file says it: traffic, the workers' speed, faults and targets.

`cli.scenario` reads `--scenario FILE` and `--workers FILE` here, and turns the short forms of its options into the same
values. Errors are those of config/: the file, the key, the value and what was expected. docs/simulate.md explains the
keys.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rbeerouter.config.reading import convert, expand, read_toml
from rbeerouter.config.sections import ConfigError, Count, CountFromZero, Positive, Section
from rbeerouter.sim.faults import KINDS
from rbeerouter.sim.trace_formats import FORMATS
from rbeerouter.sim.types import Fault, Footprint, Profile, Targets
from rbeerouter.sim.workload import Traffic, check_traffic

Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Factor = Annotated[float, Meta(gt=0, le=1e6)]
Tokens = Annotated[int, Meta(ge=1, le=1 << 40)]


class FootprintTable(Section):
    """What a model costs a worker: see `types.Footprint`."""

    gib: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    times: Positive = 1.0


class WorkerTable(Section):
    """One [workers.ID]: values of a `types.Profile`, in place of those that its hardware would have.

    preset: a name of `hardware.PRESETS` to start from. footprints, loaded: as in `types.SimWorker`.
    """

    preset: str | None = None
    step_s: Seconds | None = None
    sequence_s: Seconds | None = None
    prefill_s: Seconds | None = None
    context_s: Seconds | None = None
    slots: Tokens | None = None
    batch_tokens: Tokens | None = None
    kv_tokens: Tokens | None = None
    block_tokens: Tokens | None = None
    prefix_cache: bool | None = None
    overhead_s: Seconds | None = None
    memory_gib: Positive | None = None
    load_gib_per_s: Positive | None = None
    load_s: Seconds | None = None
    keep_alive_s: Seconds | None = None
    cold_start_s: Seconds | None = None
    watts_idle: Seconds | None = None
    watts_busy: Seconds | None = None
    source: str | None = None
    footprints: dict[str, FootprintTable] = msgspec.field(default_factory=dict)
    loaded: tuple[str, ...] | None = None

    def profile(self, usual: Profile) -> Profile:
        """The usual one with what stands here."""
        given = {name: value for name in Profile.__struct_fields__ if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(usual, **given)

    def costs(self) -> dict[str, Footprint]:
        return {model: Footprint(entry.gib, entry.times) for model, entry in self.footprints.items()}


class FaultEntry(Section):
    """One [[faults]]: see `types.Fault`."""

    worker: str
    kind: str
    at_s: Seconds
    for_s: Positive
    amount: Annotated[float, Meta(gt=0, le=1e6)] | None = None


class TraceTable(Section):
    """[trace]: traffic of a file, in place of what [workload] makes up; that fills in what the file does not tell.

    file: relative to the scenario's. format: a name in `trace_formats.FORMATS`. map: other models than the file names.
    The others: see `traces.Cut`.
    """

    file: str
    format: str | None = None
    from_s: Seconds = 0.0
    to_s: Positive | None = None
    skip: CountFromZero = 0
    requests: Count | None = None
    speed: Factor = 1.0
    scale: Factor = 1.0
    map: dict[str, str] = msgspec.field(default_factory=dict)


class TargetsTable(Section):
    """[targets]: see `types.Targets`."""

    ttft_s: Positive | None = None
    tpot_s: Positive | None = None
    e2e_s: Positive | None = None


class ScenarioFile(Section):
    """The whole file. random_faults: per hour, besides [[faults]]."""

    workload: Traffic = Traffic()
    trace: TraceTable | None = None
    workers: dict[str, WorkerTable] = msgspec.field(default_factory=dict)
    faults: tuple[FaultEntry, ...] = ()
    random_faults: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    targets: TargetsTable = TargetsTable()


class WorkersOnly(Section):
    """The file of `--workers`, as `rbeerouter routing calibrate` writes it."""

    workers: dict[str, WorkerTable]


def read_scenario(path: Path, settings: dict[str, Any] | None = None) -> ScenarioFile:
    """A scenario's file. settings: what the command line says of [workload], which goes before. Raises ConfigError."""
    return scenario_of(expand(read_toml(path), str(path), ""), str(path), settings)


def scenario_of(raw: dict[str, Any], where: str, settings: dict[str, Any] | None = None) -> ScenarioFile:
    """The same of a table that has been read."""
    if settings:
        check_traffic(convert({"workload": settings}, "--workload", ScenarioFile).workload, "--workload")
        table = raw.get("workload", {})
        raw = {**raw, "workload": {**table, **settings} if isinstance(table, dict) else table}
    file = convert(raw, where, ScenarioFile)
    check_traffic(file.workload, where)
    if file.trace is not None:
        check_trace(file.trace, f"{where}: trace.")
    for index, entry in enumerate(file.faults):
        fault_of(entry, f"{where}: faults[{index}]")
    return file


def check_trace(given: TraceTable, key: str) -> None:
    """What the types cannot say. Raises ConfigError with `key` before the name."""
    if given.format is not None and given.format not in FORMATS:
        raise ConfigError(f"{key}format {given.format!r}: expected one of {', '.join(FORMATS)}")
    if given.to_s is not None and given.to_s <= given.from_s:
        raise ConfigError(f"{key}to {given.to_s:g} s: expected more than {given.from_s:g} s, where it begins")


def read_workers(path: Path) -> dict[str, WorkerTable]:
    """The tables [workers.ID] of a file. Raises ConfigError."""
    raw = expand(read_toml(path), str(path), "")
    if "workers" not in raw:
        raise ConfigError(f"{path}: has no [workers.ID]; expected what `rbeerouter routing calibrate` writes")
    return convert(raw, str(path), WorkersOnly).workers


def check_known(ids: Iterable[str], known: Iterable[str], where: str, key: str = "workers.") -> None:
    """Refuses the id of a worker that there is not."""
    known = list(known)
    for worker_id in ids:
        if worker_id not in known:
            near = difflib.get_close_matches(worker_id, known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}: {key}{worker_id}: no worker has this id; {hint}")


def fault_of(entry: FaultEntry, where: str) -> Fault:
    """Raises ConfigError with `where`."""
    if entry.kind not in KINDS:
        near = difflib.get_close_matches(entry.kind, KINDS, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(KINDS)}"
        raise ConfigError(f"{where}: kind = {entry.kind!r}: {hint}")
    amount = entry.amount
    if entry.kind == "slow" and (amount is None or amount <= 1):
        raise ConfigError(f"{where}: amount = {amount}: expected how many times slower, more than 1")
    if entry.kind != "slow" and amount is not None and amount > 1:
        raise ConfigError(f"{where}: amount = {amount:g}: expected the share of requests that it hits, at most 1")
    return Fault(entry.worker, entry.kind, entry.at_s, entry.for_s, 1.0 if amount is None else amount)


_FAULT = re.compile(r"(?P<worker>[^@*]+):(?P<kind>[^:@*]+)(\*(?P<amount>[^@]+))?@(?P<at>[^@+]+)\+(?P<long>[^@+]+)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def fault_in_short(text: str) -> Fault:
    """A fault as `--fault` says it: WORKER:KIND[*AMOUNT]@AT+LONG. Raises ConfigError."""
    where, found = f"--fault {text}", _FAULT.fullmatch(text)
    if found is None:
        raise ConfigError(f"{where}: expected WORKER:KIND@AT+LONG, such as gpu1:crash@60s+30s or gpu1:slow*4@5m+2m")
    amount = found["amount"]
    try:
        many = None if amount is None else float(amount)
    except ValueError:
        raise ConfigError(f"{where}: {amount!r}: expected a number after *") from None
    raw = {"worker": found["worker"], "kind": found["kind"], "at_s": seconds(found["at"], where)}
    raw |= {"for_s": seconds(found["long"], where)} | ({} if many is None else {"amount": many})
    return fault_of(convert(raw, where, FaultEntry), where)


def seconds(text: str, where: str) -> float:
    """Seconds of "90", "90s", "1.5h", "500ms", "2m" or "1d". Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)(ms|s|m|h|d)?", text)
    if found is None:
        raise ConfigError(f"{where}: {text!r}: expected a time such as 90, 90s, 5m, 1.5h or 2d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def targets_of(given: TargetsTable, settings: dict[str, float]) -> Targets:
    """The targets, those of `--target NAME=SECONDS` before the file's. Raises ConfigError."""
    for name, value in settings.items():
        if name not in Targets.__struct_fields__:
            raise ConfigError(f"--target {name}={value:g}: expected one of {', '.join(Targets.__struct_fields__)}")
        if value <= 0:
            raise ConfigError(f"--target {name}={value:g}: expected more than 0 seconds")
    return Targets(**{**msgspec.structs.asdict(given), **settings})
