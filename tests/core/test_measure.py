"""How fast a worker is and how often it fails: what each answer and each minute make of the figures."""

from __future__ import annotations

from math import exp

import pytest

from rbeerouter.core import measure
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Report, Worker
from tests.support.builders import fleet, worker

DISCONNECTED = FAILURES["upstream_disconnected"]


def one() -> Worker:
    return fleet("w1").workers["w1"]


def serve(
    made: Fleet, name: str, at: float, seconds: float, ttft_s: float | None = None, tokens: int | None = None
) -> None:
    made.sent(made.workers[name], at - seconds)
    made.finished(made.workers[name], None, at, at - seconds, ttft_s, tokens)


# The first content.


def test_a_slow_first_content_shows_at_once_and_fades_within_ten_seconds() -> None:
    shown = one()
    measure.observe(shown, 0.0, 1.0, 0.1, None)
    measure.observe(shown, 1.0, 3.0, 2.0, None)
    at_once = shown.ttft_ms
    measure.observe(shown, 11.0, 1.0, 0.1, None)
    assert (at_once, shown.ttft_ms) == (2000.0, pytest.approx(100.0 + 1900.0 * exp(-1)))


def test_a_worker_that_became_slow_ranks_behind_the_others_before_ten_seconds_are_over() -> None:
    made = fleet("w1", "w2")
    for now in range(10):
        serve(made, "w1", float(now), 1.0, 0.1)
        serve(made, "w2", float(now), 1.0, 0.2)
    before = min(made.ordered, key=lambda w: w.ttft_ms or 0).id
    serve(made, "w1", 10.0, 5.0, 1.5)
    ranks = []
    for now in range(11, 21):
        serve(made, "w2", float(now), 1.0, 0.2)
        ranks.append(min(made.ordered, key=lambda w: w.ttft_ms or 0).id)
    assert (before, set(ranks)) == ("w1", {"w2"})


# Tokens.


def test_the_gap_between_tokens_is_what_is_left_of_the_time_after_the_first() -> None:
    shown = one()
    measure.observe(shown, 1.0, 1.1, 0.1, 101)
    assert shown.inter_token_ms == pytest.approx(10.0)


@pytest.mark.parametrize(("ttft_s", "tokens"), [(None, 50), (0.1, None), (0.1, 1), (1.1, 50), (0.1, 0)])
def test_answers_that_do_not_tell_the_gap_leave_it_unknown(ttft_s: float | None, tokens: int | None) -> None:
    shown = one()
    measure.observe(shown, 1.0, 1.1, ttft_s, tokens)
    assert shown.inter_token_ms is None


def test_tokens_per_second_are_those_of_the_last_minute() -> None:
    made = fleet("w1", "w2")
    made.tick(0.0)
    for now in range(1, 11):
        serve(made, "w1", float(now), 1.0, 0.1, 60)
        made.tick(float(now))
    busy = made.workers["w1"].tokens_per_s
    for now in range(11, 80):
        made.tick(float(now))
    assert (busy, made.workers["w1"].tokens_per_s, made.workers["w2"].tokens_per_s) == (60.0, 0.0, None)


def test_the_engines_own_counter_of_tokens_comes_first_as_it_counts_others_requests_too() -> None:
    made = fleet("w1")
    made.apply(Report("w1", True, None, 0.0, generated_tokens=1000.0))
    made.tick(0.0)
    serve(made, "w1", 5.0, 1.0, 0.1, 10)
    made.apply(Report("w1", True, None, 10.0, generated_tokens=3000.0))
    made.tick(10.0)
    assert made.workers["w1"].tokens_per_s == 200.0


# Errors.


def test_the_error_rate_is_that_of_the_last_minute_and_unknown_without_answers() -> None:
    made = fleet("w1", "w2", "w3")
    one, seen = made.workers["w1"], []
    made.tick(0.0)
    for bad in (True, False, False, False):
        made.sent(one, 1.0)
        made.finished(one, DISCONNECTED if bad else None, 1.0)
    for now in range(1, 75):
        made.tick(float(now))
        seen.append(one.error_rate)
    assert (seen[0], seen[48], seen[-1]) == (0.25, 0.25, None)


# Performance.


def performing(auto: bool = True) -> Fleet:
    return fleet(worker("w1", models=("m",), max_concurrency=4, measure_performance=auto, performance=None))


def test_performance_is_measured_only_where_the_operator_asks_for_it() -> None:
    made = performing(auto=False)
    serve(made, "w1", 1.0, 1.0, 0.1, 50)
    made.tick(20.0)
    assert made.workers["w1"].performance is None


def test_measured_performance_is_the_speed_of_one_request() -> None:
    made = performing()
    version = made.version
    serve(made, "w1", 2.0, 2.0, 0.1, 100)
    made.tick(2.0)
    assert (made.workers["w1"].performance, made.version > version) == (50.0, True)


def test_a_full_worker_shows_no_lower_performance_than_it_has() -> None:
    made = performing()
    serve(made, "w1", 2.0, 2.0, 0.1, 100)
    for _ in range(3):
        made.sent(made.workers["w1"], 2.0)
    for now in range(3, 20):
        serve(made, "w1", float(now), 10.0, 0.1, 100)
    made.tick(20.0)
    assert made.workers["w1"].performance == 50.0


def test_small_changes_of_performance_do_not_make_scripts_take_their_workers_anew() -> None:
    made = performing()
    serve(made, "w1", 2.0, 2.0, 0.1, 100)
    made.tick(2.0)
    version = made.version
    serve(made, "w1", 4.0, 2.0, 0.1, 104)
    made.tick(4.0)
    assert (made.workers["w1"].performance, made.version) == (50.0, version)


def test_a_worker_whose_answers_name_no_tokens_is_measured_by_its_counter() -> None:
    made = performing()
    made.apply(Report("w1", True, None, 0.0, running=2, waiting=0, generated_tokens=100.0))
    made.apply(Report("w1", True, None, 5.0, running=2, waiting=0, generated_tokens=500.0))
    made.tick(5.0)
    assert made.workers["w1"].performance == 40.0
