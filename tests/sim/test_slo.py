"""What the slo strategies are named for, on simulated machines: more answers in time, on fewer machines.

Two fast machines and two that are about three times slower; chats of 400 prompt and 100 answer tokens in the median,
whose clients want the first token within a second and each other one within 50 ms.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from rbeerouter.config.sections import Slo, Strategies
from rbeerouter.sim.types import Arrival, Fault, Result, SimWorker, Targets
from rbeerouter.sim.world import run
from tests.sim.small import config, request, scenario, worker

TARGETS = Targets(ttft_s=1.0, tpot_s=0.05)
FAST = {"step_s": 0.012, "sequence_s": 0.0006, "prefill_s": 0.00006}
SLOW = {"step_s": 0.030, "sequence_s": 0.0020, "prefill_s": 0.00025}


class Chats:
    """So many of them, at random times, `rate` a second."""

    block_tokens = 16
    name = "chats"

    def __init__(self, count: int, rate: float, seed: int = 7) -> None:
        self.count: int | None = count
        self._rate, self._seed = rate, seed

    def __iter__(self) -> Iterator[Arrival]:
        rng, at = random.Random(self._seed), 0.0
        for number in range(self.count or 0):
            at += rng.expovariate(self._rate)
            tokens_in = min(8000, max(20, int(rng.lognormvariate(6.0, 1.0))))
            tokens_out = min(1000, max(5, int(rng.lognormvariate(4.6, 0.7))))
            told = int(tokens_in * rng.uniform(0.85, 1.2))
            asked = request(f"r-{number}", max_tokens=None, prompt_tokens=told)
            yield Arrival(at, asked, tokens_in, tokens_out)


def machines() -> list[SimWorker]:
    kinds = {"fast-1": FAST, "fast-2": FAST, "slow-1": SLOW, "slow-2": SLOW}
    return [worker(name, slots=64, batch_tokens=2048, **profile) for name, profile in kinds.items()]


@functools.cache
def simulated(strategy: str, rate: float, count: int = 1200, **slo: Any) -> Result:
    settings = config(routing={"strategies": Strategies(slo=Slo(**slo))})
    return run(scenario(Chats(count, rate), *machines(), config=settings, strategy=strategy, targets=TARGETS))


def test_near_saturation_more_answers_are_in_time_than_by_chance_or_by_fewest_requests() -> None:
    chance, fewest, least, holding = (
        simulated(name, 12.0).all.goodput for name in ("random", "least-request", "slo-least-load", "slo-least-load-pulling")
    )
    assert chance < 0.7 and fewest < 0.8
    assert least > 0.9 and holding > 0.9


def test_with_more_to_do_than_can_be_in_time_those_who_cannot_be_are_refused_and_the_others_are() -> None:
    fewest, refusing = simulated("least-request", 18.0), simulated("slo-least-load-pulling", 18.0, late="reject")
    assert refusing.all.goodput > fewest.all.goodput + 0.3
    assert refusing.all.goodput > 0.8 * refusing.all.ok / refusing.all.requests, "nearly all who were served were in time"
    assert refusing.all.rejected + refusing.all.ok == refusing.all.requests
    assert set(refusing.errors) == {"queue_timeout"}


def test_with_little_to_do_packing_lets_all_but_one_machine_sleep_and_is_in_time() -> None:
    spread, packed = simulated("least-request", 4.0), simulated("slo-pack-load", 4.0)
    assert packed.all.goodput > 0.98
    assert sum(one.busy for one in packed.workers) < 1.3
    assert sum(one.busy for one in spread.workers) > 3.5


def test_packing_uses_more_machines_when_there_is_more_to_do() -> None:
    little, more = (sum(one.busy for one in simulated("slo-pack-load", rate).workers) for rate in (4.0, 12.0))
    assert more > little + 1.5


class Impatient(Chats):
    """Of seven clients one goes away after 0.8 s."""

    def __iter__(self) -> Iterator[Arrival]:
        for number, one in enumerate(super().__iter__()):
            one.leaves_after_s = 0.8 if number % 7 == 0 else None
            yield one


@pytest.mark.parametrize("late", ["send", "reject"])
def test_whatever_goes_wrong_each_request_that_was_held_or_not_has_one_end(late: str) -> None:
    faults = (
        Fault("fast-1", "crash", 10.0, 8.0), Fault("slow-1", "refuse", 5.0, 20.0, 0.5),
        Fault("fast-2", "slow", 15.0, 10.0, 4.0), *(Fault(one.spec.id, "crash", 32.0, 3.0) for one in machines()),
    )  # fmt: skip
    settings = config(routing={"strategies": Strategies(slo=Slo(late=late))})
    result = run(
        scenario(Impatient(700, 16.0), *machines(), config=settings, strategy="slo", targets=TARGETS, faults=faults)
    )
    got = result.all
    assert got.requests == got.ok + got.rejected + got.failed + got.gone == 700
    assert got.queue_s.count > 0 and min(got.gone, got.failed, got.ok) > 0, "all of it came up"
