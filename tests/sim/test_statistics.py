"""What is counted of requests that have ended."""

from __future__ import annotations

from typing import Any

import pytest

from rbeerouter.core.dispatch import CANCELLED, DONE, FAILED, Job
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.models import NO_MODELS, Model, Models
from rbeerouter.core.types import Attempt, Decision, Worker, WorkerSpec
from rbeerouter.sim.statistics import MOST_SHOWN, OTHERS, Statistics, groups, jain
from rbeerouter.sim.timeline import Timeline
from rbeerouter.sim.types import Targets
from tests.sim.small import request

NO_TARGETS = Targets()
A, B = Worker(WorkerSpec("a", "http://a:1")), Worker(WorkerSpec("b", "http://b:1", price_in=1.0, price_out=2.0))


def statistics(targets: Targets = NO_TARGETS, models: Models = NO_MODELS) -> Statistics:
    return Statistics([A, B], models, targets, Timeline(["a", "b"]))


def job(name: str = "r", worker: Worker | None = A, results: tuple[str, ...] = ("ok",), **fields: Any) -> Job:
    """Arrived at 1 s, first content at 2 s, ended at 6 s, with 10 tokens in and 5 out, unless it is said otherwise."""
    asked = {key: fields.pop(key) for key in ("user_id", "metadata", "model", "asked_model") if key in fields}
    made = Job(request(name, **asked), 1.0, 1.0)
    given = {
        "state": DONE, "status": 200, "first_content": 2.0, "finished": 6.0, "tokens_in": 10, "tokens_out": 5,
        "tried": [worker.id] * len(results) if worker else [],
        "attempts": [Attempt(worker.id, result, 1.0) for result in results] if worker else [],
        "decision": Decision(worker, "script", "routing.lua:4"),
    }
    for key, value in (given | fields).items():
        setattr(made, key, value)
    return made


def test_a_good_answer_counts_with_its_times_and_tokens_in_all_its_groups() -> None:
    counted = statistics()
    counted.ended(job(queue_s=0.5, metadata={"tier": "premium"}))
    counted.catch_up()
    group = counted.all.group()
    assert (group.requests, group.ok, group.retried, group.tokens_in, group.tokens_out) == (1, 1, 0, 10, 5)
    assert (group.ttft_s.mean, group.e2e_s.mean, group.tpot_s.mean, group.queue_s.mean) == (1.0, 5.0, 1.0, 0.5)
    assert groups(counted.tiers) == {"premium": group}
    assert counted.shown_users() == {"somebody": group}
    assert groups(counted.models) == {"m": group}
    assert counted.by_worker["a"].group() == group
    assert counted.by_worker["b"].group().requests == 0
    assert counted.told_reasons() == {"script: routing.lua:4": 1}


@pytest.mark.parametrize(("state", "code", "results", "field"), [
    (FAILED, "queue_full", (), "rejected"), (FAILED, "no_healthy_worker", (), "rejected"),
    (FAILED, "script_rejected", (), "rejected"), (FAILED, "upstream_stalled", ("upstream_stalled",), "failed"),
    (FAILED, "upstream_overloaded", ("upstream_overloaded",), "failed"),
    (CANCELLED, "client_gone", ("client_gone",), "gone"),
    (FAILED, "queue_timeout", ("upstream_overloaded",), "rejected"),       # no room there, then none in time
    (CANCELLED, "client_gone", ("upstream_overloaded",), "gone"),
])  # fmt: skip
def test_every_other_end_has_its_kind(state: str, code: str, results: tuple[str, ...], field: str) -> None:
    counted = statistics()
    failure = FAILURES[code]
    counted.ended(job(state=state, failure=failure, status=failure.status, results=results, decision=None))
    counted.catch_up()
    group = counted.all.group()
    assert getattr(group, field) == group.requests == 1
    assert (group.ok, group.tokens_out, group.e2e_s.count, group.goodput) == (0, 0, 0, 0.0)
    assert counted.errors == {code: 1}
    assert counted.told_reasons() == {f"nobody: {code}": 1}
    assert counted.failures["a"] == sum(result != "client_gone" for result in results)


def test_a_workers_own_error_that_was_passed_on_is_a_failure_by_its_last_attempt() -> None:
    counted = statistics()
    counted.ended(job(status=503, results=("upstream_connect_failed", "upstream_overloaded")))
    counted.catch_up()
    group = counted.all.group()
    assert (group.failed, group.retried, dict(counted.errors)) == (1, 1, {"upstream_overloaded": 1})
    assert counted.failures == {"a": 2}


@pytest.mark.parametrize(("targets", "met"), [
    (Targets(), True), (Targets(ttft_s=1.0, tpot_s=1.0, e2e_s=5.0), True), (Targets(ttft_s=0.9), False),
    (Targets(tpot_s=0.9), False), (Targets(e2e_s=4.9), False),
])  # fmt: skip
def test_goodput_is_the_share_that_met_every_target(targets: Targets, met: bool) -> None:
    counted = statistics(targets)
    counted.ended(job())
    counted.ended(job(state=FAILED, failure=FAILURES["queue_full"], status=503))
    counted.catch_up()
    assert counted.all.group().goodput == (0.5 if met else 0.0)


def test_costs_are_those_of_the_log() -> None:
    counted = statistics(models=Models([Model("m", price_in=100.0)]))
    counted.ended(job(worker=A, tokens_in=1_000_000))
    counted.ended(job(worker=B, tokens_in=1_000_000, tokens_out=2_000_000))
    counted.catch_up()
    assert counted.by_worker["a"].group().cost == 100.0
    assert counted.by_worker["b"].group().cost == 5.0


def test_users_beyond_those_that_are_shown_are_told_together() -> None:
    counted = statistics()
    for number in range(300):
        for _ in range(1 + (number == 7)):
            counted.ended(job(user_id=f"u{number}"))
    counted.catch_up()
    users = counted.shown_users()
    assert len(users) == MOST_SHOWN + 1
    assert next(iter(users)) == "u7"
    assert users[OTHERS].requests == 301 - MOST_SHOWN - 1
    assert sum(one.requests for one in users.values()) == 301


def test_texts_are_bounded_and_none_is_lost() -> None:
    counted = statistics()
    for number in range(1000):
        counted.ended(job(decision=Decision(A, "script", f"because {number}", error=f"line {number}")))
    counted.catch_up()
    for told in (counted.told_reasons(), dict(counted.script_errors)):
        assert len(told) == 201
        assert (told[OTHERS], sum(told.values())) == (800, 1000)


def test_fairness_is_one_for_equal_users_and_falls_to_one_over_their_number() -> None:
    equal, unequal = statistics(), statistics()
    for number in range(4):
        equal.ended(job(user_id=f"u{number}"))
        unequal.ended(job(user_id=f"u{number}", tokens_in=0, tokens_out=100 if number == 0 else 0))
    equal.catch_up()
    unequal.catch_up()
    assert equal.fairness() == pytest.approx(1.0)
    assert unequal.fairness() == pytest.approx(0.25)
    assert statistics().fairness() is None


def test_models_are_counted_as_they_were_asked_for() -> None:
    counted = statistics()
    counted.ended(job(model="llama-3.1-8b", asked_model="small"))
    counted.catch_up()
    assert list(counted.models) == ["small"]


def test_the_index_is_one_for_equal_parts_and_one_by_their_number_if_one_has_all() -> None:
    assert jain([3.0, 3.0, 3.0, 3.0]) == 1.0
    assert jain([5.0, 0.0, 0.0, 0.0]) == 0.25
    assert jain([0.0, 0.0]) is None
