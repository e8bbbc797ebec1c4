"""Strategies that keep to how fast clients want to be answered: x-slo-ttft-ms, x-slo-tpot-ms, x-slo-e2e-ms.

They choose by what `speeds.Speeds` has learned. For each worker they look at its load (the sum of what its requests
take of it, each 1 / N where it could have N such requests and be in time with all of them), and at what this request
would get there. A request without a target is in time everywhere, and goes by load alone.

As in AIBrix, `slo` is slo-least-load-pulling. There the targets are those of a profile that was measured before, and a
request waits until it goes away if nothing ends; here they are the client's, and a request waits for a limited time.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import msgspec

from rbeerouter.core.types import DRAINING, OFFLINE, Request, Worker
from rbeerouter.routing.strategies.base import Context, Hold, Strategy, best
from rbeerouter.routing.strategies.speeds import UNKNOWN, Ask, Law, Speeds

_RETRY_S = 0.5
"""Whoever waits is looked at again when a request ends, and after so long at the latest (`Dispatcher.on_tick`)."""
_ENDS = 2.0
"""Somebody ends within so many times the usual gap between two ends."""
_ROUNDED = 1.0 + 1e-9


class View(msgspec.Struct, frozen=True, gc=False):
    """What a worker is to a request.

    load: how much is taken of it; share: how much more this one would take. lateness: of its targets the worst expected
    / target, above 1 too late, None where nothing tells. has_room: what is taken would be no more than all of it; one
    that is idle can always be tried.
    """

    worker: Worker
    law: Law
    load: float
    share: float
    lateness: float | None
    in_time: bool
    has_room: bool


class SloStrategy(Strategy):
    """What they have in common: look at all, then choose."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.options = context.options.slo
        self.speeds = context.memory(Speeds, self.options)

    def choose(self, request: Request, workers: list[Worker]) -> Worker | Hold | None:
        ask, now = self.speeds.ask(request), self.context.now()
        views = self._views(ask, request, workers, now)
        if ask.has_target and all(view.lateness is None for view in views):
            return None
        untried = self._untried(views)
        if untried and self.context.chance.random() < self.options.explore:
            return self._best(untried, lambda view: view.load)
        return self.choice(ask, request, views, now)

    def choice(self, ask: Ask, request: Request, views: list[View], now: float) -> Worker | Hold:
        raise NotImplementedError

    def _views(self, ask: Ask, request: Request, workers: list[Worker], now: float) -> list[View]:
        speeds, arrived = self.speeds, self.context.arrived
        waited_s = 0.0 if arrived is None else now - arrived
        has_target, found, lateness = ask.has_target, [], None
        laws = speeds.laws(workers, request.model) if has_target else [UNKNOWN] * len(workers)
        for worker, law in zip(workers, laws, strict=True):
            load, queued, prompts = speeds.work(worker, now)
            others, share = worker.in_flight + worker.foreign, 1.0 / law.room(ask, worker.capacity)
            if has_target:
                lateness = law.lateness(ask, queued, others, prompts, waited_s)
            in_time, has_room = lateness is None or lateness <= 1.0, not others or load + share <= _ROUNDED
            found.append(View(worker, law, load, share, lateness, in_time, has_room))
        return found

    def least_loaded(self, ask: Ask, views: list[View]) -> Worker:
        """The least loaded of those that are in time.

        When nobody is, as there is too much to do, the one where it gets latest: there it makes the fewest others late
        who could be in time, while on the least late all would soon be late a little. But where no worker could be in
        time even if it were idle, the least late: that is the target's fault, and spoiling one worker helps nobody.
        """
        in_time = [view for view in views if view.in_time]
        if in_time:
            return self._best(in_time, lambda view: view.load)
        too_tight = all((view.law.lateness(ask) or 0.0) > 1.0 for view in views)
        sign = 1.0 if too_tight else -1.0
        return self._best(views, lambda view: sign * (view.lateness or 0.0))

    def _untried(self, views: list[View]) -> list[View]:
        """Those with room that are passed over for others, and could not show that they have become faster."""
        late = [view for view in views if not view.in_time and view.has_room]
        return late if len(late) < len(views) else []

    def _best(self, views: list[View], score: Callable[[View], float]) -> Worker:
        """The one with the least score."""
        return best(self.context.chance, [view.worker for view in views], [score(view) for view in views])


class SloLeastLoad(SloStrategy):
    """The least loaded worker that is expected to be in time. It never holds."""

    name = "slo-least-load"
    by_load = True

    def choice(self, ask: Ask, request: Request, views: list[View], now: float) -> Worker | Hold:
        return self.least_loaded(ask, views)


class SloPackLoad(SloStrategy):
    """The worker with the most to do that is expected to be in time and has room, so that others may sleep; when none
    has, as slo-least-load.

    What it has to do is counted in requests like this one: AIBrix (pack_load.go) takes the one that is fullest by its
    share, and so wakes a small machine beside a large one that has room, and keeps it awake. Of idle ones the largest;
    then the one that was used last, as by chance all would be kept awake. None gets more than twice as many at once as
    it was seen with: few answers tell little of how slow many would be.
    """

    name = "slo-pack-load"
    by_load = True

    def choice(self, ask: Ask, request: Request, views: list[View], now: float) -> Worker | Hold:
        fitting = [
            view for view in views
            if view.in_time and view.has_room and self._has_had_half_as_many(view.worker, request.model)
        ]  # fmt: skip
        if not fitting:
            return self.least_loaded(ask, views)
        used_at = self.speeds.used_at
        ranks = [(view.load / view.share, -view.share, used_at(view.worker)) for view in fitting]
        most = max(ranks)
        return self.context.chance.choice(
            [view.worker for view, rank in zip(fitting, ranks, strict=True) if rank == most]
        )

    def _has_had_half_as_many(self, worker: Worker, model: str) -> bool:
        return worker.in_flight + worker.foreign < 2.0 * max(1.0, self.speeds.most(worker, model))


class SloLeastLoadPulling(SloStrategy):
    """The least loaded worker that is expected to be in time and has room. When there is none, the request is held
    until one has, those first that have the least time left: for `queue_timeout_s` at most, and not for longer than
    some worker could still be in time. Then, by `late`, it is sent as slo-least-load does or the client is refused."""

    name = "slo-least-load-pulling"
    by_load = True

    def choice(self, ask: Ask, request: Request, views: list[View], now: float) -> Worker | Hold:
        fitting = [view for view in views if view.in_time and view.has_room]
        if fitting:
            return self._best(fitting, lambda view: view.load)
        busy = self._busy(request)
        if not busy:                                           # nothing would change by waiting
            return self.least_loaded(ask, views)
        arrived = self.context.arrived
        arrived = now if arrived is None else arrived
        due = arrived + min(self.options.queue_timeout_s, self._slack_s(ask, request, views, busy))
        left_s, rejects = due - now, self.options.late == "reject"
        if left_s > (0.0 if rejects else min(_RETRY_S, _ENDS * self.speeds.gap_s)):
            why = "no worker would be in time now"
            return Hold(left_s if rejects else None, 0, why, due if ask.has_target else inf)
        if rejects:
            return Hold(0.0, 0, "no worker can be in time any more", due)
        return self.least_loaded(ask, views)

    def _busy(self, request: Request) -> list[Worker]:
        """Those that have work of ours and could get the request when it is done, with room now or without."""
        model = self.context.models.restricted.get(request.model)
        return [
            worker for worker in self.speeds.working(request.model)
            if worker.status not in (OFFLINE, DRAINING) and request.deployment in (None, worker.deployment)
            and (model is None or model.allows(worker))
        ]  # fmt: skip

    def _slack_s(self, ask: Ask, request: Request, views: list[View], busy: list[Worker]) -> float:
        """How long after its arrival the request can be sent and be in time, if a worker does nothing else then."""
        workers = list({view.worker: None for view in views} | dict.fromkeys(busy))
        return max(law.expected(ask).slack_s(ask) for law in self.speeds.laws(workers, request.model))
