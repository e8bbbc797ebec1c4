"""The built-in strategies by name. Each family has a file; a new strategy is a class there and a line here."""

from __future__ import annotations

from rbeerouter.config.strategies import Names
from rbeerouter.routing.strategies.affinity import ConsistentHash, IpHash, SessionAffinity
from rbeerouter.routing.strategies.balance import LeastRequest, PowerOfTwo, Random, RoundRobin, Weighted
from rbeerouter.routing.strategies.base import Scored, Strategy
from rbeerouter.routing.strategies.economy import CacheWarm, Cheapest, FixedRatio
from rbeerouter.routing.strategies.fairness import VtcBasic
from rbeerouter.routing.strategies.figures import (
    LatencyBased,
    LeastBusyTime,
    LeastGpuCache,
    LeastKvCache,
    LeastLatency,
    LeastUtilization,
    LoadBased,
    Throughput,
)
from rbeerouter.routing.strategies.preble import PrefixCachePreble
from rbeerouter.routing.strategies.prefix import LMetric, PrefixCache
from rbeerouter.routing.strategies.slo import SloLeastLoad, SloLeastLoadPulling, SloPackLoad

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.name: strategy
    for strategy in (
        Random, RoundRobin, Weighted, IpHash, ConsistentHash, LeastRequest,
        LoadBased, LatencyBased, LeastBusyTime, LeastLatency, LeastKvCache, LeastGpuCache, LeastUtilization, Throughput,
        PowerOfTwo,
        PrefixCache, PrefixCachePreble, LMetric,
        VtcBasic,
        SloPackLoad, SloLeastLoad, SloLeastLoadPulling,
        SessionAffinity,
        Cheapest, FixedRatio, CacheWarm,
    )
}  # fmt: skip
ALIASES: dict[str, str] = {"least-connections": "least-request", "slo": "slo-least-load-pulling"}
"""{other name: name in STRATEGIES}."""
RESERVED: dict[str, str] = {
    "pd": "prefill and decode on different workers is not built yet; its name is reserved",
}
"""{name that will be a strategy: why it is none yet}."""
NAMES = Names(
    tuple(STRATEGIES), ALIASES, RESERVED, frozenset(name for name, one in STRATEGIES.items() if issubclass(one, Scored))
)
"""What may be given as a strategy, wherever one is named."""
