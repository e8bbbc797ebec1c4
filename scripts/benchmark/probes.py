"""What probes and scrapes cost: the daemon in front of 64 workers with vLLM's /metrics page, at a constant load.

Called by cli.py for `scripts/bench --probes`. Daemons that probe as by default, and such that hardly ever do, are
measured in turn, so that slow changes of the machine meet both alike.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import measure
from .cases import CASES, check_answer, wait_for_health
from .machine import choose_cores, free_ports
from .pace import constant_load
from .processes import Failed, Program, running
from .routers import ROUTERS, Launch
from .workers import SCRAPES, WORKER_COUNT, prepare_workers

ROUTER = "rbeerouter-64"
REQUESTS_PER_S = 500
CONNECTIONS = 256
SETTLE_S = 2.0
ENGINES_A_PAGE = 3
"""A vLLM with so many engines behind one port gives a page of some 150 kB."""
METRICS = Path(__file__).resolve().parents[2] / "tests" / "dialects" / "engines" / "payloads" / "vllm_metrics.txt"
HARDLY_EVER = "\n[probes]\ninterval_s = 3600\nmetrics_s = 3600\n"


@dataclass(frozen=True)
class Phase:
    """One stretch of load."""

    probing: bool
    cpu_share: float
    scrapes_per_s: float
    latencies_ms: list[float]


@dataclass
class ProbeResults:
    page_bytes: int
    phases: list[Phase] = field(default_factory=list)

    def cpu_share(self, probing: bool) -> float:
        """Of one core, in the middle of the phases."""
        return statistics.median(phase.cpu_share for phase in self.phases if phase.probing == probing)

    def scrapes_per_s(self, probing: bool) -> float:
        return statistics.median(phase.scrapes_per_s for phase in self.phases if phase.probing == probing)

    def quantile_ms(self, probing: bool, share: float) -> float:
        """Of all requests of all phases."""
        times = sorted(time_ms for phase in self.phases if phase.probing == probing for time_ms in phase.latencies_ms)
        return times[min(len(times) - 1, int(len(times) * share))]


def metrics_page() -> str:
    """vLLM's page as it is, with the lines of more engines."""
    lines = []
    for line in METRICS.read_text().splitlines():
        if 'engine="0"' in line:
            lines += [line.replace('engine="0"', f'engine="{number}"') for number in range(ENGINES_A_PAGE)]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def run_probes(seconds: int, repeat: int, pin: bool) -> ProbeResults:
    page = metrics_page()
    results = ProbeResults(len(page))
    cores = choose_cores(pin)
    with tempfile.TemporaryDirectory(prefix="rbeerouter-bench-") as name:
        folder = Path(name)
        worker_folder = folder / "workers"
        worker_folder.mkdir()
        worker_ports = free_ports(WORKER_COUNT)
        command = cores.pin_load(prepare_workers(worker_folder, worker_ports, page))
        with running("mock workers", command, worker_folder):
            _wait(worker_ports[0], "mock workers")
            if cores.load:
                os.sched_setaffinity(0, {int(cores.load)})
            for number in range(repeat * 2):
                probing = number % 2 == 1
                port, *spare = free_ports(3)
                router_folder = folder / f"router-{number}"
                router_folder.mkdir()
                launch = Launch(router_folder, port, (spare[0], spare[1]), worker_ports, "round_robin", folder)
                command = cores.pin_router(ROUTERS[ROUTER].prepare(launch))
                _configure(router_folder / "rbeerouter.toml", probing)
                with running(ROUTER, command, router_folder, ROUTERS[ROUTER].environment) as program:
                    _wait(port, ROUTER)
                    check_answer(port, CASES["short"])
                    time.sleep(SETTLE_S)
                    results.phases.append(_phase(program, port, probing, seconds, worker_folder / SCRAPES))
    return results


def _configure(path: Path, probing: bool) -> None:
    text = path.read_text().replace('models = ["tiny"]\n', 'models = ["tiny"]\nengine = "vllm"\n')
    path.write_text(text if probing else text + HARDLY_EVER)


def _phase(program: Program, port: int, probing: bool, seconds: int, scrapes: Path) -> Phase:
    cpu_us, began = measure.tree_cpu_us(program.session), time.monotonic()
    before = scrapes.read_bytes().count(b"\n")
    latencies = asyncio.run(constant_load(port, CASES["short"].body(), REQUESTS_PER_S, CONNECTIONS, seconds))
    wall_us = (time.monotonic() - began) * 1e6
    scraped = scrapes.read_bytes().count(b"\n") - before
    used_us = measure.tree_cpu_us(program.session) - cpu_us
    return Phase(probing, used_us / wall_us, scraped * 1e6 / wall_us, latencies)


def _wait(port: int, name: str) -> None:
    if not wait_for_health(port, "/health", time.monotonic() + 15.0):
        raise Failed(f"{name}: not ready in 15 s")


def probes_text(results: ProbeResults) -> str:
    """The report."""
    off, on = results.cpu_share(False), results.cpu_share(True)
    lines = [
        f"Probes and scrapes: {WORKER_COUNT} workers with a /metrics page of {results.page_bytes // 1000} kB, "
        f"{REQUESTS_PER_S} requests/s of 1 KB, {len(results.phases) // 2} times each way",
        "",
        f"{'':24}{'hardly ever':>14}{'by default':>14}{'difference':>14}",
        f"{'CPU, % of one core':24}{off * 100:14.1f}{on * 100:14.1f}{(on - off) * 100:14.1f}",
    ]
    seldom, often = results.scrapes_per_s(False), results.scrapes_per_s(True)
    lines.insert(3, f"{'/metrics pages a second':24}{seldom:14.1f}{often:14.1f}{often - seldom:14.1f}")
    for title, share in (("p50, ms", 0.5), ("p99, ms", 0.99)):
        without, with_them = results.quantile_ms(False, share), results.quantile_ms(True, share)
        lines.append(f"{title:24}{without:14.2f}{with_them:14.2f}{with_them - without:14.2f}")
    return "\n".join(lines)
