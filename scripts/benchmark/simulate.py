"""How fast the policy lab is: a long simulation with a script, on one core, beside what core and script alone take.

Called by cli.py for `scripts/bench --simulate`. Processor time is told beside seconds, as it says less of what else the
machine did meanwhile.
"""

from __future__ import annotations

import random
import resource
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .machine import on_one_core
from .processes import Failed

REQUESTS, QUICK_REQUESTS = 1_000_000, 50_000
WORKERS, SLOTS = 16, 64
RATE = 80.0
"""Requests a second: the workers are about two thirds full."""
SCRIPT = b"""
function route_request(request, workers)
  local ready = workers:filter(function(worker) return worker.status == "ready" end)
  return ready:min_by("load")
end
"""
_ALONE = 20_000
"""Requests through core and script alone."""


@dataclass(frozen=True)
class Simulated:
    """What one run took. Sizes in MiB."""

    requests: int
    seconds: float
    cpu_s: float
    simulated_s: float
    alone_us: float
    early_rss: float
    late_rss: float


def run_simulation(requests: int, pin: bool) -> Simulated:
    """Simulates so many requests on one core of this machine. Raises Failed."""
    try:
        from rbeerouter.sim import world
    except ImportError as error:
        raise Failed(f"{error}: run it by the Python that rbeerouter is installed for") from None
    with on_one_core(pin):
        alone_us = _core_and_script_us()
        sizes: list[float] = []

        def progress(done: int, now: float) -> None:
            if done >= requests // 10 and not sizes:
                sizes.append(_rss())

        started, cpu = time.perf_counter(), time.process_time()
        result = world.run(_scenario(requests), progress)
        return Simulated(
            requests, time.perf_counter() - started, time.process_time() - cpu, result.simulated_s, alone_us,
            sizes[0] if sizes else _rss(), _rss(),
        )


def simulation_text(run: Simulated) -> str:
    cpu_us = run.cpu_s / run.requests * 1e6
    return "\n".join((
        f"{run.requests} requests over {WORKERS} workers with a Lua script, {run.simulated_s / 3600:.2f} hours of it:",
        f"  {run.seconds:.1f} s, {run.cpu_s:.1f} s of one core; {run.seconds / run.requests * 1e6:.1f} us and "
        f"{cpu_us:.1f} us a request",
        f"  core and script alone take {run.alone_us:.1f} us of it, {run.alone_us / cpu_us:.0%}",
        f"  peak memory {run.early_rss:.0f} MiB after a tenth, {run.late_rss:.0f} MiB at the end",
    ))  # fmt: skip


def _rss() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _config() -> Any:
    from rbeerouter.config.sections import Config, Control, Health, Limits, Probes, Routing, Server

    return Config(
        None, Server(), Control(), Routing(), Limits(), Probes(), Health(), workers=(), script=None, log=Path("none")
    )


def _workers() -> tuple[Any, ...]:
    from rbeerouter.core.types import WorkerSpec
    from rbeerouter.sim.types import Profile, SimWorker

    profile = Profile(step_s=0.02, sequence_s=0.0005, prefill_s=0.0001, slots=SLOTS, overhead_s=0.003)
    return tuple(
        SimWorker(
            WorkerSpec(f"w{number}", f"http://w{number}:8000", "vllm", models=("m",), max_concurrency=SLOTS), profile
        )
        for number in range(WORKERS)
    )


def _scenario(requests: int) -> Any:
    from rbeerouter.sim.draws import Lengths
    from rbeerouter.sim.types import Scenario
    from rbeerouter.sim.workload import Generated, Traffic

    traffic = Traffic(
        requests=requests, rate=RATE, models={"m": 1.0}, tokens_in=Lengths(mean=500.0), tokens_out=Lengths(mean=150.0)
    )
    return Scenario(_config(), _workers(), Generated(traffic, 1), script=SCRIPT)


def _core_and_script_us() -> float:
    """Processor time of a request that is decided and ends, with as many under way as in the simulation."""
    from rbeerouter.core.dispatch import Dispatcher, Job
    from rbeerouter.core.fleet import Fleet
    from rbeerouter.core.types import Env, Outcome, Report
    from rbeerouter.routing.decide import Decider
    from rbeerouter.routing.script import Script

    clock = [0.0]
    env = Env(lambda: clock[0], lambda: clock[0], random.Random(1))
    fleet = Fleet(None, env.rng)
    fleet.configure([worker.spec for worker in _workers()])
    for worker in fleet.ordered:
        fleet.apply(Report(worker.id, True, ("m",), 0.0))
    dispatcher = Dispatcher(fleet, Decider(fleet, Script(SCRIPT, "routing.lua", env), "least-request", env), env)
    served, under_way = Outcome(None, 200, True, delivered=True), deque()
    arrivals = list(_scenario(_ALONE).workload)
    cpu = time.process_time()
    for arrival in arrivals:
        clock[0] = arrival.at_s
        job = Job(arrival.request, arrival.at_s, arrival.at_s)
        dispatcher.on_request(job)
        under_way.append(job)
        if len(under_way) > WORKERS * SLOTS * 2 // 3:
            done = under_way.popleft()
            done.first_content, done.tokens_out = done.sent, 150
            dispatcher.on_outcome(done, served)
    return (time.process_time() - cpu) / len(arrivals) * 1e6
