"""When another worker may be tried for the same request: the retry law, in numbers.

`core.dispatch` asks. A generation has no side effect on its worker, so until the client has got content a request may
go to another one. What that may cost is bounded four ways: by the number of attempts, by a budget that retries of all
requests share, by the request's own deadline, and by not handing a request that killed a worker to many more.

Why a request may be tried again stands in its failure (errors.py):

- *unsent*: the worker never got it. At once, outside of the budget: nothing is repeated.
- *lost*: the worker died over it. Once: a request that has killed two workers is refused from then on.
- *full*: the worker has no room. As often as attempts are left.
- *broken*: the worker failed (its own 5xx, or an error in place of content). Once.
- *slow*: no content in time. Once, and only if at least `SLOW_SHARE` of the request's time is left.

Sources: the budget is Finagle's (a share of the requests of the last ten seconds, and a floor), the back-off Envoy's
(full jitter, doubling).
"""

from __future__ import annotations

import random
from collections import deque

import msgspec

from rbeerouter.core.errors import BROKEN, FAILURES, FULL, LOST, SLOW, UNSENT, Failure
from rbeerouter.core.types import Attempt

WINDOW_S = 10.0
"""Over which requests and retries are counted."""
SLOW_SHARE = 0.4
"""What must be left of a request's time for a second try after a silent worker: the next one starts from nothing."""


class RetryRules(msgspec.Struct, frozen=True):
    """attempts: workers tried for one request, the first included. share: retries for each request of the window.
    floor: retries in a window that are always allowed, so that a quiet router can recover. backoff_s, backoff_cap_s:
    the longest pause before the first retry, which doubles, and where that ends.
    """

    attempts: int = 3
    share: float = 0.2
    floor: int = 30
    backoff_s: float = 0.05
    backoff_cap_s: float = 0.25


class Retries:
    """The budget of all requests together, and the law for each.

    Attributes:
        requests: how many have come; whoever accepts one adds to it.
        exhausted: how often a retry was refused because the budget was spent.
        made: {why: retries}.
    """

    def __init__(self, rules: RetryRules | None = None) -> None:
        self.rules = rules or RetryRules()
        self.requests = 0
        self.exhausted = 0
        self.made: dict[str, int] = dict.fromkeys((UNSENT, LOST, FULL, BROKEN, SLOW), 0)
        self._spent = 0
        self._past: deque[tuple[float, int, int]] = deque([(float("-inf"), 0, 0)])

    def tick(self, now: float) -> None:
        """Called about twice a second: what is older than the window counts no more."""
        past = self._past
        past.append((now, self.requests, self._spent))
        while len(past) > 1 and past[1][0] <= now - WINDOW_S:
            past.popleft()

    def allowed(
        self, failure: Failure, attempts: list[Attempt], now: float, arrived: float, deadline: float
    ) -> bool:
        """May the request that just failed be given to another worker? If so, that is counted as done.

        Args:
            attempts: all of the request, the failed one included.
            arrived, deadline: when the request came and must be answered.
        """
        why = failure.retry
        if not why or len(attempts) >= self.rules.attempts or now >= deadline:
            return False
        if why in (BROKEN, LOST, SLOW) and _count(attempts, why) > 1:
            return False
        if why == SLOW and deadline - now < SLOW_SHARE * (deadline - arrived):
            return False
        if why != UNSENT and not self.spend():
            return False
        self.made[why] += 1
        return True

    def spend(self) -> bool:
        """Takes one of the budget, if there is one left: a worker will get a request that one has had before."""
        _, requests, spent = self._past[0]
        if self._spent - spent >= max(self.rules.floor, self.rules.share * (self.requests - requests)):
            self.exhausted += 1
            return False
        self._spent += 1
        return True

    def pause_s(self, failure: Failure, tried: int, rng: random.Random) -> float:
        """How long to wait before the next worker gets the request."""
        if failure.retry == UNSENT:
            return 0.0
        rules = self.rules
        return rng.random() * min(rules.backoff_cap_s, rules.backoff_s * 2 ** (tried - 1))


def _count(attempts: list[Attempt], why: str) -> int:
    return sum(_why(attempt) == why for attempt in attempts)


def _why(attempt: Attempt) -> str:
    failure = FAILURES.get(attempt.result)
    return failure.retry if failure is not None else ""
