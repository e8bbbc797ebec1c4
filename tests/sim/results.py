"""A made-up `Result` with every field filled, timelines too, for tests of what shows results. Simulates nothing."""

from __future__ import annotations

import math

from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim.ledger import METRICS, Entry, Ledger
from rbeerouter.sim.types import (
    Fault,
    Group,
    Profile,
    Quantiles,
    Result,
    Scenario,
    Series,
    SimWorker,
    Targets,
    WorkerResult,
)  # fmt: skip
from tests.sim import made_up

SOURCE = b"""function route_request(request, workers)
  local ready = workers:filter(function(w)
    return w.status == "ready" and w.models:contains(request.model)
  end)
  if request.metadata:get("tier") == "premium" then
    return ready:max_by("vram")              -- the largest card
  end
  if request.max_tokens and request.max_tokens < 50 then
    return ready:filter(function(w) return w.backend == "cpu" end)[1]
  end
  return ready:min_by("load")                -- the least loaded
end
"""


def quantiles(count: int, middle: float) -> Quantiles:
    """Of a lognormal-like quantity with this median."""
    if not count:
        return Quantiles()
    return Quantiles(count, middle * 1.3, middle, middle * 2.3, middle * 3.1, middle * 5.2, middle * 9.7)


def group(requests: int, speed: float = 1.0) -> Group:
    rejected, failed, gone = requests // 50, requests // 80, requests // 200
    ok = requests - rejected - failed - gone
    return Group(
        requests, ok, rejected, failed, gone, requests // 40, requests * 812, requests * 203, requests * 0.00021,
        0.93, quantiles(ok, 0.21 * speed), quantiles(ok, 0.018 * speed), quantiles(ok, 3.4 * speed),
        quantiles(ok, 0.012 * speed),
    )  # fmt: skip


def names(count: int) -> list[str]:
    first = ["worker-gaming-pc", "worker-m2-macbook", "worker-old-server", "worker-cloud-a10"]
    return [*first, *(f"worker-{index:02}" for index in range(len(first), count))][:count]


def cdf(count: int, middle: float) -> list[tuple[float, float]]:
    """Of a logistic in the logarithm."""
    steps = [(index + 0.5) / count for index in range(count)]
    return [(middle * (share / (1 - share)) ** 0.55, share) for share in steps]


def wave(length: int, height: float, turn: float) -> list[float]:
    return [
        height * (1.1 + math.sin(turn + index / length * 6.3) + 0.25 * math.sin(turn + index * 1.7))
        for index in range(length)
    ]


def result(workers: int = 4, requests: int = 1000, every_s: float = 10.0, intervals: int = 60) -> Result:
    ids = names(workers)
    weights = [1 / (place + 1.2) for place in range(workers)]
    rows, shown = [], 0
    for place, worker in enumerate(ids):
        got = round(requests * weights[place] / sum(weights) * 0.97)
        shown += got
        rows.append(
            WorkerResult(
                worker, got + got // 40, got // 40, got / max(requests, 1), 0.9 / (1 + place / 3), 4.2 / (1 + place),
                0.41 if place % 2 == 0 else None, 0.083 if place == 3 else None, 71.0 / (1 + place), place % 3,
                group(got, 1 + place / 2),
            )
        )  # fmt: skip
    premium = requests // 4
    return Result(
        script="routing.lua", script_hash="9f86d081884c7d65", strategy="least-request",
        workload="Poisson, 1.7 requests a second", seed=7, simulated_s=every_s * intervals, all=group(requests),
        workers=rows, tiers={"premium": group(premium, 0.7), "free": group(requests - premium)},
        users={f"user-{index}": group(requests // (index + 2)) for index in range(14)},
        models={"llama-3-8b": group(requests * 2 // 3), "qwen-2.5-32b": group(requests - requests * 2 // 3, 2.0)},
        reasons={
            "script: routing.lua:6": premium, "script: routing.lua:9: short": requests // 10,
            "script: routing.lua:11": requests - premium - requests // 10 - 31,
            "strategy: least-request; routing.lua:9 returned nil": 20, "fallback: least-request": 11,
        },
        errors={"queue_timeout": 12, "worker_timeout": 1},
        script_errors={"routing.lua:9: attempt to index a nil value (field '?')": 11},
        fairness=0.87, kv_hit_rate=0.38, requests_per_s=requests / (every_s * intervals),
        tokens_per_s=338.0, machine_cost=0.083, energy_wh=171.0,
        series=Series(
            every_s, wave(intervals, 0.8, 0.0), [max(0.0, value - 2) for value in wave(intervals, 1.6, 1.0)],
            {worker: wave(intervals, 4 / (1 + place / 3), place / 2) for place, worker in enumerate(ids)},
            [None if index % 17 == 3 else value for index, value in enumerate(wave(intervals, 0.5, 2.0))],
        ),
        ttft_cdf=cdf(60, 0.21), e2e_cdf=cdf(60, 3.4), params={"short": 50.0},
        timing={"decision_us": 44.1, "run_s": 0.091, "requests_per_s": 10989.0},
    )  # fmt: skip


def fleet(workers: int = 4) -> tuple[SimWorker, ...]:
    profile = Profile(source="RTX 4090, llama.cpp, 8B Q4", watts_idle=40.0, watts_busy=350.0)
    return tuple(
        SimWorker(WorkerSpec(worker, f"http://10.0.0.{place + 1}:8080", engine="llamacpp", vram=24.0), profile)
        for place, worker in enumerate(names(workers))
    )


FAULTS = (Fault("worker-gaming-pc", "crash", 120.0, 60.0), Fault("worker-old-server", "slow", 300.0, 120.0, 3.0))


def scenario(workers: int = 4) -> Scenario:
    """One that could have given `result`, for its faults, targets and profiles."""
    return made_up.scenario(workers=fleet(workers), script=SOURCE, faults=FAULTS, targets=Targets(ttft_s=1.0), seed=7)


def _entry(name: str, about: str, spent: float, saved: float | None, p95_s: float) -> Entry:
    values = dict.fromkeys(METRICS, None) | {"p95_ttft_s": p95_s, "p95_e2e_s": 9 * p95_s, "rejected": 3.0, "goodput": 0.9}
    return Entry(name, about, values, spent, saved)


LEDGER = Ledger(
    20_000, True,
    (
        _entry("yours", "routing.lua", 1.20, None, 0.65),
        _entry("round-robin", "the strategy round-robin alone", 1.71, 0.51, 1.9),
        _entry("all-remote", "every request to the remote workers, no machine at home", 1.0, -0.2, 0.4),
    ),
)  # fmt: skip
