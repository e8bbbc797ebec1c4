"""A fleet that follows what decisions saw, so that they can be made again: by the log, or beside the live ones.

`routing.replay` feeds it. It is a `Fleet` like any other for whoever decides; nothing probes it, nothing is sent, and
nothing else may change it.
"""

from __future__ import annotations

from rbeerouter.core.fleet import Fleet, next_version
from rbeerouter.core.seen import FIGURES, Roll, Seen, Snapshot, Standing, unpack
from rbeerouter.core.types import Learned, Worker, WorkerSpec


class Mirror(Fleet):
    """The workers as they were seen.

    Attributes:
        complete: is every worker known that the last roll named? Not so while a roll has been missed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.complete = False

    def enroll(self, roll: Roll) -> None:
        """Takes a list of workers. Those that it only names stay as they are."""
        known = {} if roll.whole else dict(self.workers)
        known |= {one.id: _worker_of(one) for one in roll.workers}
        self.workers = {worker_id: known[worker_id] for worker_id in roll.order if worker_id in known}
        self.complete = len(self.workers) == len(roll.order)
        self.ordered = list(self.workers.values())
        for index, worker in enumerate(self.ordered):
            worker.index = index
        self.ramping = {worker for worker in self.ordered if worker.weight < 1.0}
        self.version = next_version()

    def follow(self, seen: Seen) -> None:
        """Takes what one decision saw, after its roll, where it has one. What it tells of places in the list where the
        mirror has nobody is passed over."""
        ordered, count = self.ordered, len(self.ordered)
        for packed in seen.packed:
            index, in_flight, occupied, status = unpack(packed)
            if index < count:
                worker = ordered[index]
                worker.in_flight, worker.occupied, worker.status = in_flight, occupied, status
                worker.load = occupied / worker.capacity
        for index, standing in seen.standings:
            if index < count:
                self._stand(ordered[index], standing)
        for index, figures in seen.figures:
            if index < count:
                for name, value in figures.items():
                    setattr(ordered[index], name, value)

    def _stand(self, worker: Worker, standing: Standing) -> None:
        _take_standing(worker, standing)
        if worker.weight < 1.0:
            self.ramping.add(worker)
        else:
            self.ramping.discard(worker)


def _worker_of(one: Snapshot) -> Worker:
    worker = Worker(
        WorkerSpec(
            one.id, "", one.engine, one.backend, one.vram, one.models, one.performance, one.cost_per_hour, one.capacity,
            one.metadata, role=one.role, loras=one.loras, deployment=one.deployment, price_in=one.price_in,
            price_out=one.price_out, speaks=frozenset(one.speaks), weight=one.weight,
        )
    )  # fmt: skip
    worker.learned = Learned(loaded=one.loaded)
    worker.describe(worker.spec)
    worker.in_flight, worker.occupied, worker.status = one.in_flight, one.occupied, one.status
    worker.load = one.occupied / one.capacity
    for name in FIGURES:
        setattr(worker, name, one.figures.get(name))
    _take_standing(worker, one.standing)
    return worker


def _take_standing(worker: Worker, standing: Standing) -> None:
    worker.standing, worker.held, worker.cooling = standing.standing, standing.held, standing.cooling
    worker.draining, worker.foreign = standing.draining, standing.foreign
    worker.weight = 1.0 if standing.weight is None else standing.weight
    worker.waiting, worker.health.reachable = standing.waiting, standing.reachable
    worker.most = worker.capacity if standing.most is None else standing.most
