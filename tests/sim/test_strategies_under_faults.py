"""Every strategy while workers crash, stall, refuse and lie, and clients leave: every request ends, nothing is counted
twice, and nobody remembers a job that is over."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterable

import pytest

from rbeerouter.config.sections import Strategies
from rbeerouter.core.dispatch import Job
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Wishes
from rbeerouter.routing.strategies import STRATEGIES
from rbeerouter.routing.strategies.fairness import TokenLedger
from rbeerouter.sim.types import Arrival, Fault, Scenario
from rbeerouter.sim.world import World
from tests.sim.small import Listed, config, request, worker
from tests.support.builders import fleet, job

REQUESTS = 250
FAULTS = tuple(
    Fault(f"w{number % 4}", kind, 1.0 + 2.0 * number, 3.0, amount)
    for number, (kind, amount) in enumerate(
        (("crash", 1.0), ("refuse", 0.5), ("stall", 0.5), ("cut", 1.0), ("slow", 3.0), ("lie", 1.0))
    )
)


def traffic(seed: int) -> Listed:
    """Requests of all kinds, somewhat more than four workers can do."""
    rng, at, rows = random.Random(seed), 0.0, []
    for number in range(REQUESTS):
        at += rng.expovariate(25.0)
        asked = request(
            f"r-{number}", user_id=rng.choice((None, "a", "b", "c")), stream=rng.random() < 0.6,
            prompt_tokens=rng.choice((None, 10, 500)), max_tokens=rng.choice((None, 5, 100)),
            session_id=rng.choice((None, "s-1", "s-2")), client=rng.choice((None, "10.0.0.1")),
            wishes=rng.choice((None, Wishes(slo_ttft_ms=300.0), Wishes(slo_e2e_ms=900.0))),
            timeout_s=rng.choice((None, None, 2.0)),
        )  # fmt: skip
        rows.append(
            Arrival(at, asked, rng.randint(1, 600), rng.randint(1, 60), leaves_after_s=rng.choice((None, None, 0.5)))
        )
    return Listed(*rows)


def jobs_in(memories: Iterable[Memory]) -> int:
    """How many jobs can be reached from there, through containers and what strategies are made of."""
    seen, found, left = set(), 0, list(memories)
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Job):
            found += 1
        elif isinstance(one, dict | list | tuple | set) or type(one).__module__.startswith("rbeerouter.routing"):
            left += gc.get_referents(one)
    return found


def test_a_job_that_somebody_remembers_is_found() -> None:
    ledger, one = TokenLedger(), job()
    ledger.sent(one, fleet("w1").ordered[0], 0.0)
    assert jobs_in([ledger]) == 1


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_request_ends_and_nobody_remembers_it(name: str, strict: bool) -> None:
    settings = config(
        routing={"strategies": Strategies(strict=strict)}, limits={"queue_s": 3.0, "first_content_s": 2.0, "gap_s": 1.0}
    )
    workers = tuple(worker(f"w{number}", slots=4) for number in range(4))
    ended: list[str] = []
    world = World(
        Scenario(settings, workers, traffic(1), strategy=name, faults=FAULTS), on_line=lambda job: ended.append(job.state)
    )
    world.play()
    queue = world.dispatcher.queue
    assert (len(ended), set(ended)) == (REQUESTS, {"done", "failed", "cancelled"})
    assert [one.in_flight for one in world.fleet.ordered] == [0, 0, 0, 0]
    assert (queue.waiters, queue._lanes, queue._accounts, queue._waiting) == ({}, {}, {}, {})
    assert jobs_in(world.decider.memories.all) == 0
