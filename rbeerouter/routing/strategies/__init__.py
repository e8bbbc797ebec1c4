"""The built-in strategies by name. Each family has a file; a new strategy is a class there and a line here."""

from __future__ import annotations

from typing import Protocol

from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.balance import LeastRequest, RoundRobin


class Strategy(Protocol):
    """Chooses one of `workers` (never empty, all eligible) and changes nothing but its own memory.

    by_load: it takes the idlest, so that a worker which comes back must be kept from it (`Decider._thinned`).
    """

    name: str
    by_load: bool

    def choose(self, request: Request, workers: list[Worker]) -> Worker: ...


STRATEGIES = {strategy.name: strategy for strategy in (RoundRobin, LeastRequest)}
