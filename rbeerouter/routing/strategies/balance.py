"""Strategies that spread requests evenly. Each sees only eligible workers, never an empty list, and changes no worker.

A strategy is a class with `choose(request, workers) -> Worker`; ties break at random, or the first worker of the
list would get every request of an idle fleet.
"""

from __future__ import annotations

import random

from rbeerouter.core.types import Request, Worker


class RoundRobin:
    """Each worker in turn, whatever its load. The turn is counted over all models together."""

    name = "round-robin"
    by_load = False

    def __init__(self, rng: random.Random) -> None:
        self._turn = rng.randrange(1 << 16)

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        self._turn += 1
        return workers[self._turn % len(workers)]


class LeastRequest:
    """The worker with the fewest requests for its capacity, those of others included as far as they are known."""

    name = "least-request"
    by_load = True

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        least = min(worker.load for worker in workers)
        tied = [worker for worker in workers if worker.load == least]
        return tied[0] if len(tied) == 1 else self._rng.choice(tied)
