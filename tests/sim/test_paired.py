"""Tests of the confidence intervals, against what is known of Student's t."""

from __future__ import annotations

import math
import random

import pytest

from rbeerouter.sim.paired import interval, t95


@pytest.mark.parametrize(("freedom", "quantile"), [
    (1, math.tan(0.475 * math.pi)),                            # Cauchy's distribution
    (2, 0.95 / math.sqrt(2 * 0.975 * 0.025)),
    (4, 2.7764), (10, 2.2281), (30, 2.0423), (31, 2.0395), (40, 2.0211), (60, 2.0003), (120, 1.9799), (10_000, 1.9602),
])  # fmt: skip
def test_the_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t95(freedom) == pytest.approx(quantile, rel=1e-4)


def test_quantiles_fall_with_the_degrees_of_freedom() -> None:
    values = [t95(freedom) for freedom in range(1, 60)]
    assert values == sorted(values, reverse=True)


def test_an_interval_is_the_mean_and_t_standard_errors_to_each_side() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)))
    assert not found.is_seen
    assert interval([2.0, 2.1, 1.9]).is_seen and interval([-2.0, -2.1, -1.9]).is_seen


@pytest.mark.parametrize("differences", [[3.0], [3.0, 3.0]])
def test_one_pair_or_two_tell_no_interval(differences: list[float]) -> None:
    few = interval(differences)
    assert (few.mean, few.low, few.high, few.is_seen) == (3.0, None, None, False)


def test_equal_differences_are_certain() -> None:
    equal, nothing = interval([3.0, 3.0, 3.0]), interval([0.0, 0.0, 0.0])
    assert (equal.low, equal.high, equal.is_seen) == (3.0, 3.0, True)
    assert not nothing.is_seen


def test_the_true_mean_lies_in_95_of_100_intervals() -> None:
    rng = random.Random(1)
    found = [interval([rng.gauss(1.0, 3.0) for _ in range(5)]) for _ in range(4000)]
    inside = sum(one.low <= 1.0 <= one.high for one in found if one.low is not None and one.high is not None)
    assert inside / 4000 == pytest.approx(0.95, abs=0.012)
