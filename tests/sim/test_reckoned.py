"""Every number of a result is reckoned once more, by going through all requests of a run one by one."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import pytest

from rbeerouter.core.dispatch import CANCELLED, DONE, Job
from rbeerouter.sim import staff, world
from rbeerouter.sim.draws import Lengths
from rbeerouter.sim.sketch import ERROR
from rbeerouter.sim.types import Fault, Group, Profile, Quantiles, Result, Scenario, SimWorker, Targets
from rbeerouter.sim.workload import Generated, Traffic
from tests.sim.small import config, scenario

TARGETS = Targets(ttft_s=2.0, tpot_s=0.08, e2e_s=30.0)


def lab() -> tuple[SimWorker, ...]:
    """The home lab, one of whose workers has a cache, and one of whom costs by the token."""
    first, second, *others = staff.sim_workers(staff.HOME_LAB, {})
    cached = Profile(**{name: getattr(second.profile, name) for name in Profile.__struct_fields__} | {"prefix_cache": True})
    return first, SimWorker(second.spec, cached, second.footprints), *others


def home(requests: int, rate: float, *faults: Fault, patience_s: float | None = None) -> Scenario:
    traffic = Traffic(
        requests=requests, rate=rate, models=staff.usual_models(lab()), tiers={"gold": 1, "free": 3}, patience_s=patience_s,
        tokens_out=Lengths("lognormal", mean=60.0, sigma=1.0),
    )  # fmt: skip
    return scenario(Generated(traffic, 3), *lab(), config=config(limits={"queue_s": 10.0}), faults=faults, targets=TARGETS)


RUNS = {
    "a usual day": lambda: home(1500, 3.0),
    "too much, and all goes wrong": lambda: home(
        1500, 9.0, Fault("worker-server", "refuse", 10.0, 60.0, 0.7), Fault("worker-gaming-pc", "crash", 40.0, 30.0),
        Fault("worker-macbook", "stall", 20.0, 60.0, 0.5), Fault("worker-old-pc", "cut", 5.0, 50.0),
        Fault("worker-mini", "slow", 0.0, 100.0, 5.0), patience_s=25.0,
    ),
    "one request": lambda: home(1, 1.0),
}  # fmt: skip


def ran(made: Scenario) -> tuple[Result, list[Job]]:
    jobs: list[Job] = []
    return world.run(made, on_line=jobs.append), jobs


def good(job: Job) -> bool:
    return job.state == DONE and job.status < 400


def tpot(job: Job) -> float | None:
    assert job.finished is not None and job.first_content is not None and job.tokens_out is not None
    return (job.finished - job.first_content) / (job.tokens_out - 1) if job.tokens_out > 1 else None


def ttft(job: Job) -> float | None:
    return job.first_content - job.arrived if job.first_content is not None and job.request.stream else None


def on_target(job: Job) -> bool:
    assert job.finished is not None
    first, each = ttft(job), tpot(job)
    soon = (first is None or first <= 2.0) and (each is None or each <= 0.08)
    return soon and job.finished - job.arrived <= 30.0


def check_quantiles(found: Quantiles, values: Sequence[float]) -> None:
    ordered = sorted(values)
    assert found.count == len(ordered)
    if not ordered:
        assert found == Quantiles()
        return
    assert found.mean == pytest.approx(statistics.fmean(ordered)) and found.most == ordered[-1]
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)):
        true = ordered[math.floor(share * (len(ordered) - 1))]
        assert getattr(found, name) == pytest.approx(true, rel=ERROR * 1.01, abs=1e-9), name


def check_group(group: Group, jobs: Sequence[Job]) -> None:
    served = [job for job in jobs if good(job)]
    assert (group.requests, group.ok) == (len(jobs), len(served))
    assert group.gone == sum(job.state == CANCELLED for job in jobs)
    assert group.ok + group.gone + group.rejected + group.failed == group.requests
    assert group.retried == sum(len(job.attempts) > 1 for job in jobs)
    assert group.tokens_in == sum(job.tokens_in or 0 for job in served)
    assert group.tokens_out == sum(job.tokens_out or 0 for job in served)
    assert group.goodput == (sum(map(on_target, served)) / len(jobs) if jobs else 0.0)
    check_quantiles(group.ttft_s, [first for job in jobs if (first := ttft(job)) is not None])
    check_quantiles(group.e2e_s, [job.finished - job.arrived for job in served if job.finished is not None])
    check_quantiles(group.queue_s, [job.queue_s for job in jobs])
    check_quantiles(group.tpot_s, [each for job in served if (each := tpot(job))])


def grouped(jobs: Sequence[Job], key: Callable[[Job], str | None]) -> dict[str, list[Job]]:
    found: dict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        name = key(job)
        if name is not None:
            found[name].append(job)
    return found


@pytest.mark.parametrize("name", RUNS)
def test_what_requests_got_is_what_they_add_up_to(name: str) -> None:
    result, jobs = ran(RUNS[name]())
    check_group(result.all, jobs)
    parts = {
        "tiers": lambda job: job.request.metadata.get("tier"), "users": lambda job: job.request.user_id,
        "models": lambda job: job.request.asked_model or job.request.model,
    }  # fmt: skip
    for part, key in parts.items():
        by_name = grouped(jobs, key)
        groups = getattr(result, part)
        assert set(groups) == set(by_name)
        for one, group in groups.items():
            check_group(group, by_name[one])
    assert sum(result.reasons.values()) == len(jobs)
    assert sum(result.errors.values()) == len(jobs) - result.all.ok
    ends = [job.finished for job in jobs if job.finished is not None]
    assert result.simulated_s == max(ends)
    assert result.requests_per_s == pytest.approx(result.all.ok / max(ends))
    assert result.tokens_per_s == pytest.approx(result.all.tokens_out / max(ends))
    tokens = [sum((job.tokens_in or 0) + (job.tokens_out or 0) for job in some if good(job))
              for some in grouped(jobs, lambda job: job.request.user_id).values()]  # fmt: skip
    fair = sum(tokens) ** 2 / (len(tokens) * sum(one * one for one in tokens)) if len(tokens) > 1 else None
    assert result.fairness == (fair if fair is None else pytest.approx(fair))


@pytest.mark.parametrize("name", RUNS)
def test_what_workers_did_is_what_their_attempts_add_up_to(name: str) -> None:
    made = RUNS[name]()
    result, jobs = ran(made)
    attempts = [attempt for job in jobs for attempt in job.attempts]
    sent = Counter(attempt.worker_id for attempt in attempts)
    failed = Counter(one.worker_id for one in attempts if one.result not in ("ok", "client_gone"))
    last = grouped(jobs, lambda job: job.tried[-1] if job.tried else None)
    for worker, sim in zip(result.workers, made.workers, strict=True):
        check_group(worker.group, last.get(worker.id, []))
        assert (worker.attempts, worker.failures) == (sent[worker.id], failed[worker.id])
        assert worker.share == pytest.approx(len(last.get(worker.id, [])) / len(jobs))
        seconds = sum(one.duration_ms for one in attempts if one.worker_id == worker.id) / 1000
        assert worker.mean_in_flight * result.simulated_s == pytest.approx(seconds, rel=1e-3, abs=1e-3)
        assert summed(result, result.series.in_flight[worker.id]) == pytest.approx(seconds, rel=1e-3, abs=1e-3)
        per_hour, profile = sim.spec.cost_per_hour, sim.profile
        assert worker.machine_cost == (None if per_hour is None else pytest.approx(per_hour * result.simulated_s / 3600))
        if profile.watts_busy is not None and profile.watts_idle is not None:
            watts = worker.busy * profile.watts_busy + (1 - worker.busy) * profile.watts_idle
            assert worker.energy_wh == pytest.approx(watts * result.simulated_s / 3600)


@pytest.mark.parametrize("name", RUNS)
def test_what_is_drawn_over_time_adds_up_to_the_whole(name: str) -> None:
    result, jobs = ran(RUNS[name]())
    series = result.series
    assert summed(result, series.arrivals) == pytest.approx(len(jobs))
    assert summed(result, series.waiting) == pytest.approx(sum(job.queue_s for job in jobs), rel=1e-6, abs=1e-6)
    by_interval: dict[int, list[float]] = defaultdict(list)
    for job in jobs:
        first = ttft(job)
        if first is not None and job.finished is not None:
            by_interval[int(job.finished / series.every_s)].append(first)
    for index, found in enumerate(series.ttft_p95_s):
        values = sorted(by_interval[index])
        true = values[math.floor(0.95 * (len(values) - 1))] if values else None
        assert found == (None if true is None else pytest.approx(true, rel=ERROR * 1.01))
    first = sorted(first for job in jobs if (first := ttft(job)) is not None)
    for value, share in result.ttft_cdf:
        below = [sum(one <= value * times for one in first) / len(first) for times in (0.98, 1.02)]
        assert below[0] - 1e-9 <= share <= below[1] + 1e-9


def summed(result: Result, values: Sequence[float]) -> float:
    """A mean of each interval times how long that was; the last one ends with the simulation."""
    every_s = result.series.every_s
    return sum(value * min(every_s, result.simulated_s - at * every_s) for at, value in enumerate(values))
