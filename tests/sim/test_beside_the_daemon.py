"""The lab beside a real daemon: the same requests at the same moments, to workers that take as long and fail alike, get
the same workers, the same tries, the same waits and the same ends."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rbeerouter.config.loading import load
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.routing.strategies import NAMES
from rbeerouter.sim import world
from rbeerouter.sim.logged import log_of
from rbeerouter.sim.types import Arrival, Fault, Profile, Scenario, SimWorker
from tests.sim.small import Listed, request
from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon, read_log
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import post
from tests.wire.answers import CHAT, PROMPT

EVERY_S, CLOSE_S, PAUSE_S, LATE_S = 0.2, 0.02, 3.0, 0.03
"""Between two requests, between two of a burst, between two bursts; and how late this machine may be, as answers come in
the middle between two requests."""
STEP_S = 0.005
TRIES = 3
NO_LOOKS = {"interval_s": 60.0, "down_interval_s": 60.0}
"""Of the prober, whose moments are random."""
SEED = 10
SCRIPT = """
function route_request(request, workers)
  local n = state:incr("n")
  if n % 10 == 0 then return reject { status = 429, message = "enough" }, "tenth" end
  if n % 7 == 0 then return queue { timeout_s = 1.0 }, "any" end
  if n % 3 == 0 then return workers:sample(), "by chance" end
  return workers:min_by(function(w) return w.load end), "least"
end
"""


class Case(msgspec.Struct, frozen=True):
    """seconds: how long a worker takes for an answer, of each; places: its max_concurrency. behave: of workers that
    do something else than to answer; dies: (worker, after so many requests)."""

    seconds: tuple[float, ...]
    requests: int = 20
    places: int = 4
    behave: dict[int, str] = {}
    dies: tuple[int, int] | None = None
    strategy: str = "round-robin"
    script: str | None = None
    limits: dict[str, float] = {}
    burst: int = 1
    every_s: float = EVERY_S

    def moments(self) -> list[float]:
        """When requests come: one by one, or so many nearly at once and then nobody for a while."""
        if self.burst == 1:
            return [number * self.every_s for number in range(self.requests)]
        return [number // self.burst * PAUSE_S + number % self.burst * CLOSE_S for number in range(self.requests)]


# One that refuses rests for 1, 2 and 4 s, and then until a sweep sees it, which comes twice a second at no certain moment:
# no request may come in these half seconds. A burst's requests leave the queue by a sweep as well, before there is room.
CASES = {
    "healthy, in turn": Case((0.5, 0.9, 0.5)),
    "healthy, by load": Case((0.5, 1.3, 0.5), strategy="least-request"),
    "one is slow": Case((0.3, 2.9), strategy="least-request"),
    "one refuses all": Case((0.3, 0.3, 0.3), 10, behave={1: "503@1"}, every_s=0.95),
    "one dies": Case((0.5, 0.5, 0.3), dies=(2, 9)),
    "a script that queues, rejects and draws lots": Case((0.5, 0.9, 0.5), requests=30, script=SCRIPT),
    "bursts, with a queue": Case((0.8, 0.8), 16, 1, limits={"queue_s": 0.9}, strategy="least-request", burst=8),
    "too much, without a queue": Case((0.5, 0.5), 24, 1, limits={"queue_length": 0}, strategy="least-request"),
}


async def lived(case: Case, folder: Path) -> tuple[DaemonProcess, list[dict[str, Any]], float]:
    """The daemon's lines in order of arrival, and how late a request was sent at most."""
    workers = [FaultWorker("slow_first", name=f"w{at}") for at in range(len(case.seconds))]
    for at, worker in enumerate(workers):
        worker.delay_s = case.seconds[at]
        worker.behave = case.behave.get(at, "slow_first")
    entries = [{"id": one.name, "engine": "openai", "models": ["tiny"], "max_concurrency": case.places} for one in workers]
    sections = {"routing": {"strategy": case.strategy, "seed": random.Random(SEED).getrandbits(64), "log_users": "plain"}, "limits": case.limits, "probes": NO_LOOKS}
    late_s = 0.0
    async with asyncio.TaskGroup() as group, Together(workers):
        given = [{**entry, "url": worker.url} for entry, worker in zip(entries, workers, strict=True)]
        async with daemon(folder, *given, script=case.script, **sections) as router:
            loop = asyncio.get_running_loop()
            start = loop.time() + 0.2
            for number, moment in enumerate(case.moments()):
                if case.dies is not None and case.dies[1] == number:
                    await asyncio.sleep(start + (number - 0.5) * case.every_s - loop.time())
                    await workers[case.dies[0]].refuse()
                await asyncio.sleep(start + moment - loop.time())
                late_s = max(late_s, loop.time() - start - moment)
                group.create_task(post(router.port, CHAT, {**PROMPT, "user": f"u{number}"}, timeout_s=20.0))
            lines = await router.wait_requests(case.requests)
            return router, in_order(lines), late_s


class Together:
    def __init__(self, workers: list[FaultWorker]) -> None:
        self._workers = workers

    async def __aenter__(self) -> None:
        for worker in self._workers:
            await worker.__aenter__()

    async def __aexit__(self, *what: Any) -> None:
        for worker in self._workers:
            await worker.__aexit__(*what)


def simulated(case: Case, router: DaemonProcess) -> list[dict[str, Any]]:
    """The lines of the lab, in order of arrival."""
    config = load(router.config_path, strategies=NAMES, engines=tuple(ENGINES))
    slow = Profile(step_s=STEP_S, prefill_s=0.0, slots=1000)
    workers = tuple(
        SimWorker(spec, msgspec.structs.replace(slow, step_s=slow.step_s * seconds / case.seconds[0]))
        for spec, seconds in zip(config.workers, case.seconds, strict=True)
    )
    kinds = {"503@1": "refuse"}
    faults = [Fault(f"w{at}", kinds[what], 0.0, 1e6) for at, what in case.behave.items()]
    if case.dies is not None:
        faults.append(Fault(f"w{case.dies[0]}", "crash", (case.dies[1] - 0.5) * case.every_s, 1e6))
    asked = [
        Arrival(moment, request(f"r{number}", model="tiny", user_id=f"u{number}", stream=False), 10,
                round(case.seconds[0] / STEP_S))
        for number, moment in enumerate(case.moments())
    ]  # fmt: skip
    made = Scenario(
        config, workers, Listed(*asked), None if case.script is None else case.script.encode(), strategy=case.strategy,
        faults=tuple(faults), seed=SEED,
    )  # fmt: skip
    path = router.folder / "simulated.log"
    with log_of(path, config) as recorder:
        world.run(made, on_line=recorder.record)
    return in_order([line for line in read_log(path) if line["event"] == "request"])


def in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(lines, key=lambda line: int(line["user"][1:]))


def story_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """What was decided about a request, who tried it with what success, whether it waited, and how it ended."""
    tries = [(one["worker_id"], one["result"]) for one in line.get("tries", ())]
    return (
        line.get("worker"), line.get("by"), line.get("reason"), tries, bool(line.get("queue_ms")), line["outcome"],
        line["status"], line.get("error"),
    )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@story
async def test_a_simulated_request_fares_as_a_real_one(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    for attempt in range(TRIES):
        (folder := tmp_path / str(attempt)).mkdir()
        router, lines, late_s = await lived(case, folder)
        lab = simulated(case, router)
        assert len(lines) == len(lab) == case.requests
        if late_s < LATE_S or attempt == TRIES - 1:            # else this machine was busy with something else
            assert [story_of(line) for line in lab] == [story_of(line) for line in lines]
            return
