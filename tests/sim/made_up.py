"""Results that nobody simulated, for tests of what is done with them."""

from __future__ import annotations

from typing import Any

from rbeerouter.sim.types import Group, Quantiles, Result, Series, WorkerResult


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
