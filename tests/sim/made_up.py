"""Scenarios to simulate, and results that nobody simulated, for tests of what is done with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rbeerouter.config.sections import Config, Control, Health, Limits, Probes, Routing, Server
from rbeerouter.core.types import Request, WorkerSpec
from rbeerouter.sim.types import (
    Arrival,
    Group,
    Profile,
    Quantiles,
    Result,
    Scenario,
    Series,
    SimWorker,
    WorkerResult,
)


def quantiles(about: float, count: int = 100) -> Quantiles:
    """Of a quantity that is mostly about so much."""
    return Quantiles(count, about, about * 0.9, about * 1.5, about * 2, about * 3, about * 4)


def group(requests: int = 100, about_s: float = 0.5, **changes: Any) -> Group:
    fields: dict[str, Any] = {
        "requests": requests, "ok": requests - 4, "rejected": 1, "failed": 2, "gone": 1, "retried": 3,
        "tokens_in": requests * 200, "tokens_out": requests * 100, "cost": requests * 0.001, "goodput": 0.9,
        "ttft_s": quantiles(about_s, requests), "tpot_s": quantiles(0.02, requests),
        "e2e_s": quantiles(about_s + 2, requests), "queue_s": Quantiles(),
    }  # fmt: skip
    return Group(**(fields | changes))


def worker(name: str, share: float = 0.5, **changes: Any) -> WorkerResult:
    fields: dict[str, Any] = {
        "id": name, "attempts": 52, "failures": 2, "share": share, "busy": 0.7, "mean_in_flight": 1.5,
        "kv_hit_rate": None, "machine_cost": 0.2, "energy_wh": None, "loads": 1, "group": group(50),
    }  # fmt: skip
    return WorkerResult(**(fields | changes))


def result(**changes: Any) -> Result:
    """100 requests over two workers."""
    fields: dict[str, Any] = {
        "script": "routing.lua", "script_hash": "abcdef012345", "strategy": "least-request", "workload": "made up",
        "seed": 1, "simulated_s": 50.0, "all": group(), "workers": [worker("gpu-1", 0.45), worker("gpu-2", 0.55)],
        "tiers": {"premium": group(10, 0.2)}, "users": {"anna": group(60), 'o"k': group(40)},
        "models": {"llama-3-8b": group()}, "reasons": {"script: routing.lua:3": 96}, "errors": {"upstream_timeout": 2},
        "script_errors": {"routing.lua:4: oops": 3}, "fairness": 0.8, "kv_hit_rate": None, "requests_per_s": 2.0,
        "tokens_per_s": 200.0, "machine_cost": 0.4, "energy_wh": None,
        "series": Series(1.0, [], [], {}, []), "ttft_cdf": [], "e2e_cdf": [],
    }  # fmt: skip
    return Result(**(fields | changes))


def config(**changes: Any) -> Config:
    """A daemon's configuration as it is without a file."""
    fields: dict[str, Any] = {
        "source": None, "server": Server(), "control": Control(), "routing": Routing(), "limits": Limits(),
        "probes": Probes(), "health": Health(), "workers": (), "script": None, "log": Path("routing.log"),
    }  # fmt: skip
    return Config(**(fields | changes))


class Steady(msgspec.Struct, frozen=True):
    """A workload of equal requests, one every `every_s` seconds."""

    count: int
    every_s: float = 0.5
    tokens_in: int = 200
    tokens_out: int = 20
    name: str = "steady"
    block_tokens: int = 16

    def __iter__(self) -> Iterator[Arrival]:
        for number in range(self.count):
            request = Request(
                f"r-{number}", "/v1/chat/completions", "m", None, f"user-{number % 3}", None, self.tokens_out, True, {},
                prompt_tokens=self.tokens_in,
            )  # fmt: skip
            yield Arrival(number * self.every_s, request, self.tokens_in, self.tokens_out)


class Chancy(msgspec.Struct, frozen=True):
    """Requests at random times and of random lengths; every third is of the same user."""

    count: int
    seed: int
    every_s: float = 0.5
    name: str = "chancy"
    block_tokens: int = 16

    def __iter__(self) -> Iterator[Arrival]:
        rng, at_s = random.Random(self.seed), 0.0
        for number in range(self.count):
            at_s += rng.expovariate(1 / self.every_s)
            tokens_in, tokens_out = 1 + int(rng.expovariate(1 / 300)), 1 + int(rng.expovariate(1 / 40))
            request = Request(
                f"r-{number}", "/v1/chat/completions", "m", None, f"user-{number % 3}", None, None, True, {},
                prompt_tokens=tokens_in,
            )  # fmt: skip
            yield Arrival(at_s, request, tokens_in, tokens_out)


def sim_worker(name: str, profile: Profile | None = None, **spec: Any) -> SimWorker:
    fields = {"id": name, "url": f"http://{name}.test:8000", "max_concurrency": 4, "models": ("m",)} | spec
    return SimWorker(WorkerSpec(**fields), profile or Profile())


def scenario(count: int = 40, workers: tuple[SimWorker, ...] = (), **changes: Any) -> Scenario:
    """Two like workers and steady traffic."""
    everybody = workers or (sim_worker("gpu-1"), sim_worker("gpu-2"))
    fields: dict[str, Any] = {
        "config": config(workers=tuple(worker.spec for worker in everybody)), "workers": everybody,
        "workload": Steady(count),
    }  # fmt: skip
    return Scenario(**(fields | changes))
