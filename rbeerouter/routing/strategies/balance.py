"""Strategies that spread requests evenly."""

from __future__ import annotations

from typing import Any

from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Scored, Strategy

_SPARE = 64
"""So many more workers than there are may be remembered, until those that are gone are looked for."""


class Random(Strategy):
    """Any of the workers, all alike."""

    name = "random"

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        return self.context.chance.choice(workers)


class RoundRobin(Strategy):
    """Each worker in turn, whatever its load. The turn is counted over all models together.

    Attributes:
        turn: the last one. The log tells it, and a replay sets it.
    """

    name = "round-robin"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.turn = context.chance.loading() & 0xFFFF

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        return workers[(self.turn + 1) % len(workers)]

    def taken(self, request: Request, worker: Worker) -> None:
        self.turn += 1

    def state(self) -> int:
        return self.turn

    def stand_at(self, state: Any) -> None:
        if isinstance(state, int):
            self.turn = state


class Weighted(Strategy):
    """Each worker in turn, as often as its `weight` says, and spread over the round: of 5, 1 and 1 comes a a b a c a a.

    Smooth weighted round-robin (nginx, ngx_http_upstream_round_robin.c): each worker's credit grows by its weight; the
    largest credit is taken, and pays the sum of all weights. Of equal credits the next is taken from a place on that is
    drawn at the start, as several daemons would else all begin with the same worker.
    """

    name = "weighted"
    by_weight = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._start = context.chance.loading()
        self._credits: dict[str, float] = {}
        self._known: dict[str, Worker] = {}
        self._most = _SPARE
        self._grown: tuple[list[Worker], list[float]] = ([], [])

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        credits = self._credits
        try:
            grown = [credits[worker.id] + worker.spec.weight for worker in workers]
        except KeyError:
            grown = [credits.get(worker.id, 0.0) + worker.spec.weight for worker in workers]
        self._grown = workers, grown                           # for `taken`, which is told the worker alone
        largest = max(grown)
        if grown.count(largest) == 1:
            return workers[grown.index(largest)]
        first = self._start % len(workers)
        return workers[grown.index(largest, first) if largest in grown[first:] else grown.index(largest)]

    def taken(self, request: Request, worker: Worker) -> None:
        workers, grown = self._grown
        credits = self._credits
        credits.update((one.id, credit) for one, credit in zip(workers, grown, strict=True))
        credits[worker.id] -= sum(one.spec.weight for one in workers)
        if len(credits) > len(self._known):
            self._known |= {one.id: one for one in workers}
            if len(credits) > self._most:
                self._forget()

    def _forget(self) -> None:
        """Those that are gone."""
        self._known = {name: worker for name, worker in self._known.items() if worker.index >= 0}
        self._credits = {name: credit for name, credit in self._credits.items() if name in self._known}
        self._most = 2 * len(self._known) + _SPARE

    def state(self) -> dict[str, float]:
        return self._credits.copy()

    def stand_at(self, state: Any) -> None:
        if isinstance(state, dict) and all(isinstance(credit, int | float) for credit in state.values()):
            self._credits = dict(state)


class LeastRequest(Scored):
    """The worker with the fewest requests for its capacity, those of others included as far as they are known."""

    name = "least-request"
    by_load = True

    def scores(self, request: Request, workers: list[Worker]) -> list[float]:
        return [worker.load for worker in workers]

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        loads = [worker.load for worker in workers]  # as `Scored` does, in fewer steps: nearly all ask for it
        least = min(loads)
        if loads.count(least) == 1:
            return workers[loads.index(least)]
        return self.context.chance.choice([worker for worker in workers if worker.load == least])


class PowerOfTwo(Strategy):
    """Of two workers drawn at random the one with less to do; where they are equal, the first that was drawn.

    Mitzenmacher, "The power of two choices in randomized load balancing", 2001. Less to do is fewer requests for its
    capacity; with `strict`, fewer of ours, as AIBrix counts. The counts are exact, as this process alone sends.
    """

    name = "power-of-two"
    by_load = True

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        count = len(workers)
        if count == 1:
            return workers[0]
        bits = self.context.chance.bits
        first, second = bits() * count >> 64, bits() * (count - 1) >> 64
        one, other = workers[first], workers[second + (second >= first)]
        if self.context.options.strict:
            return other if other.in_flight < one.in_flight else one
        return other if other.load < one.load else one
