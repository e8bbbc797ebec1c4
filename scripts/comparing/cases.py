"""For each strategy, what shows whether it does what it is named for.

Everything runs near the knee, where a good choice still helps: at 60 to 85 % of what the workers could serve at most.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.sections import Ratio, Routing, Slo, Strategies
from rbeerouter.core.types import Wishes
from rbeerouter.routing.strategies.base import Strategy
from rbeerouter.sim.types import Arrival, SimWorker, Targets

from . import fleets, traffic
from .measures import REMOTE_SHARE

RANDOM, LEAST_REQUEST, ROUND_ROBIN = "random", "least-request", "round-robin"


class Setting(msgspec.Struct, frozen=True):
    """What is simulated, whoever decides. sampled: are the KV caches looked at over time?"""

    workload: traffic.Kept
    workers: tuple[SimWorker, ...]
    routing: Routing = Routing()
    limits: dict[str, Any] = {}
    targets: Targets = Targets()
    sampled: bool = False


Make = Callable[[Path | None, int, int], Setting]
"""(folder of real traces, requests, seed); at whatever speed."""


class Case(msgspec.Struct, frozen=True):
    """measures: names in MEASURES, that which it is named for first. against: who else decides, random first.

    load: of what the workers could serve at most. requests: how many tell it, and `few` how many show it at least.
    workers: in words; clients: what is special about them, behind the name of the traffic.
    """

    strategy: str
    measures: tuple[str, ...]
    make: Make
    load: float
    workers: str
    against: tuple[str, ...] = (RANDOM,)
    requests: int = 3000
    few: int = 700
    clients: str = ""

    @property
    def contenders(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.strategy, *self.against)))

    def setting(self, data: Path | None, requests: int, seed: int) -> Setting:
        made = self.make(data, requests, seed)
        return msgspec.structs.replace(made, workload=traffic.at_load(made.workload, made.workers, self.load))


def _baselines() -> dict[str, type[Strategy]]:
    """The rules of other routers, which the tests implement from their description."""
    if importlib.util.find_spec("tests.support.baselines") is None:
        return {}
    from tests.support import baselines

    found = [one for one in vars(baselines).values() if isinstance(one, type) and issubclass(one, Strategy)]
    return {one.name: one for one in found if one.__module__ == baselines.__name__}


BASELINES = _baselines()


# The settings


def chats(workers: Callable[[], tuple[SimWorker, ...]]) -> Make:
    """Azure's chats."""
    return lambda data, requests, seed: Setting(traffic.chats(data, requests, seed), workers())


def eight() -> tuple[SimWorker, ...]:
    return fleets.alike(8)


def conversations(data: Path | None, requests: int, seed: int) -> Setting:
    """Mooncake's."""
    return Setting(traffic.conversations(data, requests, seed), fleets.caching())


def weighted(data: Path | None, requests: int, seed: int) -> Setting:
    """Machines whose weights say how fast they are."""
    return Setting(traffic.chats(data, requests, seed), fleets.unequal(weighed=True))


def small_caches(data: Path | None, requests: int, seed: int) -> Setting:
    """Caches that twenty chats fill."""
    return Setting(traffic.chats(data, requests, seed), fleets.alike(6, kv_tokens=30_000), sampled=True)


LIGHT_USERS = 9


def flooded(data: Path | None, requests: int, seed: int) -> Setting:
    """One user asks for the longest quarter, nine others for the rest: together for more than there is."""
    whole = traffic.chats(data, requests, seed)
    long = sorted(one.tokens_in + 2 * one.tokens_out for one in whole.arrivals)[requests * 3 // 4]

    def asked(arrival: Arrival, rng: random.Random) -> Arrival:
        floods = arrival.tokens_in + 2 * arrival.tokens_out >= long
        return traffic.asked_by(arrival, f"user-{1 if floods else 2 + rng.randrange(LIGHT_USERS)}")

    kept = whole.changed(asked, seed)
    limits = {"queue_s": 3600.0, "queue_most_s": 3600.0, "queue_length": 100_000, "queue_per_caller": 100_000}
    return Setting(kept, fleets.alike(4, places=16), limits=limits)


HURRIED = Wishes(slo_ttft_ms=1000.0, slo_tpot_ms=60.0)
PATIENT = Wishes(slo_e2e_ms=60_000.0)


def promised(workers: Callable[[], tuple[SimWorker, ...]], hurried: float = 0.5) -> Make:
    """This share of the clients sit before a screen, the others read their answers in the evening."""

    def wishing(arrival: Arrival, rng: random.Random) -> Arrival:
        wishes = HURRIED if rng.random() < hurried else PATIENT
        request = msgspec.structs.replace(arrival.request, wishes=wishes)
        return msgspec.structs.replace(arrival, request=request)

    def make(data: Path | None, requests: int, seed: int) -> Setting:
        return Setting(traffic.chats(data, requests, seed).changed(wishing, seed), workers())

    return make


def refused(workers: Callable[[], tuple[SimWorker, ...]]) -> Make:
    """As `promised`, where those who would be late are told at once."""
    make = promised(workers)
    routing = Routing(strategies=Strategies(slo=Slo(late="reject")))
    return lambda data, requests, seed: msgspec.structs.replace(make(data, requests, seed), routing=routing)


def shared(data: Path | None, requests: int, seed: int) -> Setting:
    """A share of the requests goes to the cloud, the same that chance would send there."""
    routing = Routing(strategies=Strategies(ratio=Ratio(local=1 - REMOTE_SHARE)))
    return Setting(traffic.chats(data, requests, seed), fleets.home_and_cloud(), routing)


def desktops(data: Path | None, requests: int, seed: int) -> Setting:
    """Six models, some asked for more than others, on machines that have two or three in memory at once."""

    def asked(arrival: Arrival, rng: random.Random) -> Arrival:
        model = rng.choices(fleets.SHELF, [1 / number for number in range(1, len(fleets.SHELF) + 1)])[0]
        return msgspec.structs.replace(arrival, request=msgspec.structs.replace(arrival.request, model=model))

    return Setting(traffic.chats(data, requests, seed).changed(asked, seed), fleets.desktops())


_EIGHT = "eight A100"
_CACHING = "eight A100 with room for 920,000 tokens in each cache"
_NARROW = "eight L40S that work on eight requests at once"
_SINGLES = "two each of RTX 4090, RTX 3090, L4 and RTX 3060, which work on one request at a time"
_HURRIED = "a TTFT of 1 s and 60 ms for each token"
_UNEQUAL = "two each of H100, A100, L40S and A40"
_CASES = (
    Case("random", ("off_share", "p95_e2e"), chats(eight), 0.7, _EIGHT, (ROUND_ROBIN,)),
    Case("round-robin", ("off_share", "p95_e2e"), chats(eight), 0.7, _EIGHT),
    Case("weighted", ("off_weight", "p95_e2e"), weighted, 0.7, _UNEQUAL),
    Case("ip-hash", ("stayed", "kv_hit_rate", "p90_ttft"), conversations, 0.7, _CACHING),
    Case("consistent-hash", ("stayed", "kv_hit_rate", "p90_ttft"), conversations, 0.7,
         _CACHING, (RANDOM, "ip-hash")),
    Case("session-affinity", ("kv_hit_rate", "stayed", "p90_ttft"), conversations, 0.7, _CACHING),
    Case("least-request", ("p95_ttft", "p95_e2e"), chats(fleets.narrow), 0.8, _NARROW,
         (RANDOM, ROUND_ROBIN)),
    Case("load-based", ("p95_e2e", "p95_ttft"), chats(fleets.unequal), 0.7, _UNEQUAL,
         (RANDOM, LEAST_REQUEST)),
    Case("power-of-two", ("p95_ttft", "p95_e2e"), chats(fleets.narrow), 0.8, _NARROW,
         (RANDOM, LEAST_REQUEST)),
    Case("latency-based", ("p95_e2e", "mean_e2e"), chats(fleets.unequal), 0.7, _UNEQUAL,
         (RANDOM, LEAST_REQUEST)),
    Case("least-latency", ("p95_e2e", "mean_e2e"), chats(fleets.unequal), 0.7, _UNEQUAL,
         (RANDOM, LEAST_REQUEST)),
    Case("least-busy-time", ("busy_spread", "p95_e2e"), chats(fleets.singles), 0.6, _SINGLES,
         (RANDOM, LEAST_REQUEST)),
    Case("least-utilization", ("p95_e2e", "busy_spread"), chats(fleets.unequal), 0.5, _UNEQUAL,
         (RANDOM, LEAST_REQUEST)),
    *(
        Case(name, ("kv_spread", "preempted"), small_caches, 0.7, "six A100 with room for 30,000 tokens in each cache",
             (RANDOM, LEAST_REQUEST))
        for name in ("least-kv-cache", "least-gpu-cache")
    ),
    Case("throughput", ("token_spread", "p95_e2e"), chats(eight), 0.7, _EIGHT,
         (RANDOM, LEAST_REQUEST)),
    *(
        Case(name, ("kv_hit_rate", "p90_ttft", "mean_ttft"), conversations, 0.8, _CACHING,
             (RANDOM, LEAST_REQUEST, *BASELINES), 2400)
        for name in ("prefix-cache", "prefix-cache-preble", "lmetric")
    ),
    Case("vtc-basic", ("jain", "light_ttft"), flooded, 1.7,
         "four A100 that work on 16 requests at once", (RANDOM, LEAST_REQUEST), few=1400,
         clients=" by ten users, one of whom sends the longest quarter"),
    Case("slo-pack-load", ("machines", "attained"), promised(eight, 1.0), 0.4,
         _EIGHT, (RANDOM, LEAST_REQUEST), clients=f" whose clients want {_HURRIED}"),
    Case("slo-least-load", ("attained", "p95_ttft"), promised(fleets.unequal), 0.75,
         _UNEQUAL, (RANDOM, LEAST_REQUEST), clients=f" of whose clients half want {_HURRIED}"),
    Case("slo-least-load-pulling", ("attained", "p95_ttft"), refused(fleets.unequal), 1.2,
         f"{_UNEQUAL}, with `late = \"reject\"`", (RANDOM, LEAST_REQUEST, "slo-least-load"),
         clients=f" of whose clients half want {_HURRIED}"),
    Case("cheapest", ("cost", "p95_e2e"), chats(fleets.home_and_cloud), 0.1,
         "four RTX 3090 at home and two clouds", (RANDOM, LEAST_REQUEST)),
    Case("fixed-ratio", ("off_split", "cost"), shared, 0.1,
         "four RTX 3090 at home and two clouds"),
    Case("cache-warm", ("loads", "p95_e2e"), desktops, 0.5, "four RTX 4090 with Ollama", (RANDOM, LEAST_REQUEST),
         clients=" for six models"),
)  # fmt: skip
CASES: dict[str, Case] = {case.strategy: case for case in _CASES}
