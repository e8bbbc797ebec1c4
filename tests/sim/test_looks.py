"""Probes of simulated workers: who is looked at when, and what is told."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from rbeerouter.core.types import Report
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.sim import world
from rbeerouter.sim.looks import TOLD
from rbeerouter.sim.types import Fault
from tests.sim.small import Listed, Poisson, arrival, config, scenario, worker


def reports(engine: str = "vllm", faults: tuple[Fault, ...] = (), until_s: float = 100.0, **sections: object) -> list[Report]:
    """Everything that the fleet is told of one worker, on which some requests are always under way."""
    run = world.World(scenario(
        Listed(*[arrival(n, f"r{n}", 300) for n in range(int(until_s))]), worker("w0", engine, slots=8),
        faults=faults, config=config(**sections),
    ))  # fmt: skip
    heard: list[Report] = []
    tell = run.fleet.apply

    def apply(report: Report) -> None:
        heard.append(report)
        tell(report)

    run.fleet.apply = apply  # type: ignore[method-assign]
    run.play()
    return heard


def test_every_engine_says_what_it_tells() -> None:
    assert TOLD.keys() == ENGINES.keys()
    fields = {field for told in TOLD.values() for field in told}
    assert fields <= set(Report.__struct_fields__)
    for name, told in TOLD.items():
        loads = any(page.load for page in ENGINES[name].pages)
        assert loads or told <= {"loaded", "slots"}, name


def test_load_is_asked_for_every_five_seconds_and_the_rest_every_thirty() -> None:
    heard = reports()
    assert heard[0].taken_at == 0.0
    gaps = [after.taken_at - before.taken_at for before, after in pairwise(heard)]
    assert 3.5 < sum(gaps) / len(gaps) < 6.0
    assert max(gaps) < 6.2
    silent = reports("openai")
    assert 3 <= len(silent) <= 6


def test_a_worker_tells_what_its_engine_tells() -> None:
    told = reports()[5]
    assert (told.running, told.waiting) == (3, 0)
    assert (told.slots, told.most) == (256, 1024)
    assert told.generated_tokens > 300
    silent = reports("openai")[-1]
    assert (silent.running, silent.waiting, silent.kv_usage, silent.generated_tokens) == (None,) * 4
    assert (silent.slots, silent.most) == (16, 256)
    assert reports("sglang")[5].slots == 8
    assert reports("ollama")[5].running is None


def test_a_worker_that_is_gone_is_asked_again_soon_then_more_seldom_and_found() -> None:
    heard = reports(faults=(Fault("w0", "crash", 20.0, 30.0),))
    down = [report.taken_at for report in heard if not report.reachable]
    assert 20.0 < down[0] < 22.0, "a request has found out"
    assert down[-1] < 50.0
    back = next(report for report in heard if report.reachable and report.taken_at > 50.0)
    assert back.taken_at < 52.0, "there is no other that could serve: it is missed"
    assert back.generated_tokens < 300, "it counts from the beginning"


def test_a_look_through_a_cut_takes_its_time_limit() -> None:
    heard = reports(faults=(Fault("w0", "cut", 20.0, 30.0),), probes={"timeout_s": 1.5})
    down = [report.taken_at for report in heard if not report.reachable]
    assert down[0] >= 21.5
    assert all(after - before >= 1.5 for before, after in pairwise(down))


def test_requests_of_ours_that_the_engine_counts_are_not_foreign() -> None:
    traffic = Poisson(2000, 20.0, lambda rng: 40, seed=3)
    run = world.World(scenario(traffic, *[worker(f"w{n}", slots=64) for n in range(2)]))
    foreign: list[int] = []
    tell = run.fleet.apply

    def apply(report: Report) -> None:
        tell(report)
        foreign.append(run.fleet.workers[report.worker_id].foreign)

    run.fleet.apply = apply  # type: ignore[method-assign]
    run.play()
    assert len(foreign) > 30
    assert set(foreign) == {0}


@pytest.mark.parametrize("interval_s", [10.0, 60.0])
def test_the_configured_intervals_hold(interval_s: float) -> None:
    heard = reports("mlx", probes={"interval_s": interval_s}, until_s=300.0)
    assert len(heard) == pytest.approx(300 / interval_s + 1, abs=300 / interval_s * 0.2 + 1)


def test_a_look_is_planned_for_when_it_is_due_or_the_tenth_of_a_second_after_it() -> None:
    """Planned a hair too early, it would find nothing due and be planned for the same moment again, for ever."""
    run = world.World(scenario(Listed(arrival(0.0)), *[worker(f"w{n}") for n in range(3)]))
    run.play()
    planned: list[tuple[float, float]] = []
    run._looks._at = lambda when, look, what: planned.append((when, what[1]))
    dice = random.Random(1)
    for _ in range(300):
        run._looks.shift(dice.choice((dice.random(), 10.0 ** -dice.randrange(5, 15))))
        for watch in run._looks._watches:                      # and from right at a tenth on
            watch.due = round(watch.due, 1)
    assert len(planned) == 900
    assert all(due <= when <= due + 0.100001 for when, due in planned)
    assert sum(when - due < 1e-5 for when, due in planned) > 100
