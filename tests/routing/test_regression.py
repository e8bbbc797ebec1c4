"""What is fitted to answers: the coefficients that made them, without negative ones, and the lengths of answers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.routing.strategies.regression import AnswerLengths, LeastSquares
from tests.support.builders import quick

TRUE = (0.05, 0.2, 0.1, 0.01)


def answers(count: int, true: tuple[float, ...] = TRUE, noise: float = 0.0, seed: int = 1) -> LeastSquares:
    """Fitted to answers to requests of all sizes."""
    rng, made = random.Random(seed), LeastSquares(len(true), 200)
    feed(made, rng, count, true, noise)
    return made


def feed(made: LeastSquares, rng: random.Random, count: int, true: tuple[float, ...], noise: float = 0.0) -> None:
    for _ in range(count):
        inputs = (1.0, rng.lognormvariate(-0.7, 1.0), rng.expovariate(0.5), float(rng.randrange(16)))[: len(true)]
        seconds = sum(a * b for a, b in zip(true, inputs, strict=True))
        made.add(inputs, seconds * rng.uniform(1.0 - noise, 1.0 + noise))


@pytest.mark.parametrize(("noise", "off"), [(0.0, 0.001), (0.05, 0.05)])
def test_the_coefficients_that_made_the_answers_are_found(noise: float, off: float) -> None:
    assert answers(1000, noise=noise).coefficients == pytest.approx(TRUE, rel=off)


def test_a_worker_that_has_changed_is_known_again_after_some_hundred_answers() -> None:
    made, slower = answers(1000), tuple(3 * part for part in TRUE)
    feed(made, random.Random(2), 1200, slower)
    assert made.coefficients == pytest.approx(slower, rel=0.05)


def test_no_coefficient_is_negative_and_the_others_make_up_for_it() -> None:
    made = LeastSquares(2, 200)
    for x, y in ((0.0, 2.0), (1.0, 1.0), (2.0, 0.6)) * 20:
        made.add((1.0, x), y)
    assert made.coefficients == (pytest.approx(1.2, rel=0.02), 0.0)


def test_inputs_that_never_differ_are_no_fault() -> None:
    made = LeastSquares(3, 200)
    for _ in range(100):
        made.add((1.0, 2.0, 2.0), 5.0)
    assert made.expected((1.0, 2.0, 2.0)) == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_spread_is_how_far_answers_are_off(noise: float) -> None:
    assert answers(1000, noise=noise).spread == pytest.approx(noise / 3**0.5, abs=0.03)


def test_one_wild_answer_says_no_more_than_one_that_is_five_times_as_long() -> None:
    mild, wild = answers(300), answers(300)
    expected = mild.expected((1.0, 1.0, 1.0, 1.0))
    mild.add((1.0, 1.0, 1.0, 1.0), 5 * expected)
    wild.add((1.0, 1.0, 1.0, 1.0), 500 * expected)
    assert wild.spread == pytest.approx(mild.spread) == pytest.approx((16 / 200) ** 0.5, rel=0.01)


@quick(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0, 1e4)), max_size=40))
def test_whatever_the_answers_were_nothing_is_expected_to_take_less_than_no_time(
    given_answers: list[tuple[float, float, float]],
) -> None:
    made = LeastSquares(3, 50)
    for x, other, y in given_answers:
        made.add((1.0, x, other), y)
    assert all(part >= 0.0 for part in made.coefficients) and made.spread >= 0.0


def mean(made: AnswerLengths, tokens_in: int, most: int | None = None) -> float:
    found = made.expected(tokens_in, most)
    assert found is not None
    return found[0]


def test_the_length_of_an_answer_is_the_mean_of_those_to_prompts_of_its_length() -> None:
    made = AnswerLengths(1000)
    for tokens_in, tokens_out in ((100, 10), (110, 30), (5000, 400)):
        made.add(tokens_in, tokens_out)
    means = [mean(made, tokens_in) for tokens_in in (64, 127, 4096, 20)]
    assert means == pytest.approx([20.0, 20.0, 400.0, 440 / 3], rel=0.01), "of 20 tokens there were none, so all count"


def test_what_is_cut_off_counts_as_long_as_it_may_get() -> None:
    made = AnswerLengths(1000)
    for tokens_out in (10, 300, 1000):
        made.add(100, tokens_out)
    assert mean(made, 100, 50) == pytest.approx((10 + 50 + 50) / 3, rel=0.01)


def test_caution_adds_how_far_lengths_are_apart_and_nothing_gets_longer_than_it_may() -> None:
    made = AnswerLengths(1000)
    for tokens_out in (10, 10, 300, 300):
        made.add(100, tokens_out)
    lengths = [made.expected(100, most, caution)[1] for most, caution in ((None, 1.0), (None, 2.0), (200, 1.0))]
    assert lengths == pytest.approx([155 + 145, 155 + 290, 105 + 95], rel=0.01)


def test_old_lengths_are_forgotten_and_without_any_there_is_no_mean() -> None:
    made = AnswerLengths(20)
    assert made.expected(100) is None
    for tokens_out in (1000, *[10] * 200):
        made.add(100, tokens_out)
    assert mean(made, 100) == pytest.approx(10, rel=0.01)


def test_the_longest_lengths_share_a_bucket() -> None:
    made = AnswerLengths(20)
    made.add(0, 0)
    made.add(1 << 40, 1 << 30)
    assert mean(made, 1 << 21) == 1 << 30
