"""The fault drills of docs/drills.md: three failures that other routers had appear with a naive policy, and not with
what this one gives. Run on the very files that the page tells to run, with seeds of their own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rbeerouter.cli.scenario import scenario_of, scenario_options
from rbeerouter.sim import world
from rbeerouter.sim.types import Result, WorkerResult

DRILLS = Path(__file__).resolve().parents[2] / "docs" / "lab"
SEED = 1
"""Other seeds differ by a few percent."""


def drilled(config: str, scenario: str, script: str, *more: str) -> Result:
    parser = argparse.ArgumentParser()
    scenario_options(parser)
    options = parser.parse_args([
        "--config", str(DRILLS / config), "--scenario", str(DRILLS / scenario), "--script", str(DRILLS / script),
        "--seed", str(SEED), *more,
    ])  # fmt: skip
    result = world.run(scenario_of(options))
    assert result.script_errors == {}
    return result


def worker(result: Result, name: str) -> WorkerResult:
    return next(worker for worker in result.workers if worker.id == name)


def test_a_worker_that_refuses_at_once_draws_all_traffic_unless_it_is_left_alone() -> None:
    """Both sides run the same script: who has the fewest requests under way gets the next one."""
    naive = drilled("fleet-without-blame.toml", "fast-503.toml", "least-in-flight.lua")
    ours = drilled("fleet.toml", "fast-503.toml", "least-in-flight.lua")
    assert worker(naive, "two").attempts > 2 * worker(naive, "one").attempts
    assert naive.all.failed > 0.4 * naive.all.requests
    assert ours.all.failed + ours.all.rejected < 0.005 * ours.all.requests
    assert worker(ours, "two").failures < 0.02 * worker(naive, "two").failures


def test_a_worker_that_refuses_does_not_spoil_what_the_others_can_serve_when_they_are_full() -> None:
    ours = drilled("fleet.toml", "fast-503.toml", "least-in-flight.lua", "--rate", "7")
    assert ours.all.failed == 0
    assert set(ours.errors) == {"queue_timeout"}


def test_counts_that_forget_failed_and_left_requests_drift_and_those_of_the_core_do_not() -> None:
    """Looked at in the last third of the time, minutes after the last fault: all three workers are well and equal."""
    naive = in_flight_at_last(drilled("fleet.toml", "drift.toml", "own-counts.lua"))
    ours = in_flight_at_last(drilled("fleet.toml", "drift.toml", "least-in-flight.lua"))
    assert max(naive.values()) > 2.5 * min(naive.values())
    assert max(ours.values()) < 1.5 * min(ours.values())


def in_flight_at_last(result: Result) -> dict[str, float]:
    """{worker: its mean requests in flight in the last third of the time}."""
    found = {}
    for name, values in result.series.in_flight.items():
        last = values[len(values) * 2 // 3 :]
        found[name] = sum(last) / len(last)
    return found


def test_affinity_drowns_one_worker_in_a_hot_prefix_and_a_bound_keeps_the_cache_without_it() -> None:
    naive = drilled("fleet.toml", "hot-prefix.toml", "affinity.lua")
    ours = drilled("fleet.toml", "hot-prefix.toml", "bounded-affinity.lua")
    assert max(one.share for one in naive.workers) > 0.5 and min(one.share for one in naive.workers) < 0.05
    assert naive.all.rejected > 0.1 * naive.all.requests
    assert ours.all.rejected + ours.all.failed == 0
    assert max(one.share for one in ours.workers) < 0.45
    assert naive.all.ttft_s.p50 is not None and ours.all.ttft_s.p50 is not None
    assert naive.all.ttft_s.p50 > 10 * ours.all.ttft_s.p50
    assert ours.kv_hit_rate is not None and ours.kv_hit_rate > 0.85
