"""What faults do, seen from the requests that meet them."""

from __future__ import annotations

import random

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.core.dispatch import Job
from rbeerouter.core.models import Model, Models
from rbeerouter.sim import world
from rbeerouter.sim.faults import KINDS, check_faults, random_faults
from rbeerouter.sim.types import Arrival, Fault, Result
from tests.sim.small import Listed, arrival, config, scenario, worker

QUICK = config(
    limits={"gap_s": 3.0, "first_content_s": 5.0, "connect_s": 1.0, "request_s": 20.0, "attempts": 1},
    health={"slow_start_s": 0},
)


def played(
    fault: Fault | tuple[Fault, ...], *arrivals: Arrival, workers: int = 1, given: object = QUICK, **profile: float
) -> tuple[dict[str, Job], Result]:
    jobs: dict[str, Job] = {}
    faults = fault if isinstance(fault, tuple) else (fault,)
    fleet = [worker(f"w{n}", **profile) for n in range(workers)]
    result = world.run(
        scenario(Listed(*arrivals), *fleet, faults=faults, config=given),
        on_line=lambda job: jobs.__setitem__(job.request.id, job),
    )
    return jobs, result


def test_a_crash_ends_what_is_under_way_and_a_stream_that_had_begun_is_told_so() -> None:
    jobs, _ = played(
        Fault("w0", "crash", 1.0, 5.0), arrival(0.5, "begun", 100), arrival(0.6, "whole", 100, stream=False)
    )
    assert jobs["begun"].failure.code == jobs["whole"].failure.code == "upstream_disconnected"
    assert jobs["begun"].first_content == pytest.approx(0.51)
    assert jobs["whole"].first_content is None
    assert jobs["begun"].finished == jobs["whole"].finished == 1.0


def test_before_the_first_content_another_worker_takes_over() -> None:
    retrying = config(health={"slow_start_s": 0})
    jobs, result = played(
        (Fault("w0", "crash", 1.0, 5.0), Fault("w1", "crash", 0.1, 0.2)), arrival(0.5, "asked", 100, stream=False),
        workers=2, given=retrying,
    )
    assert jobs["asked"].failure is None
    assert jobs["asked"].tried == ["w0", "w1"] or jobs["asked"].tried == ["w1"]
    assert result.all.ok == 1


def test_after_a_crash_connections_are_refused_until_the_cold_start_is_over() -> None:
    late = [arrival(at, tokens_out=1) for at in (2.0, 4.0, 6.0, 7.5, 12.0)]
    jobs, _ = played(Fault("w0", "crash", 1.0, 4.0), *late, cold_start_s=3.0)
    codes = [job.failure.code if job.failure else None for _, job in sorted(jobs.items(), key=lambda row: row[1].arrived)]
    assert codes[0] in ("upstream_connect_failed", "no_healthy_worker")
    assert set(codes[1:4]) <= {"upstream_connect_failed", "no_healthy_worker"}
    assert codes[4] is None, "probes have found it again"


def test_a_slow_worker_takes_so_many_times_as_long_and_faults_add_up() -> None:
    twice = (Fault("w0", "slow", 1.0, 10.0, 2.0), Fault("w0", "slow", 2.0, 5.0, 3.0))
    jobs, _ = played(twice, *[arrival(at, f"at {at}", 10) for at in (0.5, 1.5, 2.5, 9.0, 20.0)])
    taken = [jobs[f"at {at}"].finished - at for at in (0.5, 1.5, 2.5, 9.0, 20.0)]
    assert taken == [pytest.approx(seconds) for seconds in (0.1, 0.2, 0.6, 0.2, 0.1)]


def test_a_worker_that_refuses_answers_503_at_once_and_is_left_alone_for_a_second() -> None:
    jobs, result = played(Fault("w0", "refuse", 1.0, 10.0), arrival(2.0, "refused", 10), arrival(2.5, "waits", 10))
    assert jobs["refused"].attempts[0].result == "upstream_overloaded"
    assert jobs["refused"].finished == 2.0
    assert jobs["refused"].status == 503
    assert result.errors["upstream_overloaded"] >= 1
    assert jobs["waits"].queue_s > 0


def test_a_share_of_the_requests_is_hit_the_same_ones_for_the_same_seed() -> None:
    many = [arrival(10.0 * n + 5, f"r{n}", 10) for n in range(100)]
    first, _ = played(Fault("w0", "refuse", 1.0, 2000.0, 0.3), *many)
    again, _ = played(Fault("w0", "refuse", 1.0, 2000.0, 0.3), *many)
    hit = {name for name, job in first.items() if job.status == 503}
    assert 15 < len(hit) < 45
    assert hit == {name for name, job in again.items() if job.status == 503}


def test_a_stream_that_stalls_is_given_up_after_the_limit_for_gaps() -> None:
    jobs, _ = played(Fault("w0", "stall", 1.0, 1.0), arrival(0.9, "begun", 100), arrival(1.5, "new", 100))
    for name, stops in (("begun", 1.4), ("new", 2.0)):
        assert jobs[name].failure.code == "upstream_stalled"
        assert jobs[name].first_content is not None
        assert stops + 3.0 < jobs[name].finished <= stops + 4.5
    whole, _ = played(Fault("w0", "stall", 1.0, 1.0), arrival(1.5, "whole", 100, stream=False))
    assert whole["whole"].failure.code == "upstream_deadline"


def test_a_cut_loses_what_is_under_way_and_lets_nobody_connect() -> None:
    jobs, _ = played(
        Fault("w0", "cut", 1.0, 8.0), arrival(0.5, "begun", 1000), arrival(0.999, "silent", 1000, ), arrival(1.1, "new", 10),
        arrival(20.0, "later", 10), prefill_s=0.01,
    )
    assert jobs["begun"].failure.code == "upstream_stalled"
    assert jobs["silent"].failure.code == "upstream_first_content_timeout"
    assert jobs["new"].failure.code == "upstream_connect_failed"
    assert jobs["new"].finished == pytest.approx(2.1)
    assert jobs["later"].failure is None


def test_metrics_that_lie_show_an_idle_worker() -> None:
    script = b"""
    function route_request(request, workers)
      log(tostring(workers[1].running))
      return workers[1]
    end
    """
    seen: list[Job] = []
    traffic = Listed(*[arrival(n * 0.5, f"r{n}", 5000) for n in range(60)])
    for faults, expected in (((), True), ((Fault("w0", "lie", 0.0, 100.0),), False)):
        seen.clear()
        world.run(scenario(traffic, worker("w0", slots=64), script=script, faults=faults), on_line=seen.append)
        running = [job.decision.log[0] for job in seen]
        assert any(one not in ("0", "nil") for one in running) is expected


def test_faults_that_cannot_be_are_refused_with_what_was_expected() -> None:
    good = Fault("a", "crash", 1.0, 1.0)
    check_faults([good], ["a"])
    for wrong, message in (
        (Fault("a", "flood", 1.0, 1.0), "expected one of crash"), (Fault("b", "crash", 1.0, 1.0), "expected one of a"),
        (Fault("a", "crash", -1.0, 1.0), "at_s = -1"), (Fault("a", "crash", 1.0, 0.0), "for_s = 0"),
        (Fault("a", "refuse", 1.0, 1.0, 1.5), "share"), (Fault("a", "slow", 1.0, 1.0, 0.5), "how many times"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            check_faults([wrong], ["a"])


def test_random_faults_are_as_many_as_asked_for_and_the_same_for_the_same_seed() -> None:
    faults = random_faults(random.Random(5), ["a", "b"], 60.0, 36_000.0)
    assert faults == random_faults(random.Random(5), ["a", "b"], 60.0, 36_000.0)
    assert 500 < len(faults) < 700
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {fault.worker for fault in faults} == {"a", "b"}
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    check_faults(faults, ["a", "b"])
    assert random_faults(random.Random(5), ["a"], 0.0, 1000.0) == ()


def test_a_stream_of_a_model_with_continuation_goes_on_elsewhere_and_is_whole() -> None:
    models = Models([Model("m", continuation=True)])
    jobs, result = played(
        Fault("w0", "crash", 2.0, 100.0), *[arrival(0.5 + n / 10, f"r{n}", 300) for n in range(4)], workers=2,
        given=config(models=models, health={"slow_start_s": 0}),
    )  # fmt: skip
    moved = [job for job in jobs.values() if job.tried == ["w0", "w1"]]
    assert moved
    for job in moved:
        assert (job.failure, job.continued, job.tokens_in, job.tokens_out) == (None, True, 10, 300)
        assert job.first_content < 2.0
        assert job.finished == pytest.approx(job.arrived + 3.0, abs=0.4), "nothing is generated twice"
    assert result.all.ok == 4
