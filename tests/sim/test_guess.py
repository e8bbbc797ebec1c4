"""Tests of the first guess, on logs of workers whose speed is known."""

from __future__ import annotations

import pytest

from rbeerouter.sim.guess import FITTED, Level, first_guess, most_at_once
from rbeerouter.sim.observe import Seen
from rbeerouter.sim.types import Profile
from tests.sim.logged import FAST, SLOW, seen_of


def test_a_level_is_what_all_intervals_amount_to() -> None:
    level = Level([(0.0, 10.0, 1.0), (5.0, 10.0, 3.0)])
    assert level.most() == 4
    assert level.mean(0.0, 10.0) == pytest.approx(2.5)
    assert level.mean(4.0, 6.0) == pytest.approx(2.5)
    assert level.mean(20.0, 30.0) == 0.0


def test_a_request_that_follows_another_at_once_was_not_beside_it() -> None:
    after = [Seen(at / 1000, 0.1, 0.1, 1, 2, True) for at in range(0, 1000, 100)]
    beside = [Seen(at / 1000, 0.1, 0.15, 1, 2, True) for at in range(0, 1000, 100)]
    assert (most_at_once(after), most_at_once(beside)) == (1, 2)


@pytest.mark.parametrize(("profile", "per_second"), [(SLOW, 2.0), (FAST, 2.0)])
def test_it_is_near_what_made_the_log(profile: Profile, per_second: float) -> None:
    guessed = dict(zip(FITTED, first_guess(seen_of(profile, 400, per_second), profile.slots), strict=True))
    assert guessed["step_s"] == pytest.approx(profile.step_s, rel=0.1)
    assert guessed["prefill_s"] == pytest.approx(profile.prefill_s, rel=0.15)
    assert guessed["sequence_s"] == pytest.approx(profile.sequence_s, rel=0.3)


def test_answers_in_one_piece_tell_something_too() -> None:
    whole = [Seen(one.sent_s, None, one.end_s, one.tokens_in, one.tokens_out, True) for one in seen_of(SLOW, 400, 2.0)]
    guessed = dict(zip(FITTED, first_guess(whole, SLOW.slots), strict=True))
    assert guessed["step_s"] == pytest.approx(SLOW.step_s, rel=0.4)
    assert guessed["prefill_s"] == pytest.approx(SLOW.prefill_s, rel=0.4)


def test_without_a_request_that_counts_nothing_is_guessed() -> None:
    assert first_guess([Seen(0.0, 0.1, 0.2, 10, 10, False)], 4) == [0.0] * 5
