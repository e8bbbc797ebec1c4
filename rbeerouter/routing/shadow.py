"""A second script that decides beside the live one: what it would have done, counted against what was done.

`server.shadow` owns one `Shadow`, makes it the live `Decider`'s listener, and lets it work when the loop has time. What
the live decision saw is put into a buffer as it is made; everything else happens later. Nothing is ever sent, and
nothing here reads a clock of its own, waits, or touches the live fleet, script or strategies.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec

from rbeerouter.core.errors import RouterError
from rbeerouter.core.mirror import Mirror
from rbeerouter.core.seen import Call, Listener, Seen
from rbeerouter.core.types import REJECT, SEND, WAIT, Decision, Request
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.replay import FollowedSplit

AGREE, OTHER_WORKER, OTHER_MODEL = "agree", "other_worker", "other_model"
WAITS, REJECTS, SENDS, FAULT = "waits", "rejects", "sends", "fault"
RESULTS = (AGREE, OTHER_WORKER, OTHER_MODEL, WAITS, REJECTS, SENDS, FAULT)
"""What a decision of the shadow's can be beside the live one: the last four say what it does instead."""
WAITING, REJECTED, OTHERS = "(waits)", "(rejected)", "(others)"
"""Stand for a worker where there is none, and for all that are too many to name."""
_KEPT = 20
_MOST_PAIRS = 100
_MOST_WORKERS = 500
_PLACE = re.compile(r"[^\s:;]+:\d+")

Record = tuple[Seen, Request, Decision | Call | None]


class Difference(msgspec.Struct, frozen=True):
    """One request on which they differ. `*_worker` is a worker's id, or WAITING or REJECTED. wall: Unix seconds."""

    request_id: str
    wall: float
    result: str
    live_worker: str
    live_reason: str
    shadow_worker: str
    shadow_reason: str
    error: str | None = None


class Tally:
    """What has been counted since both scripts are what they are.

    Attributes:
        results: {one of RESULTS: requests}. pairs: {(place of the live decision, of the shadow's, result): requests} of
            those that differ; at most 100, then OTHERS. live, shadow: {worker: requests that it gets}.
        last: the newest differences. skipped: requests that the shadow had no time for; missed: calls of hooks.
        unsure: requests that are not compared, as the shadow's strategy goes by what is remembered of traffic, and that
            knows of the live decision already.
        requests, spent_s: what the loop's time was spent on, decisions alone.
    """

    def __init__(self) -> None:
        self.results: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str, str]] = Counter()
        self.live: Counter[str] = Counter()
        self.shadow: Counter[str] = Counter()
        self.last: deque[Difference] = deque(maxlen=_KEPT)
        self.skipped = self.missed = self.unsure = 0
        self.spent_s = 0.0

    @property
    def requests(self) -> int:
        return self.results.total()

    def add(self, request: Request, wall: float, live: Decision | None, shadow: Decision | None) -> None:
        """Counts one request; None stands for a request that nobody can have."""
        result = compared(live, shadow)
        self.results[result] += 1
        theirs, ours = who(live), who(shadow)
        _count(self.live, theirs)
        _count(self.shadow, ours)
        if result == AGREE:
            return
        pair = (place(live), place(shadow), result)
        if pair not in self.pairs and len(self.pairs) >= _MOST_PAIRS:
            pair = (OTHERS, OTHERS, result)
        self.pairs[pair] += 1
        self.last.append(Difference(request.id, wall, result, theirs, _reason(live), ours, _reason(shadow),
                                    shadow.error if shadow is not None else None))  # fmt: skip

    def shares(self) -> dict[str, dict[str, float]]:
        """{worker: {"live": its share of the requests, "shadow": the share it would have}}."""
        total = max(1, self.requests)
        return {
            name: {"live": round(self.live[name] / total, 4), "shadow": round(self.shadow[name] / total, 4)}
            for name in sorted(self.live.keys() | self.shadow.keys())
        }


def compared(live: Decision | None, shadow: Decision | None) -> str:
    """One of RESULTS. A list's later workers, headers and patience do not count: who gets the request does."""
    if shadow is not None and shadow.error is not None:
        return FAULT
    theirs, ours = _action(live), _action(shadow)
    if ours != theirs:
        return {WAIT: WAITS, REJECT: REJECTS, SEND: SENDS}[ours]
    if ours == REJECT or live is None or shadow is None:
        return AGREE
    if who(live) != who(shadow):
        return OTHER_WORKER
    return AGREE if live.model == shadow.model else OTHER_MODEL


def who(decision: Decision | None) -> str:
    """The worker's id, or what stands for one."""
    if decision is None or decision.action == REJECT:
        return REJECTED
    return decision.worker.id if decision.worker is not None else WAITING


def place(decision: Decision | None) -> str:
    """Which line decided, without whatever the script adds to it: there are only so many lines."""
    if decision is None:
        return "nobody can have it"
    found = _PLACE.search(decision.reason)
    if decision.by == "script":
        return found[0] if found is not None else decision.reason.partition(":")[0]
    return f"{found[0]} returned nil" if decision.by == "strategy" and found is not None else decision.by


def _action(decision: Decision | None) -> str:
    return REJECT if decision is None else decision.action


def _reason(decision: Decision | None) -> str:
    return place(None) if decision is None else decision.reason


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < _MOST_WORKERS else OTHERS] += 1


class Shadow:
    """A decider on a fleet of its own that follows the live one's decisions.

    Args:
        decider: with the shadow's script, split and strategies; its fleet is the mirror.
        most: records that may wait.
        wake: called when the first one waits.
        now: seconds, to know what it costs.
        tally: where it counts on.
    """

    def __init__(
        self,
        decider: Decider,
        mirror: Mirror,
        most: int,
        wake: Callable[[], None],
        now: Callable[[], float],
        tally: Tally,
    ) -> None:
        self.tally = tally
        self.decider = decider
        self.broken: str | None = None
        self._mirror = mirror
        self._most = most
        self._wake = wake
        self._now = now
        self._buffer: deque[Record] = deque()
        self._packed: dict[int, int] = {}
        self._figures: dict[int, dict[str, Any]] = {}

    def listener(self) -> Listener:
        """To be given to the live decider (`Decider.listen`)."""
        script = self.decider.script
        assert script is not None, "a shadow has a script"
        return Listener(
            self._decided, self._called, script.figures, on_failure=script.has_on_failure,
            on_complete=script.has_on_complete,
        )  # fmt: skip

    @property
    def waiting(self) -> int:
        return len(self._buffer)

    # In the way of a request

    def _decided(self, seen: Seen, request: Request, decision: Decision | None) -> None:
        self._put((seen, request, decision))

    def _called(self, call: Call, request: Request) -> None:
        self._put((call.seen, request, call))

    def _put(self, record: Record) -> None:
        buffer = self._buffer
        if len(buffer) >= self._most:
            self._skip(buffer.popleft())
        buffer.append(record)
        if len(buffer) == 1:
            self._wake()

    # Afterwards

    def run(self, budget_s: float) -> float:
        """Works through what waits until that or the budget ends; at least one of them. Returns the seconds spent."""
        now = self._now
        started = ended = now()
        while self._buffer and ended - started < budget_s and not self.stopped:
            self._perform(self._buffer.popleft())
            ended = now()
        self.tally.spent_s += ended - started
        return ended - started

    @property
    def stopped(self) -> str | None:
        """Why it does not decide any more: its script fails again and again."""
        suspended = self.decider.suspended
        return suspended[1] if suspended is not None else self.broken

    def _skip(self, record: Record) -> None:
        """There is no time for it. What it saw of the workers holds for those that come after it."""
        if isinstance(record[2], Call):
            self.tally.missed += 1
        else:
            self.tally.skipped += 1
        self._follow(record[0])

    def _follow(self, seen: Seen) -> None:
        if seen.roll is not None:                              # the script will be shown all workers anew
            self._mirror.enroll(seen.roll)
            self._packed.clear()
            self._figures.clear()
        self._mirror.follow(seen)
        for packed in seen.packed:
            self._packed[packed >> 46] = packed
        self._figures.update(seen.figures)

    def _perform(self, record: Record) -> None:
        seen, request, told = record
        self._follow(seen)
        if not self._mirror.complete:
            self.tally.skipped += 1
            return
        decider = self.decider
        # Its own, as a decision leaves its traces in it, and the live one's goes into the log.
        own = Seen(
            seen.n, seen.wall, self._mirror.ordered, [self._packed[index] for index in sorted(self._packed)],
            figures=tuple(sorted(self._figures.items())),
        )  # fmt: skip
        self._packed.clear()
        self._figures.clear()
        decider.seen, decider.chance.n = own, seen.n
        if seen.turns is not None:
            decider.panel.stand_at(seen.turns)
        if isinstance(decider.split, FollowedSplit):
            decider.split.owed = seen.owed
        try:
            if isinstance(told, Call):
                self._call(own, request, told)
            else:
                decision = self._decide(request, own)
                if decider.goes_by_memory(request, decision):
                    self.tally.unsure += 1
                else:
                    self.tally.add(request, seen.wall, told, decision)
        except Exception as error:                             # a defect in it must never reach those who serve
            self.broken = repr(error)

    def _decide(self, request: Request, seen: Seen) -> Decision | None:
        try:
            return self.decider.choose(request, seen)
        except RouterError:
            return None

    def _call(self, seen: Seen, request: Request, call: Call) -> None:
        """Its hooks hear what happened to the live decision, so that what it keeps in `state` lives."""
        script = self.decider.script
        if script is None:
            return
        own = msgspec.structs.replace(call, seen=seen)
        if call.outcome is not None and script.has_on_complete:
            self.decider.told_completed(script, request, own)
        elif call.attempt is not None and script.has_on_failure:
            self.decider.asked_after_failure(script, request, own)
