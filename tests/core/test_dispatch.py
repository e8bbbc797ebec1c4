"""The life of a job: what follows each outcome, and that no worker's count of jobs can drift.

What waiting and rejecting have to do with it stands in test_dispatch_waiting.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rbeerouter.core.dispatch import (
    CANCELLED,
    DONE,
    FAILED,
    FINISH,
    NEW,
    SENDING,
    WAITING,
    Dispatcher,
    Fail,
    Finish,
    Job,
    PassOn,
    Send,
    Wait,
    refused_job,
)
from rbeerouter.core.errors import FAILURES, Failure, RouterError, refusal
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.memory import Memories
from rbeerouter.core.queue import QueueRules
from rbeerouter.core.retry import RetryRules
from rbeerouter.core.types import (
    BUSY,
    OFFLINE,
    READY,
    REJECT,
    WAIT,
    Attempt,
    Decision,
    Outcome,
    Patience,
    Report,
    Request,
    Worker,
)
from rbeerouter.routing.decide import Decider
from tests.support.builders import Clock, env, fleet, job, quick, request, worker

SERVED = Outcome(None, 200, committed=True, delivered=True)
REFUSED_BY_WORKER = Outcome(None, 404, committed=True, delivered=True)
OWN_5XX = Outcome(FAILURES["upstream_error_status"], 503, committed=True, delivered=True)
CONNECT = Outcome(FAILURES["upstream_connect_failed"])
DISCONNECTED = Outcome(FAILURES["upstream_disconnected"])
BROKEN_OFF = Outcome(FAILURES["upstream_disconnected"], 200, committed=True)
POISONOUS = Outcome(FAILURES["upstream_disconnected"], poisonous=True)
SILENT = Outcome(FAILURES["upstream_first_content_timeout"])
ANSWERED_500 = Outcome(FAILURES["upstream_error_status"], 500, answered=True)
STALE = Outcome(FAILURES["upstream_disconnected"], stale=True)


def full(status: int, retry_after_s: float | None = None) -> Outcome:
    return Outcome(FAILURES["upstream_overloaded"], status, retry_after_s=retry_after_s, answered=True)


class InOrder:
    """A decider without an opinion: the first worker, then the next that was not tried; it notes each question."""

    def __init__(self, made: Fleet, model: str | None = None, refusal: RouterError | None = None) -> None:
        self.made, self.model, self.refusal = made, model, refusal
        self.seen = None
        self.memories = Memories()
        self.shares = None
        self.asked: list[tuple[list[str], str]] = []
        self.told: list[tuple[str, int]] = []

    def decide(self, request: Request, wall: float | None = None) -> Decision:
        if self.refusal is not None:
            raise self.refusal
        return Decision(
            self.made.ordered[0], "script", "routing.lua:7", self.model, "an old fault", [{"id": "w2"}],
            headers=(("x-priority", "9"),), log=("chosen",),
        )  # fmt: skip

    def room_for(self, job: Job) -> Decision | None:
        raise AssertionError("nobody waits here")

    def serving(self, job: Job) -> list[Worker]:
        raise AssertionError("nobody waits here")

    def another(self, job: Job, failure: Failure) -> Decision | None:
        tried = [attempt.worker_id for attempt in job.attempts]
        assert tried == job.tried and job.attempts[-1].result == failure.code
        self.asked.append((tried, failure.code))
        left = [one for one in self.made.ordered if one.id not in tried]
        return Decision(left[0], "failover", f"next after {tried[-1]}", self.model) if left else None

    def completed(self, job: Job) -> None:
        assert job.worker is None and job.finished is not None
        self.told.append((job.state, job.status))


class Story:
    """Three workers, a dispatcher that takes them in order, and one job."""

    def __init__(self, attempts: int = 3, **decider: Any) -> None:
        self.clock = Clock()
        self.fleet = fleet()
        self.decider = InOrder(self.fleet, **decider)
        self.dispatcher = Dispatcher(self.fleet, self.decider, env(self.clock))
        self.dispatcher.retries.rules = RetryRules(attempts)
        self.job = job()

    def begin(self) -> Any:
        return self.dispatcher.on_request(self.job)

    def end(self, outcome: Outcome) -> Any:
        return self.dispatcher.on_outcome(self.job, outcome)

    def in_flight(self) -> list[int]:
        return [one.in_flight for one in self.fleet.ordered]

    def results(self) -> list[tuple[str, str]]:
        return [(attempt.worker_id, attempt.result) for attempt in self.job.attempts]


def send_to(story: Story, name: str, *, fresh: bool = False, model: str | None = None) -> Send:
    return Send(story.fleet.workers[name], model, fresh, (("x-priority", "9"),))


# The decision.


def test_the_job_is_counted_on_its_worker_in_the_step_of_the_decision() -> None:
    story = Story()
    before = story.in_flight()
    effect = story.begin()
    assert (before, effect, story.in_flight(), story.job.state, story.job.tried) == (
        [0, 0, 0], send_to(story, "w1"), [1, 0, 0], SENDING, ["w1"],
    )  # fmt: skip


def test_a_refused_request_fails_without_touching_a_worker() -> None:
    story = Story(refusal=RouterError("model_not_found", "there is no such model", "model"))
    effect = story.begin()
    assert effect == Fail(FAILURES["model_not_found"], "there is no such model", "model")
    assert (story.in_flight(), story.results(), story.job.tried) == ([0, 0, 0], [], [])
    assert (story.job.state, story.job.failure, story.job.status, story.job.finished) == (
        FAILED, FAILURES["model_not_found"], 404, 100.0,
    )  # fmt: skip


def test_the_time_that_a_decision_took_is_kept() -> None:
    story = Story()
    decide = story.decider.decide

    def slowly(asked: Request, _wall: float) -> Decision:
        story.clock.advance(0.25)
        return decide(asked)

    story.decider.decide = slowly  # type: ignore[method-assign]
    story.begin()
    assert (story.job.decision_s, story.job.sent) == (0.25, 100.25)


def test_a_body_that_could_not_be_understood_is_a_job_that_has_failed() -> None:
    made = refused_job(request(), RouterError("invalid_json", "no"), 100.0, 5.0, 101.0)
    assert (made.state, made.failure, made.status, made.arrived, made.wall, made.finished, made.attempts) == (
        FAILED, FAILURES["invalid_json"], 400, 100.0, 5.0, 101.0, [],
    )  # fmt: skip


# Each way out.


@pytest.mark.parametrize(
    ("outcome", "status", "served_and_failed"),
    [(SERVED, 200, (1, 0)), (REFUSED_BY_WORKER, 404, (1, 0)), (OWN_5XX, 503, (0, 1))],
    ids=["served", "the worker's own 4xx", "the worker's own 5xx"],
)
def test_an_answer_that_the_client_has_whole_is_the_end(
    outcome: Outcome, status: int, served_and_failed: tuple[int, int]
) -> None:
    story = Story()
    story.begin()
    story.clock.advance(2.0)
    effect = story.end(outcome)
    one = story.fleet.workers["w1"]
    assert (effect, story.in_flight(), story.job.state, story.job.status, story.job.finished, story.decider.asked) == (
        FINISH, [0, 0, 0], DONE, status, 102.0, [],
    )  # fmt: skip
    assert (one.served, one.failed) == served_and_failed


def test_a_failed_worker_is_replaced_by_the_next_and_the_log_can_tell_the_whole_story() -> None:
    story = Story()
    story.begin()
    story.clock.advance(0.0125)
    effect = story.end(CONNECT)
    assert (effect, story.in_flight(), story.job.state, story.job.sent) == (
        send_to(story, "w2"), [0, 1, 0], SENDING, 100.0125,
    )  # fmt: skip
    story.clock.advance(1.0)
    assert story.end(SERVED) == FINISH
    assert story.job.attempts == [Attempt("w1", "upstream_connect_failed", 12.5), Attempt("w2", "ok", 1000.0)]
    assert story.job.decision == Decision(
        story.fleet.workers["w2"], "failover", "routing.lua:7; then next after w1", None, "an old fault", [{"id": "w2"}],
        headers=(("x-priority", "9"),), log=("chosen",),
    )  # fmt: skip
    assert story.job.tried == ["w1", "w2"]


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_no_more_workers_are_tried_than_the_limit_allows(attempts: int) -> None:
    story = Story(attempts)
    effects = [story.begin()]
    for _ in range(attempts):
        effects.append(story.end(CONNECT))
    assert [effect.worker.id for effect in effects[:-1]] == ["w1", "w2", "w3"][:attempts]
    assert effects[-1] == Fail(FAILURES["upstream_connect_failed"], f"could not connect to a worker ({attempts} tried)")
    assert (story.job.state, story.job.status, story.in_flight()) == (FAILED, 502, [0, 0, 0])
    assert len(story.job.attempts) == attempts


def test_the_job_fails_when_every_worker_was_tried_before_the_limit() -> None:
    story = Story(attempts=10)
    story.begin()
    effects = [story.end(CONNECT) for _ in range(3)]
    assert [type(effect) for effect in effects] == [Send, Send, Fail]
    assert effects[-1].message == "could not connect to a worker (3 tried)"
    code = "upstream_connect_failed"
    assert story.decider.asked == [(["w1"], code), (["w1", "w2"], code), (["w1", "w2", "w3"], code)]


def again(story: Story, outcome: Outcome, name: str) -> None:
    """The outcome leads to that worker after a pause of at most 50 ms for the first retry, 100 ms for the second."""
    effect = story.end(outcome)
    assert type(effect) is Send and effect.worker.id == name
    assert 0 < effect.pause_s <= 0.05 * 2 ** (len(story.job.tried) - 2)


def test_a_worker_that_dies_before_content_is_replaced_after_a_short_pause() -> None:
    story = Story()
    story.begin()
    again(story, DISCONNECTED, "w2")
    assert (story.end(SERVED), story.results()) == (FINISH, [("w1", "upstream_disconnected"), ("w2", "ok")])


def test_a_request_that_two_workers_died_over_gets_no_third() -> None:
    story = Story()
    story.begin()
    again(story, DISCONNECTED, "w2")
    assert story.end(POISONOUS) == Fail(FAILURES["poison_request"], "two workers have died over this request")
    assert (story.job.state, story.job.status, story.in_flight()) == (FAILED, 502, [0, 0, 0])


def test_a_worker_that_failed_is_replaced_once_and_then_its_own_error_is_passed_on() -> None:
    story = Story()
    story.begin()
    again(story, ANSWERED_500, "w2")
    assert (story.end(ANSWERED_500), story.job.state, story.job.status) == (PassOn(), DONE, 500)
    assert (story.in_flight(), story.decider.told) == ([0, 0, 0], [("done", 500)])


def test_an_error_that_cannot_be_shown_becomes_ours() -> None:
    story = Story(attempts=1)
    story.begin()
    assert story.end(Outcome(FAILURES["upstream_error_status"], 500)) == Fail(
        FAILURES["upstream_error_status"], "the worker answered with an error that says nothing (1 tried)"
    )


def test_workers_without_room_are_left_alone_for_as_long_as_they_ask_and_the_others_are_tried() -> None:
    story = Story()
    story.begin()
    again(story, full(429, 9.0), "w2")
    again(story, full(503, 4.0), "w3")
    effect = story.end(full(429, 6.0))
    assert (effect.failure.code, effect.failure.status, effect.failure.retry_after) == ("upstream_overloaded", 503, 4)
    assert [one.cooling_until for one in story.fleet.ordered] == [109.0, 104.0, 106.0]
    assert [one.status for one in story.fleet.ordered] == [BUSY, BUSY, BUSY]
    assert [one.failed for one in story.fleet.ordered] == [0, 0, 0]


def test_a_fleet_that_says_429_throughout_is_answered_with_429_and_the_smallest_wait() -> None:
    story = Story()
    story.begin()
    for outcome in (full(429, 9.0), full(429, 4.0)):
        story.end(outcome)
    assert (story.end(full(429, 6.0)), story.job.status) == (PassOn(4), 429)


def test_a_429_that_cannot_be_shown_becomes_ours() -> None:
    story = Story(attempts=1)
    story.begin()
    effect = story.end(Outcome(FAILURES["upstream_overloaded"], 429, retry_after_s=200.0))
    assert (effect.failure.status, effect.failure.type, effect.failure.retry_after) == (429, "rate_limit_error", 60)


def test_a_silent_worker_is_replaced_only_while_enough_time_is_left() -> None:
    early, late = Story(), Story()
    for story, waited_s in ((early, 359.0), (late, 361.0)):
        story.begin()
        story.clock.advance(waited_s)                         # of 600
    again(early, SILENT, "w2")
    assert type(late.end(SILENT)) is Fail


def test_retries_are_a_fifth_of_the_requests_of_the_last_ten_seconds_or_thirty() -> None:
    story = Story()

    def storm(requests: int) -> int:
        retried = 0
        for _ in range(requests):
            story.job = job()
            story.begin()
            if type(story.end(DISCONNECTED)) is Send:
                retried += 1
                story.end(SERVED)
        return retried

    assert storm(200) == 40
    assert storm(20) == 4
    for _ in range(25):
        story.clock.advance(0.5)
        story.dispatcher.sweep(story.clock.now_s)
    assert (storm(40), story.dispatcher.retries.exhausted) == (30, 160 + 16 + 10)


def test_a_worker_that_closes_each_kept_connection_gets_no_more_than_the_budget_again() -> None:
    story = Story()
    story.dispatcher.retries.rules = RetryRules(floor=3, share=0.0)
    again = 0
    for _ in range(10):
        story.job = job()
        story.begin()
        if type(story.end(STALE)) is Send:
            again += 1
            story.end(SERVED)
    assert again == 3


def test_a_worker_that_never_got_the_request_costs_no_budget() -> None:
    story = Story()
    for _ in range(40):
        story.job = job()
        story.begin()
        assert type(story.end(CONNECT)) is Send
        story.end(SERVED)


@pytest.mark.parametrize("code", sorted(code for code, failure in FAILURES.items() if not failure.retry))
def test_what_another_worker_could_not_mend_is_not_tried_again(code: str) -> None:
    story = Story()
    story.begin()
    effect = story.end(Outcome(FAILURES[code]))
    assert (effect.failure, story.job.state, story.in_flight(), story.decider.asked) == (
        FAILURES[code], FAILED, [0, 0, 0], [],
    )  # fmt: skip


@pytest.mark.parametrize("code", sorted(FAILURES))
def test_no_failure_is_tried_again_after_the_client_has_got_content(code: str) -> None:
    story = Story()
    story.begin()
    effect = story.end(Outcome(FAILURES[code], 200, committed=True))
    assert (effect.failure, story.job.state, story.in_flight(), story.decider.asked) == (
        FAILURES[code], FAILED, [0, 0, 0], [],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("upstream_connect_failed", "could not connect to a worker (1 tried)"),
        ("upstream_disconnected", "the worker closed the connection before its answer was complete (1 tried)"),
        ("upstream_protocol_error", "the worker gave no valid answer (1 tried)"),
        ("upstream_first_content_timeout", "the worker gave no content in time (1 tried)"),
        ("upstream_stalled", "the worker stopped sending (1 tried)"),
        ("upstream_deadline", "the request took longer than allowed (1 tried)"),
    ],
)
def test_the_client_is_told_what_the_worker_did(code: str, message: str) -> None:
    story = Story(attempts=1)
    story.begin()
    assert story.end(Outcome(FAILURES[code])) == Fail(FAILURES[code], message)


# A reused connection that had been closed.


def test_a_stale_connection_is_nobodys_fault_and_the_same_worker_is_asked_on_a_fresh_one() -> None:
    story = Story(model="other")
    story.begin()
    one = story.fleet.workers["w1"]
    effect = story.end(STALE)
    assert (effect, story.in_flight(), story.job.state, story.job.tried, story.job.attempts, story.decider.asked) == (
        send_to(story, "w1", fresh=True, model="other"), [1, 0, 0], SENDING, ["w1"], [], [],
    )  # fmt: skip
    assert (one.failed, one.health.failures, one.status) == (0, 0, READY)


def test_the_end_of_the_fresh_connection_counts_as_usual() -> None:
    story = Story()
    story.begin()
    story.end(STALE)
    again(story, DISCONNECTED, "w2")
    assert (story.results(), story.in_flight()) == ([("w1", "upstream_disconnected")], [0, 1, 0])
    story.end(STALE)
    assert story.end(SERVED) == FINISH
    assert (story.results(), story.in_flight(), story.job.tried) == (
        [("w1", "upstream_disconnected"), ("w2", "ok")], [0, 0, 0], ["w1", "w2"],
    )  # fmt: skip


# Names of models.


def test_a_model_that_the_decision_chose_is_kept_when_another_worker_takes_over() -> None:
    story = Story(model="other")
    assert story.begin() == send_to(story, "w1", model="other")
    assert story.end(CONNECT) == send_to(story, "w2", model="other")


# The client leaves.


@pytest.mark.parametrize("code", ["client_gone", "client_stalled", "draining"])
def test_a_cancelled_job_leaves_its_worker_without_blame(code: str) -> None:
    story = Story()
    story.begin()
    story.clock.advance(0.5)
    one = story.fleet.workers["w1"]
    assert story.dispatcher.on_cancel(story.job, code) == FINISH
    assert (story.in_flight(), story.job.state, story.job.failure, story.job.status, story.job.finished) == (
        [0, 0, 0], CANCELLED, FAILURES[code], FAILURES[code].status, 100.5,
    )  # fmt: skip
    assert (story.job.attempts, story.decider.asked) == ([Attempt("w1", code, 500.0)], [])
    assert (one.served, one.failed, one.status) == (0, 0, READY)


def test_a_job_can_be_cancelled_before_it_has_a_worker() -> None:
    story = Story()
    assert story.dispatcher.on_cancel(story.job) == FINISH
    assert (story.in_flight(), story.job.state, story.results()) == ([0, 0, 0], CANCELLED, [])


def test_a_job_can_be_cancelled_on_its_second_worker_and_after_a_stale_connection() -> None:
    story = Story()
    story.begin()
    story.end(CONNECT)
    story.end(STALE)
    story.dispatcher.on_cancel(story.job)
    assert (story.in_flight(), story.results()) == (
        [0, 0, 0], [("w1", "upstream_connect_failed"), ("w2", "client_gone")],
    )  # fmt: skip


def test_a_second_cancel_lowers_nothing() -> None:
    story = Story()
    story.begin()
    for _ in range(3):
        story.dispatcher.on_cancel(story.job)
    assert (story.in_flight(), story.results()) == ([0, 0, 0], [("w1", "client_gone")])


@pytest.mark.parametrize("outcome", [SERVED, BROKEN_OFF], ids=["done", "failed"])
def test_a_client_that_leaves_after_the_end_changes_nothing(outcome: Outcome) -> None:
    story = Story()
    story.begin()
    story.end(outcome)
    ended = (story.job.state, story.job.status, story.job.failure, story.job.finished)
    story.clock.advance(1.0)
    story.dispatcher.on_cancel(story.job)
    assert (story.job.state, story.job.status, story.job.failure, story.job.finished) == ended


def test_an_outcome_of_a_job_that_is_on_no_worker_is_a_programming_error() -> None:
    story = Story()
    story.begin()
    story.end(SERVED)
    with pytest.raises(AssertionError, match="on no worker"):
        story.end(SERVED)
    assert story.in_flight() == [0, 0, 0]


def test_a_job_that_ends_after_its_worker_was_removed_is_still_taken_off_it() -> None:
    story = Story()
    story.begin()
    gone = story.fleet.workers["w1"]
    story.fleet.configure([worker("w2", models=("m",))])
    assert story.end(CONNECT) == send_to(story, "w2")
    story.end(SERVED)
    assert (gone.in_flight, story.in_flight()) == (0, [0])


# What the decider is told at the end.


@pytest.mark.parametrize(
    ("outcome", "told"),
    [(SERVED, ("done", 200)), (BROKEN_OFF, ("failed", 502)), (OWN_5XX, ("done", 503))],
    ids=["served", "broken off", "the worker's own 5xx"],
)
def test_the_decider_is_told_once_how_a_job_ended(outcome: Outcome, told: tuple[str, int]) -> None:
    story = Story()
    story.begin()
    assert story.decider.told == []
    story.end(outcome)
    story.dispatcher.on_cancel(story.job)
    assert story.decider.told == [told]


def test_the_decider_is_told_of_clients_that_left_and_of_requests_that_it_refused_itself() -> None:
    left, refused, unasked = Story(), Story(refusal=RouterError("model_not_found", "no")), Story()
    left.begin()
    left.dispatcher.on_cancel(left.job)
    refused.begin()
    unasked.dispatcher.on_cancel(unasked.job)
    assert [story.decider.told for story in (left, refused, unasked)] == [[("cancelled", 499)], [("failed", 404)], []]


def test_a_decider_that_cannot_be_told_costs_no_client_its_answer() -> None:
    story = Story()
    story.begin()
    fault = ValueError("a defect")

    def raise_it(job: Job) -> None:
        raise fault

    story.decider.completed = raise_it  # type: ignore[method-assign]
    assert story.end(SERVED) == FINISH
    assert (story.dispatcher.fault, story.in_flight(), story.job.state) == (fault, [0, 0, 0], DONE)


# How fast a worker is.


def test_only_good_answers_tell_how_fast_a_worker_is_and_only_streams_when_they_began() -> None:
    story = Story()
    one = story.fleet.workers["w1"]
    seen = []
    for outcome, stream in ((SERVED, False), (REFUSED_BY_WORKER, True), (OWN_5XX, True), (BROKEN_OFF, True), (SERVED, True)):
        story.job = job(stream=stream)
        story.begin()
        story.clock.advance(0.5)
        story.job.first_content = story.clock.now_s
        story.clock.advance(0.5 if stream is False else 1.5)
        story.end(outcome)
        seen.append((one.latency_ms, one.ttft_ms))
    assert seen == [(1000.0, None)] * 4 + [(1200.0, 500.0)]


# Anything, in any order.

MODELS = ("a", "a", "b", "nowhere")
SPECS = st.lists(
    st.builds(
        worker,
        st.sampled_from(["w1", "w2", "w3", "w4"]),
        url=st.sampled_from(["http://x.test", "http://y.test"]),
        models=st.sampled_from([("a", "b"), ("a",), ("b",), ()]),
        max_concurrency=st.integers(1, 3),
    ),
    max_size=4,
    unique_by=lambda spec: spec.id,
)
OUTCOMES = st.sampled_from(
    [
        CONNECT, DISCONNECTED, SERVED, OWN_5XX, BROKEN_OFF,
        *(Outcome(failure, committed=committed) for failure in FAILURES.values() for committed in (False, True)),
    ]
)  # fmt: skip
WHICH = st.integers(0, 11)


class Obedient(Decider):
    """The real decider, but what it should decide may stand in the request's metadata."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.told: list[Job] = []

    def decide(self, request: Request, wall: float | None = None) -> Decision:
        asked = request.metadata.get("action")
        named = self.fleet.workers.get(str(request.metadata.get("worker")))
        if asked == WAIT:
            patience = Patience(request.metadata["timeout_s"], int(request.metadata["priority"]))  # type: ignore[arg-type]
            return Decision(named, "script", "waits", action=WAIT, patience=patience)
        if asked == REJECT:
            return Decision(None, "script", "rejects", action=REJECT, refusal=refusal(429, "not now", 3))
        return super().decide(request, wall)

    def another(self, job: Job, failure: Failure) -> Decision | None:
        if job.request.metadata.get("then") == REJECT:
            return Decision(None, "script", "rejects", action=REJECT, refusal=refusal(500, "gives up"))
        return super().another(job, failure)

    def completed(self, job: Job) -> None:
        assert job not in self.told
        self.told.append(job)


WAITING_JOBS = st.fixed_dictionaries(
    {
        "action": st.just(WAIT), "worker": st.sampled_from(["w1", "w2", "w3", "w4", "none"]),
        "timeout_s": st.sampled_from([None, 0.0, 1.0, 1e9]), "priority": st.integers(-1, 1),
        "then": st.sampled_from([REJECT, "go on"]),
    }
)  # fmt: skip


class AnyLife(RuleBasedStateMachine):
    """Requests, outcomes, clients that leave, probes and reconfigurations in any order on the real fleet and decider.

    What is kept beside it is counted by hand: which job is on which worker object, also on workers long removed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.fleet = Fleet()
        made_env = env(self.clock)
        self.decider = Obedient(self.fleet, None, "least-request", made_env)
        self.dispatcher = Dispatcher(self.fleet, self.decider, made_env)
        self.dispatcher.queue.rules = QueueRules(length=4, most_s=100.0)
        self.sending: list[Job] = []
        self.waiting: list[Job] = []
        self.stale: set[int] = set()
        self.ended: dict[int, tuple[Job, str]] = {}
        self.workers: dict[int, Worker] = {}
        self.reconfigure([worker("w1", max_concurrency=2), worker("w2", models=("a",)), worker("w3")], up=True)

    def perform(self, made: Job, effect: object) -> None:
        """Does what `wire.exchange` would: notes where the job went, or that it has ended."""
        if isinstance(effect, Send):
            assert made.state == SENDING and made.worker is effect.worker
            assert len(set(made.tried)) == len(made.tried) <= self.dispatcher.retries.rules.attempts
            if made not in self.sending:
                self.sending.append(made)
            return
        if isinstance(effect, Wait):
            assert made.state == WAITING and made.worker is None
            if made in self.sending:
                self.sending.remove(made)
            self.waiting.append(made)
            return
        assert isinstance(effect, Fail | Finish | PassOn)
        for jobs in (self.sending, self.waiting):
            if made in jobs:
                jobs.remove(made)
        assert id(made) not in self.ended, "a job has ended twice"
        self.ended[id(made)] = (made, made.state)

    def pick(self, which: int) -> Job | None:
        return self.sending[which % len(self.sending)] if self.sending else None

    def end(self, made: Job, outcome: Outcome) -> None:
        before = list(made.tried)
        effect = self.dispatcher.on_outcome(made, outcome)
        if outcome.committed or outcome.failure is None or not outcome.failure.retry:
            assert not isinstance(effect, Send)
        if isinstance(effect, Send):
            assert effect.worker.id not in before and effect.worker.status in (READY, BUSY)
            self.stale.discard(id(made))
        self.perform(made, effect)

    @initialize(attempts=st.integers(1, 4), jobs=st.integers(0, 5))
    def begin(self, attempts: int, jobs: int) -> None:
        self.dispatcher.retries.rules = RetryRules(attempts)
        self.ask(["a"] * jobs)

    @rule(models=st.lists(st.sampled_from(MODELS), max_size=4))
    def ask(self, models: list[str]) -> None:
        for made in [job(model=model) for model in models]:
            assert made.state == NEW
            self.perform(made, self.dispatcher.on_request(made))

    @rule(all_metadata=st.lists(WAITING_JOBS, max_size=4), model=st.sampled_from(MODELS))
    def ask_to_wait(self, all_metadata: list[dict[str, Any]], model: str) -> None:
        for metadata in all_metadata:
            made = job(model=model, metadata=metadata)
            made.arrived = self.clock.now_s
            self.perform(made, self.dispatcher.on_request(made))

    @rule(model=st.sampled_from(MODELS))
    def ask_in_vain(self, model: str) -> None:
        made = job(model=model, metadata={"action": REJECT})
        self.perform(made, self.dispatcher.on_request(made))
        assert (made.state, made.status) == (FAILED, 429)

    @rule(which=WHICH)
    def leave_the_queue(self, which: int) -> None:
        if self.waiting:
            made = self.waiting[which % len(self.waiting)]
            self.perform(made, self.dispatcher.on_cancel(made))

    @rule()
    def tick(self) -> None:
        before = {id(one): one.in_flight for one in self.fleet.ordered}
        for made, effect in self.dispatcher.on_tick(self.clock.now_s):
            self.waiting.remove(made)
            self.perform(made, effect)
        for one in self.fleet.ordered:
            assert one.in_flight <= max(before[id(one)], one.capacity), "somebody went where there was no room"
        assert self.dispatcher.on_tick(self.clock.now_s) == []
        assert all(made.request.metadata.get("timeout_s") != 0.0 for made in self.waiting)

    @rule(which=WHICH, outcome=OUTCOMES)
    def end_an_attempt(self, which: int, outcome: Outcome) -> None:
        made = self.pick(which)
        if made is not None:
            self.end(made, outcome)

    @rule(which=WHICH, outcome=st.sampled_from([CONNECT, DISCONNECTED]))
    def lose_a_worker_before_content(self, which: int, outcome: Outcome) -> None:
        made = self.pick(which)
        if made is not None:
            self.end(made, outcome)

    @rule(which=WHICH)
    def find_a_connection_closed(self, which: int) -> None:
        made = self.pick(which)
        if made is None or id(made) in self.stale:
            return
        assert made.worker is not None
        known = (made.worker, made.worker.failed, made.worker.in_flight)
        effect = self.dispatcher.on_outcome(made, STALE)
        assert isinstance(effect, Send) and effect.fresh
        assert known == (effect.worker, effect.worker.failed, effect.worker.in_flight)
        self.stale.add(id(made))
        self.perform(made, effect)

    @rule(which=WHICH, code=st.sampled_from(["client_gone", "client_stalled", "draining"]))
    def leave(self, which: int, code: str) -> None:
        made = self.pick(which)
        if made is not None:
            self.perform(made, self.dispatcher.on_cancel(made, code))

    @rule(
        name=st.sampled_from(["w1", "w2", "w3", "w4"]),
        reachable=st.booleans(),
        models=st.sampled_from([None, (), ("a",), ("b",)]),
    )
    def probe(self, name: str, reachable: bool, models: tuple[str, ...] | None) -> None:
        self.fleet.apply(Report(name, reachable, models, self.clock.now_s))

    @rule(specs=SPECS, up=st.booleans())
    def reconfigure(self, specs: list[Any], up: bool) -> None:
        self.fleet.configure(specs)
        self.workers |= {id(one): one for one in self.fleet.ordered}
        for one in self.fleet.ordered if up else ():
            self.probe(one.id, True, None)

    @rule(seconds=st.sampled_from([0.0, 1.0, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.dispatcher.sweep(self.clock.now_s)

    @invariant()
    def every_count_is_the_number_of_jobs_on_that_worker(self) -> None:
        expected = Counter(id(made.worker) for made in self.sending)
        assert {key: one.in_flight for key, one in self.workers.items()} == {key: expected[key] for key in self.workers}

    @invariant()
    def the_queue_holds_those_who_wait(self) -> None:
        assert set(self.dispatcher.waiting) == set(self.waiting)
        assert len(self.waiting) == len(self.dispatcher.waiting) <= 4
        assert all(made.state == WAITING and made.worker is None for made in self.waiting)

    @invariant()
    def the_decider_has_been_told_of_every_end(self) -> None:
        assert {id(made) for made in self.decider.told} == self.ended.keys()

    @invariant()
    def every_job_has_ended_once_or_is_being_sent(self) -> None:
        assert all(made.state == SENDING for made in self.sending)
        assert all(made.state == state and made.worker is None for made, state in self.ended.values())
        assert {state for _, state in self.ended.values()} <= {DONE, FAILED, CANCELLED}

    @invariant()
    def the_fleet_is_in_order(self) -> None:
        assert [one.index for one in self.fleet.ordered] == list(range(len(self.fleet.workers)))
        assert self.fleet.touched <= set(self.fleet.ordered)
        assert all(one.status == OFFLINE for one in self.fleet.ordered if not one.health.reachable)

    def teardown(self) -> None:
        for made in list(self.sending):
            self.perform(made, self.dispatcher.on_outcome(made, SERVED))
        for made in list(self.waiting):
            self.perform(made, self.dispatcher.on_cancel(made))
        assert {one.in_flight for one in self.workers.values()} <= {0}


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = quick(max_examples=120, stateful_step_count=40)


class Words:
    """A text that notes whether it still holds anything."""

    block_tokens = 16

    def __init__(self) -> None:
        self.held = True

    def blocks(self) -> tuple[int, ...]:
        return (1,) if self.held else ()

    def token_ids(self) -> None:
        return None

    def forget(self) -> None:
        self.held = False


def test_the_words_of_a_request_are_kept_while_it_may_be_tried_again_and_no_longer() -> None:
    ways = {
        "served": lambda story: [story.begin(), story.end(SERVED)],
        "failed": lambda story: [story.begin(), story.end(BROKEN_OFF)],
        "passed on": lambda story: [story.begin(), story.end(ANSWERED_500), story.end(ANSWERED_500)],
        "cancelled": lambda story: [story.begin(), story.dispatcher.on_cancel(story.job)],
    }
    for name, ends in ways.items():
        story, words = Story(), Words()
        story.job = job(text=words)
        ends(story)
        assert (name, story.job.finished is not None, words.held) == (name, True, False)
    story, words = Story(), Words()
    story.job = job(text=words)
    story.begin()
    story.end(CONNECT)
    assert (story.job.state, words.held) == (SENDING, True)
    refused, words = Story(refusal=RouterError("model_not_found", "no", "model")), Words()
    refused.job = job(text=words)
    refused.begin()
    assert not words.held
