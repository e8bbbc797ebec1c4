"""Strategies that spread requests evenly. Each sees only eligible workers, never an empty list, and changes no worker.

A strategy is a class with `choose(request, workers) -> Worker`; ties break at random, or the first worker of the
list would get every request of an idle fleet.
"""

from __future__ import annotations

from rbeerouter.core.chance import Chance
from rbeerouter.core.types import Request, Worker


class RoundRobin:
    """Each worker in turn, whatever its load. The turn is counted over all models together.

    Attributes:
        turn: the last one. The log tells it, and a replay sets it.
    """

    name = "round-robin"
    by_load = False

    def __init__(self, chance: Chance) -> None:
        self.turn = chance.loading() & 0xFFFF

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        self.turn += 1
        return workers[self.turn % len(workers)]


class LeastRequest:
    """The worker with the fewest requests for its capacity, those of others included as far as they are known."""

    name = "least-request"
    by_load = True

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        loads = [worker.load for worker in workers]
        least = min(loads)
        if loads.count(least) == 1:
            return workers[loads.index(least)]
        return self._chance.choice([worker for worker in workers if worker.load == least])
