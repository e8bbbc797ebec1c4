"""What a decision costs: microseconds of a script, measured on this machine by the number of workers.

`routing check` says the median, `routing bench` (sim/bench.py) more: both measure on the same `Stand`.
"""

from __future__ import annotations

import random
import statistics
import time

from rbeerouter.core.types import Env, Request
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import Script
from rbeerouter.workbench.fleets import Row, fleet_of

WORKERS = (8, 64, 512)
_ROUNDS, _SHORTEST_S = 15, 0.004


class Stand:
    """A script before a made-up fleet, to decide the same request over and over.

    Args:
        source: None to measure the strategy alone.

    Raises:
        ScriptError: the script does not load.
    """

    def __init__(
        self, source: bytes | None, name: str, abilities: Abilities, count: int, strategy: str = "least-request"
    ) -> None:
        env = Env(time.monotonic, time.time, random.Random(1))
        self.fleet = fleet_of([_row(index) for index in range(count)])
        self.script = Script(source, name, env, None, abilities) if source is not None else None
        self.decider = Decider(self.fleet, self.script, strategy, env)
        self.request = Request(
            "cost", "/v1/chat/completions", "llama-3-8b", 8.0, "anna", None, 256, True,
            {"type": "llm", "tier": "premium", "region": "eu"}, None, 400,
        )  # fmt: skip

    def change(self, number: int) -> None:
        """Another worker's load has changed since, as with each request."""
        self.fleet.touched.add(self.fleet.ordered[number % len(self.fleet.ordered)])

    def close(self) -> None:
        if self.script is not None:
            self.script.close()


def decision_us(source: bytes, name: str, abilities: Abilities, workers: tuple[int, ...] = WORKERS) -> dict[int, float]:
    """{number of workers: median microseconds of one decision}, crossing into Lua and back included.

    The script must load. Before each decision a worker's load has changed, as requests do.
    """
    return {count: round(_median_us(source, name, abilities, count), 1) for count in workers}


def _median_us(source: bytes, name: str, abilities: Abilities, count: int) -> float:
    stand = Stand(source, name, abilities, count)
    taken, repeats = [], 1
    while len(taken) < _ROUNDS:
        started = time.perf_counter()
        for number in range(repeats):
            stand.decider.decide(stand.request)
            stand.change(number)
        elapsed = time.perf_counter() - started
        if elapsed < _SHORTEST_S:
            repeats *= 2                                       # too short to be measured
            continue
        taken.append(elapsed / repeats * 1e6)
    stand.close()
    return statistics.median(taken)


def _row(index: int) -> Row:
    """A worker unlike its neighbours: every third is a CPU, every eighth is busy."""
    cpu = index % 3 == 2
    return Row(
        f"worker-{index}", "busy" if index % 8 == 7 else "ready", index % 4, 4, backend="cpu" if cpu else "cuda",
        vram=None if cpu else 24.0, models=("llama-3-8b",), performance=10.0 if cpu else 60.0 + index % 90,
        cost_per_hour=0.1 + index % 10 / 10, metadata={"region": "eu" if index % 2 else "us"}, latency_ms=500.0,
        ttft_ms=120.0,
    )  # fmt: skip
