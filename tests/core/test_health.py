"""May a worker be used: what probes, failed connects and failed answers do to it, second by second."""

from __future__ import annotations

import pytest

from rbeerouter.core.health import Health, HealthRules

RULES = HealthRules(fall=2, rise=2, connect_failures=3, failures=5, ejection_s=10.0, ejection_cap_s=300.0)


def reached() -> Health:
    health = Health()
    health.probed(True, RULES)
    return health


def fail(health: Health, times: int, now: float) -> list[bool]:
    """Failed answers, as many as asked; and whether each called for an ejection."""
    return [health.failed(False, now, RULES) for _ in range(times)]


# Probes.


def test_a_worker_nobody_has_reached_cannot_be_used() -> None:
    assert not Health().usable(0.0)


def test_one_good_probe_lets_a_new_worker_in_and_it_does_not_count_as_coming_back() -> None:
    health = Health()
    assert (health.probed(True, RULES), health.usable(0.0)) == (False, True)


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


def test_a_worker_that_was_away_needs_good_probes_in_a_row_to_come_back() -> None:
    health = reached()
    for _ in range(2):
        health.probed(False, RULES)
    seen = [(health.probed(good, RULES), health.usable(0.0)) for good in (True, False, True, True, True)]
    assert seen == [(False, False), (False, False), (False, False), (True, True), (False, True)]


# Connects.


def test_three_failed_connects_in_a_row_take_the_worker_out_until_probes_succeed() -> None:
    health = reached()
    seen = []
    for _ in range(3):
        health.failed(True, 0.0, RULES)
        seen.append(health.usable(0.0))
    health.answered()
    seen.append(health.usable(0.0))
    for _ in range(2):
        health.probed(True, RULES)
        seen.append(health.usable(0.0))
    assert seen == [True, True, False, False, False, True]


@pytest.mark.parametrize("between", ["answer", "probe"])
def test_only_connects_that_fail_in_a_row_count(between: str) -> None:
    health = reached()
    for _ in range(10):
        for _ in range(2):
            health.failed(True, 0.0, RULES)
        _ = health.answered() if between == "answer" else health.probed(True, RULES)
    assert health.usable(0.0)


def test_a_failed_connect_is_no_failed_answer() -> None:
    health = reached()
    assert not any(health.failed(True, 0.0, RULES) for _ in range(50))
    assert (health.failures, health.ejections) == (0, 0)


# Answers.


def test_failed_answers_in_a_row_call_for_an_ejection() -> None:
    assert fail(reached(), 6, 0.0) == [False, False, False, False, True, True]


def test_a_good_answer_starts_the_count_of_failed_ones_again() -> None:
    health = reached()
    for _ in range(10):
        assert not any(fail(health, 4, now=0.0))
        health.answered()


def test_an_ejection_ends_by_itself_and_no_probe_ends_it_earlier() -> None:
    health = reached()
    health.eject(100.0, RULES)
    health.probed(True, RULES)
    assert [health.usable(now) for now in (100.0, 109.99, 110.0)] == [False, False, True]


def test_each_ejection_in_a_row_lasts_ten_seconds_longer_up_to_five_minutes() -> None:
    health, now, lengths = reached(), 0.0, []
    for _ in range(33):
        health.eject(now, RULES)
        lengths.append(health.ejected_until - now)
        now = health.ejected_until
    assert lengths == [*(10.0 * n for n in range(1, 31)), 300.0, 300.0, 300.0]


def test_the_length_is_spread_so_that_workers_do_not_come_back_together() -> None:
    health = reached()
    health.eject(0.0, RULES, 1.2)
    assert health.ejected_until == 12.0


def test_a_good_answer_makes_the_next_ejection_a_short_one_again() -> None:
    health = reached()
    health.eject(0.0, RULES)
    health.eject(10.0, RULES)
    health.answered()
    health.eject(100.0, RULES)
    assert health.ejected_until == 110.0


def test_after_an_ejection_one_failure_is_enough_until_an_answer_succeeds() -> None:
    health = reached()
    health.eject(0.0, RULES)
    during, after = fail(health, 1, 5.0), fail(health, 1, 10.0)
    health.answered()
    assert (during, after, fail(health, 1, 11.0)) == ([False], [True], [False])


def test_a_connect_that_fails_on_trial_ejects_again() -> None:
    health = reached()
    health.eject(0.0, RULES)
    health.trial_at = 10.0
    assert (health.failed(True, 11.0, RULES, sent=3.0), health.failed(True, 11.0, RULES, sent=10.0)) == (False, True)


def test_an_unreachable_worker_stays_out_when_its_ejection_ends() -> None:
    health = reached()
    health.eject(0.0, RULES)
    for _ in range(3):
        health.failed(True, 1.0, RULES)
    assert not health.usable(11.0)


def test_attempts_that_one_crash_ended_together_count_once() -> None:
    health = reached()
    for _ in range(10):
        health.failed(False, 50.0, RULES, sent=40.0)
    assert (health.failures, health.usable(50.0)) == (1, True)
    health.failed(False, 60.0, RULES, sent=55.0)
    assert health.failures == 2
