"""Strategies that spread requests evenly."""

from __future__ import annotations

from operator import add
from typing import Any

from rbeerouter.core.types import Request, Worker, WorkerSpec
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
        self._workers: dict[str, Worker] = {}                  # whose credits these are
        self._most = _SPARE
        # The workers of the last choice in a row, usually those of the next as well; `taken` changes the row alone.
        self._specs: list[WorkerSpec] = []
        self._names: list[str] = []
        self._weights: list[float] = []
        self._row: list[float] = []
        self._grown: list[float] = []
        self._chosen = 0
        self._ahead = False                                    # has the row changed since it was written to `_credits`?

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        specs = [worker.spec for worker in workers]
        if specs != self._specs:
            self._line_up(workers, specs)
        self._grown = grown = list(map(add, self._row, self._weights))
        largest = max(grown)
        if grown.count(largest) == 1:
            index = grown.index(largest)
        else:
            first = self._start % len(workers)
            index = grown.index(largest, first) if largest in grown[first:] else grown.index(largest)
        self._chosen = index
        return workers[index]

    def taken(self, request: Request, worker: Worker) -> None:
        self._row = row = self._grown
        row[self._chosen] -= sum(self._weights)
        self._ahead = True

    def _line_up(self, workers: list[Worker], specs: list[WorkerSpec]) -> None:
        credits, names = self._written(), [spec.id for spec in specs]
        self._workers.update(zip(names, workers, strict=True))
        if len(self._workers) > self._most:                    # some of them may be gone
            self._workers = {name: worker for name, worker in self._workers.items() if worker.index >= 0}
            self._credits = credits = {name: credits[name] for name in self._workers if name in credits}
            self._most = 2 * len(self._workers) + _SPARE
        self._specs, self._names = specs, names
        self._weights = [spec.weight for spec in specs]
        self._row = [credits.get(name, 0.0) for name in self._names]

    def _written(self) -> dict[str, float]:
        if self._ahead:
            self._credits.update(zip(self._names, self._row, strict=True))
            self._ahead = False
        return self._credits

    def state(self) -> dict[str, float]:
        return self._written().copy()

    def stand_at(self, state: Any) -> None:
        if isinstance(state, dict) and all(isinstance(credit, int | float) for credit in state.values()):
            self._credits, self._specs, self._ahead = dict(state), [], False


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
