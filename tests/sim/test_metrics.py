"""Tests of the names of a result's numbers."""

from __future__ import annotations

import msgspec
import pytest

from rbeerouter.sim.metrics import METRICS, listed, metric_of, metrics
from rbeerouter.sim.types import Group, Result, WorkerResult
from tests.sim.made_up import group, result, worker

NUMBERS = metrics(result())


@pytest.mark.parametrize(("name", "value"), [
    ("requests", 100), ("ok", 96), ("rejected", 1), ("failed", 2), ("gone", 1), ("retried", 3), ("goodput", 0.9),
    ("mean_ttft_s", 0.5), ("p50_ttft_s", 0.45), ("p90_ttft_s", 0.75), ("p95_ttft_s", 1.0), ("p99_ttft_s", 1.5),
    ("max_ttft_s", 2.0), ("mean_e2e_s", 2.5), ("p99_queue_s", None), ("p50_tpot_s", 0.018), ("tokens_in", 20_000),
    ("tokens_out", 10_000), ("cost", 0.1), ("machine_cost", 0.4), ("energy_wh", None), ("kv_hit_rate", None),
    ("requests_per_s", 2.0), ("tokens_per_s", 200.0), ("fairness", 0.8), ("script_errors", 3), ("simulated_s", 50.0),
    ('share["gpu-2"]', 0.55), ('error["upstream_timeout"]', 2), ('reason["script: routing.lua:3"]', 96),
    ('tier["premium"].p95_ttft_s', 0.4), ('user["anna"].requests', 60), ('user["o\\"k"].requests', 40),
    ('model["llama-3-8b"].failed', 2), ('worker["gpu-1"].attempts', 52), ('worker["gpu-1"].failures', 2),
    ('worker["gpu-1"].busy', 0.7), ('worker["gpu-1"].mean_in_flight', 1.5), ('worker["gpu-1"].loads', 1),
    ('worker["gpu-1"].machine_cost', 0.2), ('worker["gpu-1"].p95_e2e_s', 5.0),
])  # fmt: skip
def test_each_number_has_its_name(name: str, value: float | None) -> None:
    assert NUMBERS[name] == (value if value is None else pytest.approx(value))


def test_every_name_that_a_result_gives_is_described_and_every_description_is_given() -> None:
    assert [name for name in NUMBERS if metric_of(name) is None] == []
    given = {metric.name for name in NUMBERS if (metric := metric_of(name)) is not None}
    assert given == set(METRICS)


@pytest.mark.parametrize("name", [
    "p96_ttft_s", "share", "error", "busy", "tier", 'tier["premium"]', 'tier["premium"].busy', 'tier["premium"].fairness',
    'worker["a"].share', 'cost["a"]', "tier[].ok", 'tier["a"]ok', "worker.ok", 'planet["a"].ok', 'worker["a"].tokens_per_s',
])  # fmt: skip
def test_what_is_no_number_of_any_result_has_no_description(name: str) -> None:
    assert metric_of(name) is None


def test_no_number_of_a_result_is_left_out() -> None:
    """Whoever adds a field to a result names it here, or in `metrics`."""
    elsewhere = {
        Result: {"script", "script_hash", "strategy", "workload", "seed", "series", "ttft_cdf", "e2e_cdf", "params",
                 "timing", "all", "workers", "tiers", "users", "models", "reasons", "errors"},
        Group: {"ttft_s", "tpot_s", "e2e_s", "queue_s"},
        WorkerResult: {"id", "group"},
    }  # fmt: skip
    for kind, others in elsewhere.items():
        names = {field.name for field in msgspec.structs.fields(kind)}
        assert names - others <= set(METRICS)


def test_the_list_for_people_has_every_name() -> None:
    text = listed()
    assert [name for name in METRICS if f"  {name}" not in text] == []
    assert 'share["worker"]' in text and 'tier["premium"].p95_ttft_s' in text


def test_an_empty_result_has_counts_and_no_times() -> None:
    empty = metrics(result(all=Group(), workers=[worker("a", group=Group())], tiers={}, users={}, models={}))
    assert (empty["requests"], empty["cost"], empty["p95_ttft_s"]) == (0, 0.0, None)


def test_a_part_s_numbers_are_its_own() -> None:
    numbers = metrics(result(tiers={"a": group(10, 1.0), "b": group(20, 2.0)}))
    assert (numbers['tier["a"].mean_ttft_s'], numbers['tier["b"].mean_ttft_s']) == (1.0, 2.0)


def test_a_part_without_requests_has_no_goodput() -> None:
    idle = worker("gpu-1", group=Group())
    assert metrics(result(workers=[idle]))['worker["gpu-1"].goodput'] is None
