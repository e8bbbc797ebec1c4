"""The retry law in numbers: who may be tried again, how often, and after which pause. test_dispatch.py has the stories."""

from __future__ import annotations

import random

import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.core.retry import Retries, RetryRules
from rbeerouter.core.types import Attempt

CONNECT, LOST, FULL, ERROR, SLOW = (
    "upstream_connect_failed", "upstream_disconnected", "upstream_overloaded", "upstream_error_status",
    "upstream_first_content_timeout",
)  # fmt: skip


def attempts(*results: str) -> list[Attempt]:
    return [Attempt(f"w{number}", result, 1.0) for number, result in enumerate(results, 1)]


def allowed(*results: str, made: Retries | None = None, now: float = 0.0) -> bool:
    return (made or Retries()).allowed(FAILURES[results[-1]], attempts(*results), now, 0.0, 100.0)


@pytest.mark.parametrize("code", sorted(code for code, failure in FAILURES.items() if not failure.retry))
def test_what_another_worker_cannot_mend_is_not_tried_again(code: str) -> None:
    assert not allowed(code)


@pytest.mark.parametrize("results", [(CONNECT, CONNECT), (FULL, FULL), (LOST, ERROR), (CONNECT, LOST), (ERROR, FULL)])
def test_two_failures_leave_a_third_try_unless_they_are_of_a_kind_that_has_only_one(results: tuple[str, ...]) -> None:
    assert allowed(*results)


@pytest.mark.parametrize("kind", [LOST, ERROR, SLOW])
def test_a_worker_that_died_failed_or_said_nothing_is_replaced_once(kind: str) -> None:
    assert (allowed(kind), allowed(kind, kind)) == (True, False)
    assert not allowed(kind, CONNECT, kind)


def test_the_third_attempt_is_the_last() -> None:
    assert not allowed(FULL, FULL, FULL)
    assert allowed(FULL, FULL, FULL, made=Retries(RetryRules(attempts=4)))


def test_nothing_is_tried_after_the_deadline() -> None:
    assert (allowed(CONNECT, now=99.0), allowed(CONNECT, now=100.0)) == (True, False)


def test_after_a_silent_worker_two_fifths_of_the_time_must_be_left() -> None:
    assert (allowed(SLOW, now=60.0), allowed(SLOW, now=60.1)) == (True, False)


def test_a_share_of_one_keeps_all_retries_and_a_floor_of_none_keeps_none_while_it_is_quiet() -> None:
    strict = Retries(RetryRules(share=0.0, floor=0))
    assert (allowed(LOST, made=strict), strict.exhausted) == (False, 1)
    assert allowed(CONNECT, made=strict), "nothing is repeated where nothing was sent"
    generous = Retries(RetryRules(share=1.0, floor=0))
    generous.requests = 5
    assert [allowed(LOST, made=generous) for _ in range(6)] == [True] * 5 + [False]
    assert generous.made["lost"] == 5


def test_requests_and_retries_older_than_the_window_count_no_more() -> None:
    made = Retries(RetryRules(share=0.5, floor=0))
    made.tick(0.0)
    made.requests = 4
    assert [allowed(LOST, made=made) for _ in range(3)] == [True, True, False]
    made.tick(1.0)
    made.tick(11.5)
    made.tick(12.0)
    assert not allowed(LOST, made=made), "neither the requests nor the retries of then are there"
    made.requests += 2
    assert [allowed(LOST, made=made) for _ in range(2)] == [True, False]


def test_pauses_double_up_to_their_cap_and_differ() -> None:
    made, rng = Retries(), random.Random(3)
    longest = [max(made.pause_s(FAILURES[LOST], tried, rng) for _ in range(300)) for tried in (1, 2, 3, 9)]
    assert [round(pause, 2) for pause in longest] == [0.05, 0.1, 0.2, 0.25]
    assert made.pause_s(FAILURES[CONNECT], 1, rng) == 0.0


def test_a_connection_that_was_stale_is_paid_for_too() -> None:
    retries = Retries(RetryRules(floor=2, share=0.0))
    assert [retries.spend() for _ in range(3)] == [True, True, False]
    assert retries.exhausted == 1
