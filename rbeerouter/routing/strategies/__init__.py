"""The built-in strategies by name. Each family has a file; a new strategy is a class there and a line here."""

from __future__ import annotations

from rbeerouter.routing.strategies.balance import LeastRequest, RoundRobin
from rbeerouter.routing.strategies.base import Strategy

STRATEGIES: dict[str, type[Strategy]] = {strategy.name: strategy for strategy in (RoundRobin, LeastRequest)}
ALIASES: dict[str, str] = {}
"""{other name: name in STRATEGIES}."""
RESERVED: dict[str, str] = {}
"""{name that will be a strategy: why it is none yet}."""
