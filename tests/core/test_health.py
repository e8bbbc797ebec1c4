"""May a worker be used: what probes, failed connects and failed answers do to it, second by second."""

from __future__ import annotations

import pytest

from rbeerouter.core.health import Health, HealthRules

RULES = HealthRules(fall=2, failures=5, ejection_s=10.0, ejection_cap_s=300.0)


def reached() -> Health:
    health = Health()
    health.probed(True, RULES)
    return health


def fail(health: Health, times: int, now: float) -> None:
    for _ in range(times):
        health.failed(False, now, RULES)


def test_a_worker_nobody_has_reached_cannot_be_used() -> None:
    assert not Health().usable(0.0)


def test_one_good_probe_lets_a_new_worker_in() -> None:
    assert reached().usable(0.0)


def test_one_failed_probe_is_forgiven_and_the_second_in_a_row_is_not() -> None:
    health = reached()
    seen = []
    for _ in range(3):
        health.probed(False, RULES)
        seen.append(health.usable(0.0))
    assert seen == [True, False, False]


def test_a_good_probe_starts_the_count_of_failed_ones_again() -> None:
    health = reached()
    seen = []
    for answered in (False, True, False, True, False, False):
        health.probed(answered, RULES)
        seen.append(health.usable(0.0))
    assert seen == [True, True, True, True, True, False]


@pytest.mark.parametrize("fall", [1, 3])
def test_the_number_of_probes_that_may_fail_is_the_operators(fall: int) -> None:
    health, rules = reached(), HealthRules(fall=fall)
    seen = []
    for _ in range(fall):
        health.probed(False, rules)
        seen.append(health.usable(0.0))
    assert seen == [True] * (fall - 1) + [False]


def test_a_failed_connect_takes_the_worker_out_until_a_probe_succeeds() -> None:
    health = reached()
    health.failed(True, 0.0, RULES)
    after_connect = health.usable(1_000_000.0)
    health.answered()
    after_an_old_job = health.usable(0.0)
    health.probed(True, RULES)
    assert (after_connect, after_an_old_job, health.usable(0.0)) == (False, False, True)


def test_a_failed_connect_is_no_failed_answer() -> None:
    health = reached()
    for _ in range(50):
        health.failed(True, 0.0, RULES)
    health.probed(True, RULES)
    assert (health.usable(0.0), health.failures, health.ejections) == (True, 0, 0)


def test_failed_answers_in_a_row_eject_for_ten_seconds_and_it_ends_by_itself() -> None:
    health = reached()
    fail(health, 4, now=100.0)
    before = health.usable(100.0)
    fail(health, 1, now=100.0)
    assert before
    assert [health.usable(now) for now in (100.0, 109.99, 110.0)] == [False, False, True]


def test_a_good_answer_starts_the_count_of_failed_ones_again() -> None:
    health = reached()
    for _ in range(10):
        fail(health, 4, now=0.0)
        health.answered()
    assert health.usable(0.0)


def test_each_ejection_in_a_row_lasts_ten_seconds_longer_up_to_five_minutes() -> None:
    health, now, lengths = reached(), 0.0, []
    for _ in range(33):
        fail(health, 5, now)
        lengths.append(health.ejected_until - now)
        now = health.ejected_until
    assert lengths == [*(10.0 * n for n in range(1, 31)), 300.0, 300.0, 300.0]


def test_a_good_answer_makes_the_next_ejection_a_short_one_again() -> None:
    health = reached()
    fail(health, 5, now=0.0)
    fail(health, 5, now=10.0)
    health.answered()
    fail(health, 5, now=100.0)
    assert health.ejected_until == 110.0


def test_a_probe_does_not_lift_an_ejection() -> None:
    health = reached()
    fail(health, 5, now=0.0)
    health.probed(True, RULES)
    assert [health.usable(now) for now in (9.0, 10.0)] == [False, True]


def test_jobs_that_still_fail_during_an_ejection_make_it_longer() -> None:
    health = reached()
    fail(health, 5, now=0.0)
    fail(health, 5, now=4.0)
    assert [health.usable(now) for now in (10.0, 23.9, 24.0)] == [False, False, True]


def test_an_unreachable_worker_stays_out_when_its_ejection_ends() -> None:
    health = reached()
    fail(health, 5, now=0.0)
    health.failed(True, 1.0, RULES)
    assert not health.usable(11.0)


def test_attempts_that_one_crash_ended_together_count_once() -> None:
    health = Health()
    health.probed(True, RULES)
    for _ in range(10):
        health.failed(False, 50.0, RULES, sent=40.0)

    assert (health.failures, health.usable(50.0)) == (1, True)

    health.failed(False, 60.0, RULES, sent=55.0)

    assert health.failures == 2
