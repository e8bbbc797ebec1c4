"""The life of a job that waits or is turned away: when it goes, when its time is over, and what its client is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rbeerouter.core.dispatch import CANCELLED, FAILED, FINISH, SENDING, WAITING, Dispatcher, Fail, Job, Send, Wait
from rbeerouter.core.errors import FAILURES, Failure, RouterError, refusal
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.memory import Memories
from rbeerouter.core.queue import QueueRules
from rbeerouter.core.retry import RetryRules
from rbeerouter.core.types import BUSY, READY, REJECT, WAIT, Decision, Outcome, Patience, Report, Request, Worker
from tests.support.builders import Clock, down, env, fill, fleet, job, worker

SERVED = Outcome(None, 200, committed=True, delivered=True)
CONNECT = Outcome(FAILURES["upstream_connect_failed"])
NOBODY = RouterError("no_healthy_worker", "nobody is there")
UNKNOWN = RouterError("model_not_found", "there is no such model", "model")


class Told:
    """A decider that says what the test has told it to, and takes the first worker with room for those who wait."""

    def __init__(self, made: Fleet) -> None:
        self.fleet = made
        self.says: Callable[[Request], Decision] = lambda request: self.wait()
        self.then: Decision | None = None
        self.seen = None
        self.memories = Memories()
        self.shares = None
        self.refusal: RouterError | None = None
        self.ended: list[Job] = []

    def wait(self, name: str | None = None, timeout_s: float | None = None, priority: int = 0, **more: Any) -> Decision:
        named = None if name is None else self.fleet.workers[name]
        return Decision(named, "script", "routing.lua:3", action=WAIT, patience=Patience(timeout_s, priority), **more)

    def decide(self, request: Request, wall: float | None = None) -> Decision:
        return self.says(request)

    def room_for(self, job: Job) -> Decision | None:
        if self.refusal is not None:
            raise self.refusal
        free = next((one for one in self.serving(job) if one.status == READY), None)
        return None if free is None else msgspec.structs.replace(job.decision, worker=free)

    def serving(self, job: Job) -> list[Worker]:
        return [one for one in self.fleet.ordered if one.serves(job.request.model)]

    def another(self, job: Job, failure: Failure) -> Decision | None:
        return self.then

    def completed(self, job: Job) -> None:
        self.ended.append(job)


class Story:
    """Two workers with room for one request each, both full of others' requests."""

    def __init__(self, **rules: Any) -> None:
        self.clock = Clock()
        self.fleet = fleet(*(worker(name, models=("m",), max_concurrency=1) for name in ("w1", "w2")))
        self.w1, self.w2 = self.fleet.ordered
        self.decider = Told(self.fleet)
        self.dispatcher = Dispatcher(self.fleet, self.decider, env(self.clock))
        self.dispatcher.queue.rules = QueueRules(**rules)
        for one in self.fleet.ordered:
            fill(self.fleet, one.id, 1)

    def ask(
        self, *waiting: Any, user: str | None = None, timeout: float | None = None, **patience: Any
    ) -> tuple[Job, Any]:
        """A request that is to wait, and what comes of it at once."""
        made = job(user_id=user, timeout_s=timeout)
        made.arrived = self.clock.now_s
        self.decider.says = lambda request: self.decider.wait(*waiting, **patience)
        return made, self.dispatcher.on_request(made)

    def free(self, one: Worker) -> None:
        self.fleet.finished(one, None, self.clock.now_s)

    def tick(self) -> list[tuple[Job, Any]]:
        return self.dispatcher.on_tick(self.clock.now_s)


def code(effect: Any) -> str:
    assert isinstance(effect, Fail)
    return effect.failure.code


# Waiting.


def test_a_request_goes_at_once_when_its_worker_has_room() -> None:
    story = Story()
    story.free(story.w2)
    made, effect = story.ask("w2")
    assert (effect, made.state, story.w2.in_flight, story.dispatcher.waiting) == (Send(story.w2, None), SENDING, 1, {})
    assert (made.queue_s, made.tried) == (0.0, ["w2"])


def test_a_request_for_any_worker_goes_at_once_where_there_is_room() -> None:
    story = Story()
    story.free(story.w2)
    made, effect = story.ask()
    assert (effect, made.decision.worker) == (Send(story.w2, None), story.w2)


def test_a_request_waits_until_its_worker_has_room_and_is_counted_there_in_the_same_step() -> None:
    story = Story()
    made, effect = story.ask("w1", headers=(("x-priority", "1"),), model="other")
    assert (type(effect), made.state, made.worker, made.tried, len(story.dispatcher.waiting)) == (Wait, WAITING, None, [], 1)
    story.free(story.w2)
    assert story.tick() == [], "another worker's room is not for it"
    story.clock.advance(1.5)
    story.free(story.w1)
    assert story.tick() == [(made, Send(story.w1, "other", headers=(("x-priority", "1"),)))]
    assert (made.state, story.w1.in_flight, story.w1.status, made.queue_s, made.sent) == (SENDING, 1, BUSY, 1.5, 101.5)
    assert (story.tick(), story.dispatcher.waiting) == ([], {})
    assert (made.decision.by, made.decision.reason, made.decision.worker) == ("script", "routing.lua:3", story.w1)


def test_a_request_does_not_wait_for_a_named_worker_that_only_others_fill() -> None:
    story = Story()
    story.free(story.w1)
    story.fleet.apply(Report("w1", True, None, 0.0, running=1))
    assert story.w1.status == BUSY
    made, effect = story.ask("w1")
    assert (effect, made.state) == (Send(story.w1, None), SENDING)
    assert story.ask("w1")[1] == Wait()


def test_only_as_many_go_as_have_room() -> None:
    story = Story()
    first, second, third = (story.ask()[0] for _ in range(3))
    story.free(story.w1)
    story.free(story.w2)
    assert [(made, effect.worker) for made, effect in story.tick()] == [(first, story.w1), (second, story.w2)]
    assert list(story.dispatcher.waiting) == [third]


def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    story = Story()
    first, _ = story.ask("w1")
    story.free(story.w1)
    second, effect = story.ask()
    assert type(effect) is Wait
    third, effect = story.ask("w1", priority=1)
    assert effect == Send(story.w1, None), "a higher priority stands before them"
    story.free(story.w1)
    story.free(story.w2)
    assert [made for made, _ in story.tick()] == [first, second]
    assert third.state == SENDING


def test_the_rewritten_model_goes_to_the_worker_it_was_chosen_for_and_to_no_other() -> None:
    story = Story()
    made, _ = story.ask("w1", model="large")
    story.fleet.configure([worker("w2", models=("m",), max_concurrency=2)])
    assert story.tick() == [(made, Send(story.w2, None))]
    assert (made.decision.worker, made.decision.model) == (story.w2, None)


def test_who_has_waited_too_long_is_told_so() -> None:
    story = Story()
    made, _ = story.ask("w1", 2.0)
    story.clock.advance(1.9)
    too_early = story.tick()
    story.clock.advance(0.35)
    ((late, effect),) = story.tick()
    assert (too_early, late, code(effect), effect.message) == (
        [], made, "queue_timeout", "no worker had room for this request within 2.25 s",
    )  # fmt: skip
    assert (made.state, made.status, made.queue_s, made.decision.reason) == (FAILED, 503, 2.25, "routing.lua:3")
    assert (story.decider.ended, story.dispatcher.waiting, story.tick()) == ([made], {}, [])


def test_somebody_whose_time_is_over_as_a_worker_gets_free_still_goes() -> None:
    story = Story()
    made, _ = story.ask("w1", 1.0)
    story.clock.advance(5.0)
    story.free(story.w1)
    assert story.tick() == [(made, Send(story.w1, None))]


def test_a_request_with_no_patience_never_waits() -> None:
    story = Story()
    made, effect = story.ask("w1", 0)
    assert (code(effect), made.state, story.decider.ended) == ("queue_timeout", FAILED, [made])


@pytest.mark.parametrize("length", [0, 2])
def test_a_full_queue_takes_nobody(length: int) -> None:
    story = Story(length=length)
    for _ in range(length):
        assert type(story.ask("w1")[1]) is Wait
    made, effect = story.ask("w2")
    assert (code(effect), effect.failure.status, effect.failure.retry_after, made.state) == ("queue_full", 503, 5, FAILED)
    assert effect.message == f"no worker has room for this request, and the queue of {length} is full"
    story.free(story.w2)
    assert type(story.ask("w2")[1]) is Send, "room is room"


def test_one_caller_may_not_take_the_whole_queue() -> None:
    story = Story(per_caller=2)
    assert [type(story.ask("w1", user="one")[1]) for _ in range(2)] == [Wait, Wait]
    made, effect = story.ask("w1", user="one")
    assert (code(effect), made.state) == ("queue_full", FAILED)
    assert effect.message == "no worker has room for this request, and 2 of the same caller wait already"
    assert type(story.ask("w1", user="somebody else")[1]) is Wait
    assert [type(story.ask("w1")[1]) for _ in range(3)] == [Wait] * 3, "who has no name is not one caller"


def test_a_request_whose_turn_would_come_too_late_is_refused_at_once_and_told_when_it_may_come_back() -> None:
    story = Story()
    story.w1.latency_ms = 2000.0
    assert [type(story.ask("w1", 5.0)[1]) for _ in range(2)] == [Wait, Wait]      # in about 2 and 4 s
    made, effect = story.ask("w1", 5.0)
    assert (code(effect), effect.failure.retry_after, made.state) == ("queue_timeout", 1, FAILED)
    assert effect.message == "its turn would come in about 6 s, and it can wait for 5 s"
    assert type(story.ask("w1", 6.5)[1]) is Wait


def test_a_request_waits_no_longer_than_its_client_wants_to() -> None:
    story = Story()
    made, effect = story.ask("w1", timeout=1.0)
    story.clock.advance(1.25)
    ((late, effect),) = story.tick()
    assert (late, code(effect)) == (made, "queue_timeout")


def test_who_waits_can_be_told_its_place_and_when_its_turn_comes() -> None:
    story = Story()
    (first, _), (second, _) = story.ask("w1"), story.ask("w1")
    unknown = story.dispatcher.place(second)
    story.w1.latency_ms = 1500.0
    assert (unknown, story.dispatcher.place(first), story.dispatcher.place(second)) == ((1, None), (0, 1.5), (1, 3.0))


@pytest.mark.parametrize("cancel", ["client_gone", "draining"])
def test_a_cancelled_request_never_reaches_a_worker(cancel: str) -> None:
    story = Story()
    made, _ = story.ask("w1")
    story.clock.advance(0.5)
    assert story.dispatcher.on_cancel(made, cancel) == FINISH
    story.free(story.w1)
    assert (story.tick(), story.w1.in_flight, made.state, made.queue_s, made.attempts) == ([], 0, CANCELLED, 0.5, [])
    assert story.decider.ended == [made]


def test_requests_wait_for_workers_that_are_offline_as_they_may_come_back() -> None:
    story = Story()
    for name in ("w1", "w2"):
        down(story.fleet, name)
    story.decider.refusal = NOBODY
    (one, named), (other, anyone) = story.ask("w1"), story.ask()
    assert (type(named), type(anyone), story.tick()) == (Wait, Wait, [])
    story.decider.refusal = None
    story.fleet.configure([worker(name, models=("m",), max_concurrency=2) for name in ("w1", "w2")])
    for index in (0, 1):
        story.fleet.ordered[index].health.reachable = True
        story.fleet._refresh(story.fleet.ordered[index], story.clock.now_s)
    assert {id(made) for made, _ in story.tick()} == {id(one), id(other)}


def test_nobody_waits_for_a_model_that_no_worker_serves() -> None:
    story = Story()
    waiting = [story.ask()[0] for _ in range(2)]
    story.decider.refusal = UNKNOWN
    made, effect = story.ask()
    assert (code(effect), effect.param, made.state) == ("model_not_found", "model", FAILED)
    assert [(gone, code(effect)) for gone, effect in story.tick()] == [(gone, "model_not_found") for gone in waiting]
    assert (story.dispatcher.waiting, [gone.state for gone in waiting]) == ({}, [FAILED, FAILED])


def test_a_worker_that_fails_after_the_wait_is_replaced_and_the_wait_is_not_forgotten() -> None:
    story = Story()
    made, _ = story.ask("w1", log=("waits",))
    story.clock.advance(2.0)
    story.free(story.w1)
    story.tick()
    story.free(story.w2)
    story.decider.then = Decision(story.w2, "failover", "next", log=("again",))
    assert story.dispatcher.on_outcome(made, CONNECT) == Send(story.w2, None)
    assert (made.queue_s, made.decision.reason, made.decision.log) == (2.0, "routing.lua:3; then next", ("waits", "again"))
    assert (story.w1.in_flight, story.w2.in_flight) == (0, 1)


def test_a_request_may_wait_again_after_a_failure() -> None:
    story = Story()
    made, _ = story.ask("w1")
    story.free(story.w1)
    story.tick()
    story.decider.then = story.decider.wait("w2")
    assert type(story.dispatcher.on_outcome(made, CONNECT)) is Wait
    story.clock.advance(3.0)
    story.free(story.w2)
    assert story.tick() == [(made, Send(story.w2, None))]
    assert (made.tried, made.queue_s) == (["w1", "w2"], 3.0)


# Turning away.


def test_a_rejected_request_fails_with_the_script_s_own_words() -> None:
    story = Story()
    words = refusal(429, "come back later", 7)
    made = job()
    story.decider.says = lambda request: Decision(None, "script", "routing.lua:9", action=REJECT, refusal=words, log=("no",))
    effect = story.dispatcher.on_request(made)
    assert effect == Fail(words.failure, "come back later")
    assert (made.state, made.status, made.failure.code, made.failure.retry_after) == (FAILED, 429, "script_rejected", 7)
    assert (made.decision.by, made.decision.log, made.tried, story.decider.ended) == ("script", ("no",), [], [made])


def test_a_script_may_turn_a_request_away_after_a_worker_has_failed() -> None:
    story = Story()
    story.free(story.w1)
    made, _ = story.ask("w1")
    words = refusal(503, "enough")
    story.decider.then = Decision(None, "failover", "on_failure routing.lua:20", action=REJECT, refusal=words)
    assert story.dispatcher.on_outcome(made, CONNECT) == Fail(words.failure, "enough")
    assert (made.state, made.status, story.w1.in_flight, story.decider.ended) == (FAILED, 503, 0, [made])
    assert made.decision.reason == "routing.lua:3; then on_failure routing.lua:20"


def test_the_order_and_headers_of_the_first_decision_hold_until_another_has_its_own() -> None:
    story = Story()
    headers, order = (("x-priority", "1"),), (story.w2,)
    story.decider.says = lambda request: Decision(story.w1, "script", "first", headers=headers, then=order, error="a")
    made = job()
    story.dispatcher.retries.rules = RetryRules(4)
    seen = [story.dispatcher.on_request(made).headers]
    for another in (
        Decision(story.w2, "failover", "second"),
        Decision(story.w1, "failover", "third", headers=(("x-session-id", "s"),), then=(), error="b"),
    ):
        story.decider.then = another
        seen.append(story.dispatcher.on_outcome(made, CONNECT).headers)
        seen.append(made.decision.then)
    assert seen == [headers, headers, order, (("x-session-id", "s"),), ()]
    assert (made.decision.reason, made.decision.error) == ("first; then second; then third", "a; b")
