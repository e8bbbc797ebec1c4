"""The split: which side, local or remote, has the turn, and the share of requests that each worker can expect.

`routing.decide` asks for the side before its strategy chooses; the control plane shows what came of it. Nothing here
knows a strategy or changes a worker. Chance plays no part: turns are smooth weighted round robin over two sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rbeerouter.config import sections
from rbeerouter.core.models import Models
from rbeerouter.core.types import BUSY, LOCAL, READY, REMOTE, Worker


class Share:
    """The turns of one fraction.

    What the local side is owed grows by the fraction with each request and falls by one with each that it gets: it has
    the turn when it is owed half a request or more, so neither side is ever a whole one ahead. A side that cannot take
    its turn is owed it, up to `debt` requests. `owed` is what the local side is owed now.
    """

    def __init__(self, local_fraction: float, debt: float) -> None:
        self.local_fraction = local_fraction
        self.debt = debt
        self.taken: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.owed = 0.0

    @property
    def due(self) -> str:
        """The side whose turn is next."""
        return LOCAL if self.owed + self.local_fraction >= 0.5 else REMOTE

    def side(self, local: bool, remote: bool) -> str:
        """The side that gets the next request, of those that have somebody for it; at least one has."""
        due = self.due
        return due if (local if due == LOCAL else remote) else (REMOTE if due == LOCAL else LOCAL)

    def take(self, side: str) -> None:
        """That side got the next request, whoever's turn it was."""
        due = self.due
        if side != due:
            self.fallbacks[due] += 1
        self.taken[side] += 1
        self.owe(self.owed + self.local_fraction - (side == LOCAL))

    def owe(self, requests: float) -> None:
        """The local side is owed so many now, within the limit."""
        self.owed = max(-self.debt, min(self.debt, requests))

    def turn(self, local: bool, remote: bool) -> str:
        """The side that gets the next request, which it has then taken."""
        side = self.side(local, remote)
        self.take(side)
        return side

    def adopt(self, before: Share) -> None:
        """Goes on where another one stood, if it shared alike."""
        if before.local_fraction == self.local_fraction:
            self.taken, self.fallbacks = before.taken, before.fallbacks
            self.owe(before.owed)

    def told(self) -> dict[str, Any]:
        """What GET /routing shows of it."""
        requests = self.taken.total()
        return {
            "local_fraction": self.local_fraction,
            "achieved": round(self.taken[LOCAL] / requests, 4) if requests else None,
            "requests": requests,
            "fallbacks": {LOCAL: self.fallbacks[LOCAL], REMOTE: self.fallbacks[REMOTE]},
        }


class Split:
    """The turns of all models: each model with its own fraction has its own, all others have them together.

    Args:
        overall: what [routing.split] says, None where there is none.
    """

    def __init__(self, overall: sections.Split | None, models: Models) -> None:
        debt = overall.debt if overall is not None else sections.Split(0.0).debt
        self.overall = Share(overall.local_fraction, debt) if overall is not None else None
        self.of_models = {
            model.name: Share(model.local_fraction, debt) for model in models if model.local_fraction is not None
        }

    def share(self, model: str) -> Share | None:
        """Whose turns count for a model; None where nothing is shared."""
        return self.of_models.get(model, self.overall)

    def narrowed(self, model: str, eligible: list[Worker]) -> list[Worker]:
        """The eligible workers of the side that has the turn; all of them where nothing is shared."""
        share = self.share(model)
        if share is None:
            return eligible
        local = [worker for worker in eligible if worker.deployment == LOCAL]
        if share.turn(bool(local), len(local) < len(eligible)) == LOCAL:
            return local
        return [worker for worker in eligible if worker.deployment != LOCAL] if local else eligible

    def adopt(self, before: Split) -> None:
        """Goes on with the turns of the configuration before."""
        if self.overall is not None and before.overall is not None:
            self.overall.adopt(before.overall)
        for name, share in self.of_models.items():
            if name in before.of_models:
                share.adopt(before.of_models[name])

    def counts(self) -> dict[str, tuple[int, int]]:
        """{side: (turns it got, turns it gave away)} of all models together."""
        shares = [*self.of_models.values(), *([self.overall] if self.overall is not None else [])]
        return {
            side: (sum(share.taken[side] for share in shares), sum(share.fallbacks[side] for share in shares))
            for side in (LOCAL, REMOTE)
        }

    def told(self) -> dict[str, Any]:
        """What GET /routing shows as `split`."""
        nothing = {"local_fraction": None, "achieved": None, "requests": 0, "fallbacks": {LOCAL: 0, REMOTE: 0}}
        overall = self.overall.told() if self.overall is not None else nothing
        return {**overall, "models": {name: share.told() for name, share in self.of_models.items()}}


def make_split(overall: sections.Split | None, models: Models) -> Split | None:
    """The split of a configuration, None when it shares nothing."""
    split = Split(overall, models)
    return split if split.overall is not None or split.of_models else None


def same_side(worker: Worker, eligible: list[Worker]) -> list[Worker]:
    """Those on a worker's side if there are any: what fails on one side is tried there again first."""
    return [other for other in eligible if other.deployment == worker.deployment] or eligible


def weights(
    workers: Iterable[Worker], by_load: bool, local_fraction: float | None, by_weight: bool = False
) -> dict[str, float]:
    """{worker id: the share of requests it can expect}: 1 in all, or 0 when nobody can be used.

    Args:
        by_load: the strategy goes by load, so a worker counts by its capacity.
        local_fraction: the share of the local side; None where both sides are one.
        by_weight: it goes by what the operator gave each worker; with neither, all count alike.
    """
    workers = list(workers)
    up = [worker for worker in workers if worker.status in (READY, BUSY)]
    usable = [worker for worker in up if not worker.held] or up
    sides = [usable]
    fractions = [1.0]
    if local_fraction is not None:
        local = [worker for worker in usable if worker.deployment == LOCAL]
        remote = [worker for worker in usable if worker.deployment != LOCAL]
        if local and remote:
            sides, fractions = [local, remote], [local_fraction, 1.0 - local_fraction]
    found = {worker.id: 0.0 for worker in workers}
    for side, fraction in zip(sides, fractions, strict=True):
        found |= {worker_id: fraction * share for worker_id, share in _shares(side, by_load, by_weight).items()}
    return found


def _shares(side: list[Worker], by_load: bool, by_weight: bool) -> dict[str, float]:
    """{worker id: its share within a side}. Who is in slow start has its weight's part of a full share, unless all are;
    the others share the rest."""
    counts = {worker: worker.capacity if by_load else worker.spec.weight if by_weight else 1 for worker in side}
    full = [worker for worker in side if worker.weight >= 1.0] or side
    total, of_full = sum(counts.values()), sum(counts[worker] for worker in full)
    slow = {worker: worker.weight * counts[worker] / total for worker in side if worker not in full}
    rest = 1.0 - sum(slow.values())
    return {worker.id: slow[worker] if worker in slow else rest * counts[worker] / of_full for worker in side}
