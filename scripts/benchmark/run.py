"""The runs: workers up, then every router in turn, each in a folder and session of its own.

Called by cli.py with the settings; hands a Results to report.py.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import measure
from .cases import CASES, Answer, Case, check_answer, wait_for_health
from .machine import Cores, choose_cores, free_ports
from .processes import Failed, Program, running
from .routers import ROUTERS, Launch, Router
from .workers import WORKER_COUNT, prepare_workers

DIRECT = "direct"  # no router: wrk asks a worker itself
WARM_UP_SECONDS = 1


@dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    routers: list[str]
    cases: list[str]
    seconds: int
    light_seconds: int
    connections: int
    repeat: int
    policy: str
    pin: bool
    peers_folder: Path


@dataclass(frozen=True)
class Sample:
    """The numbers of one router in one case, once."""

    router: str
    case: str
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    light_p50_ms: float  # one connection: no queue
    light_p99_ms: float
    other_cores: float  # used meanwhile by programs that are no part of this bench: noise
    # Of the router's process tree; None for the direct runs, which have no router.
    cpu_us: float | None = None  # per request, under full load
    light_cpu_us: float | None = None  # per request, one connection
    busy_cores: float | None = None  # CPU seconds per second, under full load
    peak_rss_mb: float | None = None
    process_count: int | None = None
    stream_reads: int | None = None  # in how many pieces one client read a paced stream


@dataclass(frozen=True)
class _Target:
    """What a case is measured on."""

    name: str
    case: Case
    port: int
    answer: Answer  # what one request brought, before the load
    program: Program | None  # None for the direct runs

    def cpu_us(self) -> int:
        return measure.tree_cpu_us(self.program.session) if self.program else 0


@dataclass(frozen=True)
class _LoadedRun:
    """One wrk run: what it saw, and the CPU time the router used in it."""

    load: measure.Load
    answered: float  # requests, those cut off at the end counted in part
    cpu_us: int
    others_cpu_us: int  # of programs that are no part of this bench
    wall_us: float


@dataclass
class Results:
    """Everything measured, and what was not."""

    cores: Cores
    samples: list[list[Sample]] = field(default_factory=list)  # one list per repeat
    skipped: dict[str, str] = field(default_factory=dict)  # not installed
    failed: dict[str, str] = field(default_factory=dict)  # "router: case" -> why
    versions: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)


class Bench:
    """One bench run: mock workers that stay up, and routers started one after another."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.cores = choose_cores(settings.pin)
        self.results = Results(self.cores)
        self.workers: Program | None = None
        self.worker_ports = free_ports(WORKER_COUNT)
        self.cases = [CASES[name] for name in settings.cases]
        for case in self.cases:
            self._body(case).write_bytes(case.body())

    def run(self) -> Results:
        routers = self._installed()
        folder = self._new_folder("workers")
        command = self.cores.pin_load(prepare_workers(folder, self.worker_ports))
        with running("mock workers", command, folder) as workers:
            self.workers = workers
            self._wait_until_ready(workers, self.worker_ports[0], "/health", 10.0)
            for repeat in range(self.settings.repeat):
                self.results.samples.append([])
                self._measure_direct()
                # Each repeat begins with another router, so that slow changes of the
                # machine do not always meet the same one.
                start = repeat % len(routers) if routers else 0
                for router in routers[start:] + routers[:start]:
                    self._measure_router(router, repeat)
        return self.results

    def _installed(self) -> list[Router]:
        found = []
        for name in self.settings.routers:
            router = ROUTERS[name]
            if reason := router.missing(self.settings.peers_folder):
                self.results.skipped[name] = reason
                _say(f"{name}: skipped: {reason}")
            else:
                self.results.versions[name] = router.version(self.settings.peers_folder)
                found.append(router)
        return found

    def _measure_direct(self) -> None:
        for case in self.cases:
            answer = check_answer(self.worker_ports[0], case)
            self._measure_case(_Target(DIRECT, case, self.worker_ports[0], answer, None))

    def _measure_router(self, router: Router, repeat: int) -> None:
        """Start ROUTER, measure all cases, stop it; a failure is kept in the results."""
        port, *spare_ports = free_ports(3)
        launch = Launch(
            folder=self._new_folder(f"{router.name}-{repeat}"),
            port=port,
            spare_ports=(spare_ports[0], spare_ports[1]),
            worker_ports=self.worker_ports[: router.worker_count],
            policy=self.settings.policy,
            peers_folder=self.settings.peers_folder,
        )
        command = self.cores.pin_router(router.prepare(launch))
        self.results.commands[router.name] = " ".join(command)
        with running(router.name, command, launch.folder, router.environment) as program:
            try:
                self._wait_until_ready(program, port, router.health_path, router.ready_seconds)
            except Failed as error:
                self._failed(router.name, "start", str(error))
                return
            for case in self.cases:
                try:
                    answer = check_answer(port, case)
                    self._measure_case(_Target(router.name, case, port, answer, program))
                    check_answer(port, case)
                except Failed as error:
                    ended = program.how_it_ended()
                    self._failed(router.name, case.name, f"{error}{ended and f'; {ended}'}")
                    if ended:
                        return

    def _wait_until_ready(self, program: Program, port: int, health_path: str, seconds: float) -> None:
        """Until the health path answers 200 and a chat request gets the right answer."""
        deadline = time.monotonic() + seconds
        while True:
            healthy = wait_for_health(port, health_path, min(deadline, time.monotonic() + 1))
            try:
                if healthy:
                    check_answer(port, CASES["short"])
                    return
                why = f"{health_path} did not answer 200"
            except Failed as error:
                why = str(error)
            if ended := program.how_it_ended():
                raise Failed(ended)
            if time.monotonic() > deadline:
                raise Failed(f"not ready in {seconds:.0f} s: {why}; it printed: {program.last_output()}")
            time.sleep(0.1)

    def _measure_case(self, target: _Target) -> None:
        """Warm-up, one connection, then full load; the sample goes into the results."""
        settings = self.settings
        body = self._body(target.case)
        measure.run_wrk(target.port, body, settings.connections, WARM_UP_SECONDS, self.cores)
        light = self._load(target, 1, settings.light_seconds)
        full = self._load(target, settings.connections, settings.seconds)
        sample = Sample(
            router=target.name,
            case=target.case.name,
            requests_per_second=full.answered / full.load.seconds,
            p50_ms=full.load.p50_ms,
            p99_ms=full.load.p99_ms,
            light_p50_ms=light.load.p50_ms,
            light_p99_ms=light.load.p99_ms,
            other_cores=max(0.0, full.others_cpu_us / full.wall_us),
            stream_reads=target.answer.read_count if target.case.paced else None,
        )
        cpu = ""
        if program := target.program:
            sample = replace(
                sample,
                cpu_us=full.cpu_us / full.answered,
                light_cpu_us=light.cpu_us / light.answered,
                busy_cores=full.cpu_us / full.wall_us,
                peak_rss_mb=measure.tree_peak_rss_kb(program.session) / 1024,
                process_count=measure.tree_size(program.session),
            )
            cpu = f", {sample.cpu_us:.1f} us CPU per request"
        self.results.samples[-1].append(sample)
        _say(f"{sample.router}: {sample.case}: {sample.requests_per_second:.0f} requests/s{cpu}")

    def _load(self, target: _Target, connections: int, seconds: int) -> _LoadedRun:
        """One wrk run, with the CPU time of the router before and after it."""
        body = self._body(target.case)
        others_before_us, cpu_before_us = self._others_cpu_us(target), target.cpu_us()
        started = time.monotonic()
        load = measure.run_wrk(target.port, body, connections, seconds, self.cores)
        wall_us = (time.monotonic() - started) * 1e6
        cpu_us = target.cpu_us() - cpu_before_us
        others_cpu_us = self._others_cpu_us(target) - others_before_us
        if not load.requests:
            raise Failed(f"no request was answered in {seconds} s: raise --seconds?")
        answered = _answered(load, target.answer, connections)
        return _LoadedRun(load, answered, cpu_us, others_cpu_us, wall_us)

    def _others_cpu_us(self, target: _Target) -> int:
        """CPU time of this machine less the bench's own: wrk, the workers, the router."""
        workers_cpu_us = measure.tree_cpu_us(self.workers.session) if self.workers else 0
        own_us = measure.bench_cpu_us() + workers_cpu_us + target.cpu_us()
        return measure.machine_cpu_us() - own_us

    def _failed(self, name: str, where: str, why: str) -> None:
        self.results.failed[f"{name}: {where}"] = why
        _say(f"{name}: {where}: failed: {why}")

    def _body(self, case: Case) -> Path:
        return self.folder / f"{case.name}.json"

    def _new_folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir()
        return folder


def _answered(load: measure.Load, answer: Answer, connections: int) -> float:
    """How many requests the router's work of a run went to.

    When the run ends, each connection has a request that is cut off. Where answers are long
    and few (paced streams, a slow router) these matter, so they count in part: by the bytes
    that came. The bounds are there because a stream may be framed in more or fewer bytes
    under load.
    """
    by_bytes = load.byte_count / answer.byte_count
    return min(max(by_bytes, load.requests), load.requests + connections)


def run_bench(settings: Settings) -> Results:
    """Run everything in a temporary folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="rbeerouter-bench-") as folder:
        return Bench(settings, Path(folder)).run()


def _say(text: str) -> None:
    """Progress goes to stderr: stdout is for the report."""
    print(text, file=sys.stderr, flush=True)
