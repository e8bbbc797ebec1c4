"""Strategies that spread requests evenly."""

from __future__ import annotations

from typing import Any

from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Scored, Strategy


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
