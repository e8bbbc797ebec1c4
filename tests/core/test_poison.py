"""Requests that break workers: refused after two, for a minute, and never many remembered."""

from __future__ import annotations

from rbeerouter.core.poison import Poison

A, B = b"hash-a", b"hash-b"


def test_a_body_that_has_broken_two_workers_is_refused() -> None:
    poison = Poison()
    seen = [poison.strike(A, "w1", 0.0), poison.refused(A, 0.0), poison.strike(A, "w2", 1.0), poison.refused(A, 1.0)]
    assert seen == [False, False, True, True]


def test_the_same_worker_twice_may_be_the_workers_own_fault() -> None:
    poison = Poison()
    assert [poison.strike(A, "w1", float(now)) for now in range(5)] == [False] * 5


def test_who_died_together_with_others_needs_one_worker_more() -> None:
    poison = Poison()
    for worker in ("w1", "w2"):
        died = [poison.strike(A, worker, 1.0, 0.5, company=True), poison.strike(B, worker, 1.1, 0.6)]
        assert died == [False, False], "the last of those that died together was not alone"
    assert (poison.refused(A, 2.0), poison.strike(A, "w3", 2.0), poison.refused(B, 2.0)) == (False, True, False)


def test_who_died_alone_once_is_refused_though_it_had_company_before() -> None:
    poison = Poison()
    assert (poison.strike(A, "w1", 1.0, 0.5, company=True), poison.strike(A, "w2", 9.0, 8.5)) == (False, True)


def test_a_death_from_before_a_request_was_sent_is_no_company() -> None:
    poison = Poison()
    struck = [poison.strike(body, worker, now, now - 0.1) for now, body in ((1.0, A), (1.2, B)) for worker in ("w1", "w2")]
    assert struck == [False, True, False, True]


def test_other_bodies_are_not_refused_with_it() -> None:
    poison = Poison(strikes=1)
    poison.strike(A, "w1", 0.0)
    assert (poison.refused(A, 0.0), poison.refused(B, 0.0)) == (True, False)


def test_it_may_be_tried_again_when_its_minute_is_over_and_then_counts_afresh() -> None:
    poison = Poison(hold_s=60.0)
    for name in ("w1", "w2"):
        poison.strike(A, name, 0.0)
    refused = [poison.refused(A, now) for now in (59.9, 60.0)]
    assert (refused, poison.strike(A, "w3", 60.0), poison.strike(A, "w1", 61.0)) == ([True, False], False, True)


def test_a_body_that_was_served_in_the_end_is_forgiven() -> None:
    poison = Poison()
    poison.strike(A, "w1", 0.0)
    poison.forgive(A)
    poison.forgive(B)
    assert (bool(poison.seen), poison.strike(A, "w2", 1.0)) == (False, False)


def test_nothing_is_suspected_until_something_fails_and_again_when_time_is_over() -> None:
    poison = Poison(hold_s=60.0)
    seen = [bool(poison.seen)]
    poison.strike(A, "w1", 0.0)
    poison.strike(B, "w1", 30.0)
    for now in (59.0, 60.0, 90.0):
        poison.tick(now)
        seen.append(len(poison) > 0)
    assert seen == [False, True, True, False]


def test_only_so_many_are_remembered_and_the_oldest_are_forgotten() -> None:
    poison = Poison(strikes=1, most=3)
    for number in range(10):
        poison.strike(b"%d" % number, "w1", float(number))
    assert [poison.refused(b"%d" % number, 10.0) for number in range(10)] == [False] * 7 + [True] * 3


def test_without_strikes_nothing_is_ever_refused() -> None:
    poison = Poison(strikes=0)
    assert (poison.strike(A, "w1", 0.0), poison.strike(A, "w2", 0.0), poison.refused(A, 0.0), bool(poison.seen)) == (
        False, False, False, False,
    )  # fmt: skip
