"""Holds the simulated engine against a real one: a llama.cpp server behind the real daemon.

Called by tests/e2e/test_llama_truth.py; as `python -m tests.support.truth` it prints the table of docs/calibrate.md. One
measurement plays four loads one after the other: one to learn from, one to foretell, another to learn from, and the one
to foretell again, request for request. What differs between the two equal ones is the machine's doing, so it tells how
exactly anybody could foretell them; and a machine that becomes slower does so to all four.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from rbeerouter.cli import main as rbeerouter
from rbeerouter.config.loading import load
from rbeerouter.core.dispatch import Job
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.record import Line
from rbeerouter.recorded import read_log, request_of, seconds
from rbeerouter.sim import world
from rbeerouter.sim.calibrate import quantile
from rbeerouter.sim.scenario_file import read_workers
from rbeerouter.sim.types import Arrival, Profile, Scenario, SimWorker
from tests.sim.small import Listed
from tests.support.aio import run
from tests.support.daemon import daemon
from tests.support.llama import llama_process, write_tiny_gguf
from tests.support.load import Ask, asks, send

SLOTS = 4
WARM_UP = 4
LEARNED_PER_S, FORETOLD_PER_S = 2.5, 3.2
LEARNED_S, FORETOLD_S = 18.0, 15.0
TIMEOUT_S = 240.0
LEARNED, FORETOLD = (0, 2), (1, 3)
"""Which of the four loads."""
Times = tuple[float, float]
"""Until the first content and until the end of a request, seconds from its arrival."""
QUANTILES = {"TTFT p50": (0, 0.5), "TTFT p95": (0, 0.95), "e2e p50": (1, 0.5), "e2e p95": (1, 0.95)}


class Truth(NamedTuple):
    """What came of a measurement, by name of QUANTILES. observed: seconds; errors: (foretold - observed) / observed;
    noise: how much longer the second of the two equal loads took than the first, as a share of both; its "pace" is how
    much slower the machine was in the second of the loads to learn from. profile: as it was learned. learned, foretold:
    requests."""

    observed: dict[str, float]
    errors: dict[str, float]
    noise: dict[str, float]
    profile: Profile
    learned: int
    foretold: int

    @property
    def worst(self) -> float:
        return max(map(abs, self.errors.values()))

    @property
    def noisiest(self) -> float:
        return max(map(abs, self.noise.values()))


def write_model(folder: Path) -> Path:
    """One whose token takes some 3 to 8 ms on one core."""
    return write_tiny_gguf(folder / "truth.gguf", width=256, layers=8, heads=4, feed_forward=1024)


def measure(model: Path, folder: Path, seed: int) -> Truth:
    """One measurement, of about a minute. Raises AssertionError where the log is not what was sent."""
    loads = [
        asks(seed, LEARNED_PER_S, LEARNED_S),
        foretold := asks(seed + 1, FORETOLD_PER_S, FORETOLD_S),
        asks(seed + 2, LEARNED_PER_S, LEARNED_S),
        foretold,
    ]
    with at_the_front():
        parts = run(_play(model, folder, loads, seed), TIMEOUT_S)
    learned = folder / "learned.log"
    learned.write_bytes(msgspec.json.Encoder().encode_lines(sorted([*parts[0], *parts[2]], key=_ended)))
    workers = folder / "workers.toml"
    assert rbeerouter(["routing", "calibrate", "--log", str(learned), "--slots", str(SLOTS), "--out", str(workers)]) == 0
    profile = read_workers(workers)["llama"].profile(Profile())
    return _truth(profile, parts, [_foretold(part, folder / "config.toml", profile) for part in parts])


@contextmanager
def at_the_front() -> Iterator[None]:
    """This process, and those that it starts, go before whatever else the machine has to do, where that is allowed and
    leaves a core to others. They are three, of which only the engine is busy, with one thread."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    if (os.cpu_count() or 1) >= 2:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


async def _play(model: Path, folder: Path, loads: list[list[Ask]], seed: int) -> list[list[Line]]:
    """The lines that the daemon wrote of each load, in order of arrival."""
    with llama_process(model, slots=SLOTS) as (url, _):
        async with daemon(folder, {"id": "llama", "url": url}) as router:
            warm_up = [Ask(0.5 * at, 100, 20) for at in range(WARM_UP)]
            for number, load in enumerate([warm_up, *loads]):
                answers = await send(router.port, load, seed=seed + number)
                assert {answer.status for answer in answers} == {200}
            await router.wait_requests(WARM_UP + sum(map(len, loads)))
    lines = sorted(read_log(router.log_path), key=lambda line: line.time)[WARM_UP:]
    parts = []
    for load in loads:
        part, lines = lines[: len(load)], lines[len(load) :]
        assert sorted(line.tokens_out or 0 for line in part) == sorted(ask.tokens_out for ask in load)
        parts.append(part)
    return parts


def _ended(line: Line) -> float:
    return seconds(line.time) + (line.total_ms or 0.0) / 1000


def _truth(profile: Profile, parts: list[list[Line]], simulated: list[list[Times]]) -> Truth:
    seen = [_observed(part) for part in parts]
    observed, errors, noise = {}, {}, {}
    for name, (which, share) in QUANTILES.items():
        first, second = (quantile((times[which] for times in seen[part]), share) for part in FORETOLD)
        both = quantile((times[which] for part in FORETOLD for times in seen[part]), share)
        observed[name] = both
        errors[name] = quantile((times[which] for part in FORETOLD for times in simulated[part]), share) / both - 1
        noise[name] = (second - first) / both
    paces = [
        quantile((end / ours for (_, end), (_, ours) in zip(seen[part], simulated[part], strict=True)), 0.5)
        for part in LEARNED
    ]
    noise["pace"] = 2 * (paces[1] - paces[0]) / sum(paces)
    counts = (sum(len(parts[part]) for part in which) for which in (LEARNED, FORETOLD))
    return Truth(observed, errors, noise, profile, *counts)


def _observed(part: list[Line]) -> list[Times]:
    return [((line.ttft_ms or 0.0) / 1000, (line.total_ms or 0.0) / 1000) for line in part]


def _foretold(part: list[Line], config_path: Path, profile: Profile) -> list[Times]:
    """What the simulated world makes of the same requests. It is told when they came, how long they were, and what the
    daemon's own configuration says."""
    config = load(config_path, engines=tuple(ENGINES))
    worker = SimWorker(msgspec.structs.replace(config.workers[0], engine="llamacpp"), profile)
    start = seconds(part[0].time)
    arrivals = [
        Arrival(seconds(line.time) - start, request_of(line), line.tokens_in or 0, line.tokens_out or 0) for line in part
    ]
    times: dict[str, Times] = {}

    def ended(job: Job) -> None:
        assert job.first_content is not None
        assert job.finished is not None
        times[job.request.id] = (job.first_content - job.arrived, job.finished - job.arrived)

    world.run(Scenario(config, (worker,), Listed(*arrivals)), on_line=ended)
    return [times[line.request_id] for line in part]


def row(truth: Truth) -> str:
    """A row of the table in docs/calibrate.md."""
    cells = [f"{truth.observed[name] * 1000:.0f} ms, {truth.errors[name]:+.0%}, {truth.noise[name]:+.0%}" for name in QUANTILES]
    return " | ".join(["", f"{truth.noise['pace']:+.0%}", f"{truth.learned} + {truth.foretold}", *cells, ""]).strip()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.truth", description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="measurements of about a minute each (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        model = write_model(Path(name))
        for at in range(given.times):
            folder = Path(name, str(at))
            folder.mkdir()
            truth = measure(model, folder, given.seed + 10 * at)
            print(row(truth), flush=True)


if __name__ == "__main__":
    main()
