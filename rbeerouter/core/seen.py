"""What a decision was made from, beside the request: which workers had changed since the decision before, and how.

`Watch` is the one reader of `Fleet.touched`: `Decider` looks through it once for each decision, hands what it saw to
the script's mirror of the fleet, and leaves it with the job, from where it gets into the log. `core.mirror` follows
what was seen and is the fleet again, as the decision saw it.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import msgspec

from rbeerouter.core.chance import Chance
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import BUSY, DRAINING, OFFLINE, READY, Request, Worker

STATUS_CODES = {READY: 0, BUSY: 1, OFFLINE: 2, DRAINING: 3}
STATUSES = tuple(STATUS_CODES)
FIGURES = (
    "latency_ms", "ttft_ms", "waiting", "kv_usage", "vram_used", "running", "load_age_s", "tokens_per_s",
    "inter_token_ms", "error_rate", "temperature_c", "watts", "owner_active",
)  # fmt: skip
"""Fields that change while a worker serves and are too many to tell of each decision: only where a script has them."""
Figures = dict[str, float | bool | None]
_figures_of = attrgetter(*FIGURES)


class Standing(msgspec.Struct, frozen=True, omit_defaults=True):
    """What speaks for or against a worker beside its load. It changes seldom; as it is here, nothing does.

    cooling: it has asked to be left alone. reachable: the last probes were answered. weight: None is a full share.
    most: None is its capacity.
    The others are the worker's own.
    """

    standing: str = READY
    held: bool = False
    cooling: bool = False
    draining: bool = False
    reachable: bool = True
    weight: float | None = None
    foreign: int = 0
    waiting: int | None = None
    most: int | None = None


PLAIN = Standing()


class Snapshot(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of a worker that a decision can depend on. No address and no secret.

    weight: as the operator said; that of slow start is part of the standing.
    """

    id: str
    capacity: int
    in_flight: int = 0
    occupied: int = 0
    status: str = READY
    engine: str = "auto"
    deployment: str = "local"
    models: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    backend: str | None = None
    vram: float | None = None
    performance: float | None = None
    cost_per_hour: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    role: str | None = None
    metadata: dict[str, Any] = {}
    speaks: tuple[str, ...] = ()
    weight: float = 1.0
    standing: Standing = PLAIN
    figures: dict[str, float | bool | None] = {}


class Roll(msgspec.Struct, frozen=True):
    """The list of workers at a decision, when it has changed, or when somebody wanted to know it whole.

    n: the decision that was the first to see it. whole: `workers` are all of them, in order; else only those that
    have changed, and `order` has the ids of all. run: names the counting of decisions, which begins anew with each
    start. base: of `Chance`.
    """

    n: int
    wall: float
    run: str
    base: int
    whole: bool
    order: tuple[str, ...]
    workers: tuple[Snapshot, ...]


class Seen(msgspec.Struct, gc=False):
    """What one decision saw.

    n: its number. wall: Unix seconds, whole milliseconds. workers: the list that indexes count in.
    packed: the workers whose load or status had changed, as `pack` tells it.
    standings, figures: (index from 0, what it is now) of those where that had changed.
    roll: the list of workers, where it was told anew. It comes first, the others change it.
    turns: {strategy: where it stood} of those that remember their own choices, such as whose turn it is; None where
        there was none to be asked.
    owed: (model of its own fraction or "", what the local side was owed) of the split, where it was asked.
    """

    n: int
    wall: float
    workers: list[Worker]
    packed: list[int]
    standings: tuple[tuple[int, Standing], ...] = ()
    figures: tuple[tuple[int, Figures], ...] = ()
    roll: Roll | None = None
    turns: dict[str, Any] | None = None
    owed: tuple[str, float] | None = None


class Call(msgspec.Struct, frozen=True):
    """A call of the script's on_failure (`attempt` and `tried`) or on_complete (`outcome`); it may change `state`."""

    seen: Seen
    attempt: dict[str, Any] | None = None
    tried: tuple[str, ...] = ()
    outcome: dict[str, Any] | None = None


def pack(index: int, in_flight: int, occupied: int, status: str) -> int:
    """A worker's changing state as host.touch in prelude.lua reads it; `index` counts from 0."""
    return (index + 1) << 46 | occupied << 24 | in_flight << 2 | STATUS_CODES[status]


def unpack(packed: int) -> tuple[int, int, int, str]:
    """(index from 0, in_flight, occupied, status)."""
    return (packed >> 46) - 1, packed >> 2 & 0x3FFFFF, packed >> 24 & 0x3FFFFF, STATUSES[packed & 3]


def whole_ms(wall: float) -> int:
    """Unix milliseconds, rounded down: the one place that says which millisecond a time belongs to. What it gives for
    n / 1000 is n, as far as floats tell milliseconds apart."""
    return int(wall * 1000 + 0.001)


class Watch:
    """Looks at a fleet for one who decides.

    Attributes:
        chance: counts the decisions.
        run: names this counting.
    """

    def __init__(self, chance: Chance, run: str = "") -> None:
        self.chance = chance
        self.run = run
        self._on_roll: Callable[[Roll], None] | None = None
        self._whole = False
        self._version = -1
        self._looked_at = float("-inf")
        self._told: dict[str, Standing] = {}
        self._described: dict[str, tuple[Any, ...]] = {}

    def tell(self, on_roll: Callable[[Roll], None]) -> None:
        """From now on somebody is told each roll at once; as long as nobody wants them, none are made."""
        self._on_roll = on_roll
        self.tell_all()

    def tell_all(self) -> None:
        """With the next decision comes a roll of all workers, so that who has missed something can go on."""
        self._whole = self._on_roll is not None

    def look(self, fleet: Fleet, wall: float, figures: tuple[str, ...] = ()) -> Seen:
        """What has changed since the last look. The next decision is begun with it.

        Args:
            figures: those that the script reads.
        """
        chance = self.chance
        chance.n = n = chance.n + 1
        touched = fleet.touched
        packed: list[int] = []
        for worker in touched:                                 # usually two: one sent, one finished
            code = 0 if worker.status is READY else STATUS_CODES[worker.status]
            packed.append((worker.index + 1) << 46 | worker.occupied << 24 | worker.in_flight << 2 | code)
        if len(packed) > 1:
            packed.sort()                                      # a set of objects has another order in each run
        seen = Seen(n, int(wall * 1000 + 0.001) / 1000, fleet.ordered, packed)     # whole_ms, without the call
        if figures:
            self._measure(fleet, figures, seen)
        touched.clear()
        if fleet.version != self._version or self._whole:
            self._call_the_roll(fleet, seen)
        if fleet.altered:
            self._look_closer(fleet, seen)
        return seen

    def _measure(self, fleet: Fleet, figures: tuple[str, ...], seen: Seen) -> None:
        changed = list(fleet.touched)
        if "load_age_s" in figures and fleet.looked_at != self._looked_at:    # everybody's report has become older
            self._looked_at, changed = fleet.looked_at, fleet.ordered
        seen.figures = tuple((one.index, {name: getattr(one, name) for name in figures}) for one in changed)

    def _look_closer(self, fleet: Fleet, seen: Seen) -> None:
        changed = []
        for worker in sorted(fleet.altered, key=_index):
            standing = standing_of(worker)
            if standing != self._told.get(worker.id, PLAIN):
                self._told[worker.id] = standing
                changed.append((worker.index, standing))
        fleet.altered.clear()
        seen.standings = tuple(changed)

    def _call_the_roll(self, fleet: Fleet, seen: Seen) -> None:
        """Tells the list of workers: all of them, or who is not as he was told to be."""
        self._version = fleet.version
        if self._on_roll is None:
            return
        described = {worker.id: _description(worker) for worker in fleet.ordered}
        before, whole = self._described, self._whole
        changed = [worker for worker in fleet.ordered if whole or before.get(worker.id) != described[worker.id]]
        self._described, self._whole = described, False
        self._told |= {worker.id: standing_of(worker) for worker in changed}
        self._told = {worker_id: self._told[worker_id] for worker_id in described if worker_id in self._told}
        seen.roll = Roll(
            seen.n, seen.wall, self.run, self.chance.base, whole, tuple(described), tuple(map(snapshot, changed))
        )
        self._on_roll(seen.roll)


def standing_of(worker: Worker) -> Standing:
    most = None if worker.most == worker.capacity else worker.most
    weight = None if worker.weight >= 1.0 else worker.weight
    return Standing(
        worker.standing, worker.held, worker.cooling, worker.draining, worker.health.reachable, weight, worker.foreign,
        worker.waiting, most,
    )  # fmt: skip


def snapshot(worker: Worker) -> Snapshot:
    """A worker as it is now."""
    return Snapshot(
        *(getattr(worker, name) for name in _PLAINLY), speaks=tuple(sorted(worker.speaks)),
        weight=worker.spec.weight, standing=standing_of(worker),
        figures={name: value for name, value in zip(FIGURES, _figures_of(worker), strict=True) if value is not None},
    )  # fmt: skip


_PLAINLY = tuple(name for name in Snapshot.__struct_fields__ if name not in ("speaks", "weight", "standing", "figures"))
_described = attrgetter(
    *(name for name in _PLAINLY if name not in ("in_flight", "occupied", "status")), "speaks", "spec.model_names",
    "spec.weight",
)
_index = attrgetter("index")


def _description(worker: Worker) -> tuple[Any, ...]:
    """What only a roll tells of a worker. `most` can change without one, and is part of its standing."""
    return (worker, *_described(worker))


class Listener(msgspec.Struct, frozen=True):
    """Who wants to hear what is decided as it is decided: the shadow script's queue, for one. None of it may take long:
    it stands in the way of a request.

    decided: gets (what was seen, the request, the decision or None where nobody could be had).
    called: gets (the call, the request) of each call of on_failure and on_complete.
    figures: those that must be seen besides the ones that the script reads.
    on_failure, on_complete: such calls are wanted though the script has no such function.
    """

    decided: Callable[[Seen, Request, Any], None]
    called: Callable[[Call, Request], None]
    figures: tuple[str, ...] = ()
    on_failure: bool = False
    on_complete: bool = False
