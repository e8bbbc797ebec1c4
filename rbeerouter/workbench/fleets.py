"""Fleets that are only imagined: workers in whatever state a trial needs, of rows like those of GET /api/v1/workers.

Nobody sends to such a fleet, so its workers' state is set as it is told instead of being observed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import OFFLINE, WorkerSpec

DEFAULT_CAPACITY = 4


_MOST = 4_000_000
"""Requests on one worker; what scripts are told of it has room for no more."""


class Row(msgspec.Struct):
    """One worker: the fields that a script reads, all but `id` optional. Other fields are passed over."""

    id: str
    status: Literal["ready", "busy", "offline", "draining"] = "ready"
    in_flight: Annotated[int, msgspec.Meta(ge=0, le=_MOST)] = 0
    capacity: Annotated[int, msgspec.Meta(ge=1)] | None = None
    engine: str = "openai"
    backend: str | None = None
    vram: float | None = None
    vram_used: float | None = None
    load: float | None = None
    models: tuple[str, ...] = ()
    performance: float | None = None
    cost_per_hour: float | None = None
    metadata: dict[str, str | int | float | bool] = {}
    waiting: int | None = None
    kv_usage: float | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    role: str | None = None
    loras: tuple[str, ...] = ()
    deployment: Literal["local", "remote"] = "local"
    loaded: tuple[str, ...] | None = None
    running: int | None = None
    load_age_s: float | None = None
    tokens_per_s: float | None = None
    inter_token_ms: float | None = None
    error_rate: float | None = None
    temperature_c: float | None = None
    watts: float | None = None
    owner_active: bool | None = None
    price_in: float | None = None
    price_out: float | None = None


_AS_TOLD = (
    "vram_used", "waiting", "kv_usage", "latency_ms", "ttft_ms", "running", "load_age_s", "tokens_per_s",
    "inter_token_ms", "error_rate", "temperature_c", "watts", "owner_active",
)  # fmt: skip


class _Page(msgspec.Struct):
    workers: list[Row]


def fleet_of(rows: list[Row]) -> Fleet:
    """A fleet with these workers, in this order. Of two with the same id the later one counts."""
    fleet = Fleet()
    fleet.configure(
        WorkerSpec(
            id=row.id, url=f"http://{index}.imagined", engine=row.engine, backend=row.backend, vram=row.vram,
            models=row.models, performance=row.performance, cost_per_hour=row.cost_per_hour,
            max_concurrency=row.capacity or DEFAULT_CAPACITY, metadata=row.metadata, role=row.role, loras=row.loras,
            deployment=row.deployment, price_in=row.price_in, price_out=row.price_out,
        )
        for index, row in enumerate(rows)
    )
    for row in rows:
        worker = fleet.workers[row.id]
        worker.status = worker.standing = row.status
        worker.in_flight = worker.occupied = row.in_flight
        worker.load = row.in_flight / worker.capacity
        if row.load is not None:                             # what is there besides of others' requests stays there
            worker.load, worker.occupied = row.load, min(_MOST, max(0, round(row.load * worker.capacity)))
            worker.foreign = max(0, worker.occupied - row.in_flight)
        for field in _AS_TOLD:
            setattr(worker, field, getattr(row, field))
        worker.loaded = worker.models if row.loaded is None else row.loaded
        worker.health.reachable = row.status != OFFLINE
    fleet.touched.clear()
    return fleet


def row_of(spec: WorkerSpec) -> Row:
    """A worker of the configuration, ready and idle."""
    return Row(
        id=spec.id, capacity=spec.max_concurrency, engine=spec.engine, backend=spec.backend, vram=spec.vram,
        models=spec.models, performance=spec.performance, cost_per_hour=spec.cost_per_hour, metadata=spec.metadata,
        role=spec.role, loras=spec.loras, deployment=spec.deployment, price_in=spec.price_in,
        price_out=spec.price_out,
    )  # fmt: skip


def read_fleet(path: Path) -> Fleet:
    """A fleet of a JSON file: a list of workers, or {"workers": [...]}. Raises ConfigError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        given: Any = msgspec.json.decode(text)
        rows = msgspec.convert(given, list[Row]) if isinstance(given, list) else msgspec.convert(given, _Page).workers
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is no list of workers as GET /api/v1/workers gives it: {error}") from None
    ids = [row.id for row in rows]
    twice = next((one for one in ids if ids.count(one) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: the worker {twice!r} stands there twice")
    return fleet_of(rows)
