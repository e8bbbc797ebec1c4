"""The waiting room: requests that wait until a worker has room for them.

`core.dispatch` alone puts jobs in and takes them out. Nothing here waits, reads a clock, chooses a worker or knows what
becomes of a job: it keeps who is here, in which order they go and how long each may stay.

Those who wait for the same thing stand in one *lane*: a worker that the script named, or whichever worker may serve
their model. In a lane, and among the heads of the lanes, the higher priority goes first; among equals whoever has to
be sent soonest, where a strategy holds requests with such a time; then each caller in turn; then who came first. When
the head of a lane cannot go, nobody behind it can, so a freed slot costs one look at each lane rather than at each
job; and lanes do not hold each other up.

Each caller in turn is start-time fair queueing (Goyal, Vin and Cheng, 1996) with a cost of one for each request: a job
gets a turn one later than the last of its caller, and never one that has passed. Who sends a hundred requests at once
has the turns 1 to 100; who comes then with a single one has turn 1, too.

A strategy that keeps account of what each caller gets (`Shares`) replaces the turns: among equals in priority the one
who has had least goes first. What each has had changes while they wait, so it is looked at when a slot is freed, and
each account has a lane of its own in every *line* of those who wait for the same thing.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from rbeerouter.core.errors import RouterError
from rbeerouter.core.types import Patience, Worker

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job


class QueueRules(msgspec.Struct, frozen=True):
    """length: jobs that may wait, 0 for none; per_caller: of one caller. wait_s: how long where the script does not
    say; most_s: at most.

    request_s, stream_s: how long a request may take from its arrival to its end, waiting included; of_models: {model:
    the two of them} for models with their own.
    """

    length: int = 512
    per_caller: int = 64
    wait_s: float = 30.0
    most_s: float = 300.0
    request_s: float = 600.0
    stream_s: float = 1800.0
    of_models: dict[str, tuple[float, float]] = {}

    def time_limit(self, job: Job) -> float:
        """Until when a job must have been answered, however it got that far."""
        request = job.request
        request_s, stream_s = self.of_models.get(request.model, (self.request_s, self.stream_s))
        most_s = stream_s if request.stream else request_s
        return job.arrived + (most_s if request.timeout_s is None else min(most_s, request.timeout_s))


_Place = tuple[int, float, int, int]
"""(-priority, due, turn, number): the lower one goes first. No two jobs have the same."""
_Line = tuple[Worker | None, str, str, str | None, frozenset[str]]
"""The worker that was named; or None, the model's name, the protocol, the only side that may have it, and the workers
that it has failed on: who may go where must be the same for all of a line."""
_Lane = tuple[_Line, bytes | None]
"""A line, or the part of it that belongs to one account where there are `Shares`."""
_Rank = tuple[int, float, float, int, int]
"""(-priority, what its account has had, due, turn, number): the lower one goes first. No two jobs have the same."""
_NONE: frozenset[str] = frozenset()
_Caller = tuple[str | None, bytes]
_NOBODY: _Caller = (None, b"")
"""Whoever does not say who it is: all of those together are no caller whose share could be bounded."""


class Shares(Protocol):
    """What each has had, so that who has had least is next. An account is whoever a job is charged to."""

    def account(self, job: Job) -> bytes:
        """The same at each call for the same job."""

    def begins(self, account: bytes) -> None:
        """A job of this account has begun to wait, and none of it did."""

    def ends(self, account: bytes) -> None:
        """No job of this account waits any more."""

    def had(self, account: bytes) -> float:
        """Of an account that waits. It grows in the step in which a job of it is sent."""


class Waiter(msgspec.Struct, frozen=True, gc=False):
    """One job in the room."""

    place: _Place
    lane: _Lane
    deadline: float
    caller: _Caller


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
        self._turn = 0                                        # of whoever left last for a worker
        self._last_turns: dict[_Caller, int] = {}             # of callers that are here
        self._waiting: dict[_Caller, int] = {}                # how many of theirs
        self._shares: Shares | None = None
        self._accounts: dict[bytes, int] = {}                 # how many wait of each, where there are shares

    def share_by(self, shares: Shares | None) -> None:
        """From here on those who wait go as these say; None: each caller in turn. To be asked before anything that goes
        by the order; it costs nothing as long as the answer is the same."""
        if shares is self._shares:
            return
        waiting = list(self.waiters.items())
        for job, waiter in waiting:
            self._step_out(job, waiter)
            self._settle(waiter.lane[1])
        self._shares = shares
        for job, waiter in waiting:
            account = self._begun(job)
            self._stand(job, msgspec.structs.replace(waiter, lane=(waiter.lane[0], account)))

    def deadline(self, job: Job, patience: Patience, now: float) -> float:
        """Until when a job that begins to wait now may stay."""
        rules, asked = self.rules, patience.timeout_s
        return min(now + min(rules.wait_s if asked is None else asked, rules.most_s), rules.time_limit(job))

    def refusal(
        self, job: Job, worker: Worker | None, patience: Patience, time_s: float, room_per_s: float | None
    ) -> RouterError | None:
        """Why a job cannot be let in, None when it can.

        Args:
            worker, patience: as for `add`.
            time_s: how long it could stay.
            room_per_s: how many requests a second leave its lane, None while nobody knows.
        """
        rules = self.rules
        before = self._before(self._place(job, patience), _line(worker, job))
        turn_s = (before + 1) / room_per_s if room_per_s else None
        if len(self.waiters) >= rules.length:
            what = f"no worker has room for this request, and the queue of {rules.length} is full"
            return RouterError("queue_full", what, retry_after_s=turn_s)
        caller = _caller(job)
        if caller != _NOBODY and self._waiting.get(caller, 0) >= rules.per_caller:
            what = f"no worker has room for this request, and {rules.per_caller} of the same caller wait already"
            return RouterError("queue_full", what, retry_after_s=turn_s)
        if turn_s is not None and turn_s > time_s:
            what = f"its turn would come in about {turn_s:.3g} s, and it can wait for {time_s:.3g} s"
            return RouterError("queue_timeout", what, retry_after_s=turn_s - time_s)
        return None

    def add(self, job: Job, worker: Worker | None, patience: Patience, deadline: float) -> None:
        """Lets a job in that is not here yet."""
        place, caller = self._place(job, patience), _caller(job)
        self._number += 1
        self._last_turns[caller] = place[2]
        self._waiting[caller] = self._waiting.get(caller, 0) + 1
        self._stand(job, Waiter(place, (_line(worker, job), self._begun(job)), deadline, caller))

    def remove(self, job: Job) -> None:
        """Lets a job go, whatever the reason. One that is not here is no fault."""
        waiter = self.waiters.get(job)
        if waiter is None:
            return
        self._step_out(job, waiter)
        self._settle(waiter.lane[1])
        left = self._waiting[waiter.caller] - 1
        if left:
            self._waiting[waiter.caller] = left
        else:
            del self._waiting[waiter.caller], self._last_turns[waiter.caller]

    def position(self, job: Job) -> int:
        """How many go before a job that waits, as it looks now; where there are shares, if all jobs cost the same."""
        waiter = self.waiters[job]
        return self._before(waiter.place, waiter.lane[0])

    def before(self, patience: Patience, worker: Worker, could_have: Callable[[Job, Worker], bool]) -> bool:
        """Does anybody wait for this worker, or perhaps for it, who would go before a newcomer of this patience?

        Args:
            could_have: may a job that waits for no one by name go to this worker?
        """
        newcomer = (-patience.priority, patience.due if self._shares is None else math.inf)
        for (line, _), lane in self._lanes.items():
            place, head = lane[0]
            if place[:2] <= newcomer and (line[0] is worker or (line[0] is None and could_have(head, worker))):
                return True
        return False

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
        heads = [self._head(key) for key in self._lanes]
        heapq.heapify(heads)
        closed: set[_Line] = set()                            # nobody in these can go
        while heads:
            rank, job, key = heapq.heappop(heads)
            line, account = key
            if line in closed:
                continue
            if account is not None and (late := self._head(key)) and late[0] > rank:
                heapq.heappush(heads, late)                   # a job of its account went meanwhile, from another lane
                continue
            worker = find(job, line[0])
            if worker is not None:
                self._turn = max(self._turn, rank[3])
                self.remove(job)
                yield job, worker
            elif job in self.waiters:
                closed.add(line)
                continue
            if key in self._lanes:
                heapq.heappush(heads, self._head(key))

    def overdue(self, now: float) -> list[Job]:
        """Those whose time is over, longest over first. They stay until they are removed."""
        late = bisect_right(self._deadlines, now, key=lambda row: row[0])
        return [job for _, _, job in self._deadlines[:late]]

    def _place(self, job: Job, patience: Patience) -> _Place:
        """Where a job would stand that came now."""
        turn = max(self._turn, self._last_turns.get(_caller(job), 0)) + 1
        return -patience.priority, patience.due, turn, self._number + 1

    def _before(self, place: _Place, line: _Line) -> int:
        if self._shares is None:
            return bisect_left(self._lanes.get((line, None), ()), (place,))
        return sum(bisect_left(lane, (place,)) for key, lane in self._lanes.items() if key[0] == line)

    def _head(self, key: _Lane) -> tuple[_Rank, Job, _Lane]:
        """Who goes first of a lane, and how it stands to the heads of the others."""
        (priority, due, turn, number), job = self._lanes[key][0]
        account, shares = key[1], self._shares
        had = shares.had(account) if shares is not None and account is not None else 0.0
        return (priority, had, due, turn, number), job, key

    def _begun(self, job: Job) -> bytes | None:
        """The account of a job that begins to wait."""
        shares = self._shares
        if shares is None:
            return None
        account = shares.account(job)
        waiting = self._accounts.get(account, 0)
        self._accounts[account] = waiting + 1
        if not waiting:
            shares.begins(account)
        return account

    def _settle(self, account: bytes | None) -> None:
        """A job of an account waits no more."""
        if account is None:
            return
        left = self._accounts[account] - 1
        if left:
            self._accounts[account] = left
            return
        del self._accounts[account]
        assert self._shares is not None, "an account without shares"
        self._shares.ends(account)

    def _stand(self, job: Job, waiter: Waiter) -> None:
        self.waiters[job] = waiter
        insort(self._lanes.setdefault(waiter.lane, []), (waiter.place, job))
        insort(self._deadlines, (waiter.deadline, waiter.place, job))

    def _step_out(self, job: Job, waiter: Waiter) -> None:
        del self.waiters[job]
        lane = self._lanes[waiter.lane]
        del lane[bisect_left(lane, (waiter.place,))]
        if not lane:
            del self._lanes[waiter.lane]
        del self._deadlines[bisect_left(self._deadlines, (waiter.deadline, waiter.place))]

    def _join_lanes_of_removed_workers(self) -> None:
        """A reload has removed a worker that jobs wait for: any other that serves their model will do."""
        for key in [key for key in self._lanes if key[0][0] is not None and key[0][0].index < 0]:
            for _, job in list(self._lanes[key]):
                waiter = self.waiters[job]
                self._step_out(job, waiter)
                self._stand(job, msgspec.structs.replace(waiter, lane=(_line(None, job), waiter.lane[1])))


def _line(worker: Worker | None, job: Job) -> _Line:
    if worker is not None:
        return worker, "", "", None, _NONE
    decision, request = job.decision, job.request
    wanted = decision.wanted if decision and decision.wanted else request.model
    failed_on = job.failed_on() if job.attempts else _NONE
    return None, wanted, request.protocol, request.deployment, failed_on


def _caller(job: Job) -> _Caller:
    """Whose request it is: of the user that it names, with the credential that it came with."""
    return job.request.user_id, job.caller
