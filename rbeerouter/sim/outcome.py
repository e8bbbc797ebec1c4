"""A run that is over becomes a `Result`. `world.run` calls it once; it changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rbeerouter.sim.site import Site
from rbeerouter.sim.statistics import by_number, groups
from rbeerouter.sim.types import Result, Scenario, WorkerResult

if TYPE_CHECKING:
    from rbeerouter.sim.world import World


def result(scenario: Scenario, world: World, run_s: float) -> Result:
    """All that came of a scenario; `run_s` is what the simulation itself took."""
    statistics, ended_s = world.statistics, world.now
    together = statistics.all.group()
    workers = [_worker(site, world, together.requests, ended_s) for site in world.sites]
    script, series = world.script, world.timeline.series(ended_s)
    used = world.decider.script or script
    timing = {
        "run_s": round(run_s, 3), "requests_per_s": round(together.requests / run_s, 1) if run_s else None,
        "decision_us": _mean(world), "decision_p99_us": world.decision_us.quantile(0.99),
    }  # fmt: skip
    return Result(
        script=scenario.script_name if script is not None else None,
        script_hash=used.hash if used is not None else None,
        strategy=world.decider.strategy.name,
        workload=scenario.workload.name,
        seed=scenario.seed,
        simulated_s=ended_s,
        all=together,
        workers=workers,
        tiers=groups(statistics.tiers),
        users=statistics.shown_users(),
        models=groups(statistics.models),
        reasons=statistics.told_reasons(),
        errors=by_number(statistics.errors),
        script_errors=by_number(statistics.script_errors),
        fairness=statistics.fairness(),
        kv_hit_rate=_hit_rate(world.sites),
        requests_per_s=together.ok / ended_s if ended_s else 0.0,
        tokens_per_s=together.tokens_out / ended_s if ended_s else 0.0,
        machine_cost=_total([worker.machine_cost for worker in workers]),
        energy_wh=_total([worker.energy_wh for worker in workers]),
        series=series,
        ttft_cdf=statistics.all.ttft_s.cdf(),
        e2e_cdf=statistics.all.e2e_s.cdf(),
        params={name: one["value"] for name, one in script.params().items()} if script is not None else {},
        timing=timing,
    )


def _worker(site: Site, world: World, requests: int, ended_s: float) -> WorkerResult:
    worker, engine, profile = site.worker, site.engine, site.sim.profile
    group = world.statistics.by_worker[worker.id].group()
    per_hour, hours = worker.cost_per_hour, ended_s / 3600
    energy_wh = None
    if profile.watts_busy is not None and profile.watts_idle is not None:
        idle_s = max(0.0, ended_s - engine.busy_s)
        energy_wh = (profile.watts_busy * engine.busy_s + profile.watts_idle * idle_s) / 3600
    return WorkerResult(
        id=worker.id,
        attempts=site.attempts,
        failures=world.statistics.failures[worker.id],
        share=group.requests / requests if requests else 0.0,
        busy=engine.busy_s / ended_s if ended_s else 0.0,
        mean_in_flight=max(0.0, site.area / ended_s) if ended_s else 0.0,
        kv_hit_rate=_hit_rate([site]),
        machine_cost=None if per_hour is None else per_hour * hours,
        energy_wh=energy_wh,
        loads=engine.loads,
        group=group,
    )


def _hit_rate(sites: Sequence[Site]) -> float | None:
    """Prompt tokens that were found in a cache, of all that came to workers that have one."""
    cached = [site.engine for site in sites if site.sim.profile.prefix_cache]
    tokens = sum(engine.prompt_tokens for engine in cached)
    return sum(engine.cached_tokens for engine in cached) / tokens if tokens else None


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(world: World) -> float | None:
    sketch = world.decision_us
    return round(sketch.total / sketch.count, 3) if sketch.count else None
