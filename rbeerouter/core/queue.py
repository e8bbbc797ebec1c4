"""The waiting room: requests that a script has told to wait until a worker has room for them.

`core.dispatch` alone puts jobs in and takes them out. Nothing here waits, reads a clock, chooses a worker or knows what
becomes of a job: it keeps who is here, in which order they go and how long each may stay.

Those who wait for the same thing stand in one *lane*: a worker that the script named, or whichever worker may serve
their model. In a lane, and among the heads of the lanes, the higher priority goes first, then who came first. When the
head of a lane cannot go, nobody behind it can, so a freed slot costs one look at each lane rather than at each job; and
lanes do not hold each other up.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.core.types import Patience, Worker

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job


class QueueRules(msgspec.Struct, frozen=True):
    """length: jobs that may wait, 0 for none. wait_s: how long where the script does not say; most_s: at most.

    request_s, stream_s: how long a request may take from its arrival to its end, waiting included; of_models: {model:
    the two of them} for models with their own.
    """

    length: int = 256
    wait_s: float = 30.0
    most_s: float = 300.0
    request_s: float = 600.0
    stream_s: float = 1800.0
    of_models: dict[str, tuple[float, float]] = {}

    def time_limit(self, job: Job) -> float:
        """Until when a job must have been answered, however it got that far."""
        request_s, stream_s = self.of_models.get(job.request.model, (self.request_s, self.stream_s))
        return job.arrived + (stream_s if job.request.stream else request_s)


_Place = tuple[int, int]
"""(-priority, number): the lower one goes first. No two jobs have the same."""
_Lane = tuple[Worker | None, str, str | None]
"""The worker that was named; or None, the model's name and the only side that may have it."""


class Waiter(msgspec.Struct, frozen=True, gc=False):
    """One job in the room."""

    place: _Place
    lane: _Lane
    deadline: float


class Queue:
    """Who waits.

    Attributes:
        waiters: {job: its place}; read it to learn whether, or how many, wait.
    """

    def __init__(self, rules: QueueRules | None = None) -> None:
        self.rules = rules or QueueRules()
        self.waiters: dict[Job, Waiter] = {}
        self._lanes: dict[_Lane, list[tuple[_Place, Job]]] = {}
        self._deadlines: list[tuple[float, _Place, Job]] = []
        self._number = 0

    def deadline(self, job: Job, patience: Patience, now: float) -> float:
        """Until when a job that begins to wait now may stay."""
        rules, asked = self.rules, patience.timeout_s
        return min(now + min(rules.wait_s if asked is None else asked, rules.most_s), rules.time_limit(job))

    def full(self) -> bool:
        return len(self.waiters) >= self.rules.length

    def add(self, job: Job, worker: Worker | None, priority: int, deadline: float) -> None:
        """Lets a job in that is not here yet."""
        self._number += 1
        self._stand(job, Waiter((-priority, self._number), _lane(worker, job), deadline))

    def remove(self, job: Job) -> None:
        """Lets a job go, whatever the reason. One that is not here is no fault."""
        waiter = self.waiters.pop(job, None)
        if waiter is None:
            return
        lane = self._lanes[waiter.lane]
        del lane[bisect_left(lane, (waiter.place,))]
        if not lane:
            del self._lanes[waiter.lane]
        del self._deadlines[bisect_left(self._deadlines, (waiter.deadline, waiter.place))]

    def before(self, priority: int, worker: Worker) -> bool:
        """Does anybody wait for this worker, or perhaps for it, who would go before a newcomer of this priority?"""
        return any(
            -lane[0][0][0] >= priority
            and (named is worker or (named is None and worker.serves(model) and side in (None, worker.deployment)))
            for (named, model, side), lane in self._lanes.items()
        )

    def admit(self, find: Callable[[Job, Worker | None], Worker | None]) -> Iterator[tuple[Job, Worker]]:
        """Lets go whoever can, in order.

        Args:
            find: the worker that has room for a job now, which waits for that worker or, with None, for any. It may
                take the job out of the room itself.

        Yields:
            Each job that has left the room and its worker, whose count must have been raised before the next is asked
            for.
        """
        self._join_lanes_of_removed_workers()
        heads = [(*lane[0], key) for key, lane in self._lanes.items()]
        heapq.heapify(heads)
        while heads:
            _, job, key = heapq.heappop(heads)
            worker = find(job, key[0])
            if worker is not None:
                self.remove(job)
                yield job, worker
            elif job in self.waiters:
                continue
            lane = self._lanes.get(key)
            if lane:
                heapq.heappush(heads, (*lane[0], key))

    def overdue(self, now: float) -> list[Job]:
        """Those whose time is over, longest over first. They stay until they are removed."""
        late = bisect_right(self._deadlines, now, key=lambda row: row[0])
        return [job for _, _, job in self._deadlines[:late]]

    def _stand(self, job: Job, waiter: Waiter) -> None:
        self.waiters[job] = waiter
        insort(self._lanes.setdefault(waiter.lane, []), (waiter.place, job))
        insort(self._deadlines, (waiter.deadline, waiter.place, job))

    def _join_lanes_of_removed_workers(self) -> None:
        """A reload has removed a worker that jobs wait for: any other that serves their model will do."""
        for key in [key for key in self._lanes if key[0] is not None and key[0].index < 0]:
            for _, job in list(self._lanes[key]):
                waiter = self.waiters[job]
                self.remove(job)
                self._stand(job, msgspec.structs.replace(waiter, lane=_lane(None, job)))


def _lane(worker: Worker | None, job: Job) -> _Lane:
    return (None, job.request.model, job.request.deployment) if worker is None else (worker, "", None)
