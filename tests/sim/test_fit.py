"""Tests of the two searches on functions whose answers are known."""

from __future__ import annotations

import random

import pytest

from rbeerouter.sim.fit import least_squares, nelder_mead


def test_least_squares_find_the_coefficients_that_made_the_values() -> None:
    chance = random.Random(1)
    rows = [[1.0, chance.uniform(1, 50), chance.uniform(1, 500)] for _ in range(200)]
    values = [0.02 * a + 0.3 * b + 0.001 * c for a, b, c in rows]
    assert least_squares(rows, values) == pytest.approx([0.02, 0.3, 0.001], rel=1e-6)


def test_a_few_values_that_are_far_off_hardly_move_them() -> None:
    chance = random.Random(2)
    rows = [[1.0, chance.uniform(1, 50)] for _ in range(200)]
    values = [2.0 * a + 0.5 * b for a, b in rows]
    for at in range(0, 200, 20):
        values[at] *= 8
    assert least_squares(rows, values) == pytest.approx([2.0, 0.5], rel=0.02)


def test_no_coefficient_is_negative_even_where_that_would_fit_better() -> None:
    rows = [[1.0, float(at)] for at in range(1, 50)]
    found = least_squares(rows, [100.0 - at for at in range(1, 50)])
    assert found[1] == 0.0
    assert 60 < found[0] < 90


def test_columns_that_say_the_same_are_not_both_needed() -> None:
    rows = [[float(at), 2.0 * at] for at in range(1, 20)]
    found = least_squares(rows, [6.0 * at for at in range(1, 20)])
    assert found[0] + 2 * found[1] == pytest.approx(6.0)


def test_the_simplex_finds_the_bottom_of_rosenbrock_s_valley() -> None:
    """Which is bent and flat: H. H. Rosenbrock, An automatic method for finding the greatest or least value, 1960."""
    point, error = nelder_mead(
        lambda at: 100 * (at[1] - at[0] ** 2) ** 2 + (1 - at[0]) ** 2, [-1.2, 1.0], 0.5, 400, enough=1e-12
    )
    assert point == pytest.approx([1.0, 1.0], abs=1e-3)
    assert error < 1e-6


def test_the_simplex_stops_after_so_many_tries_and_keeps_the_best() -> None:
    tried: list[float] = []

    def error(at: list[float]) -> float:
        tried.append(sum(value * value for value in at))
        return tried[-1]

    _, best = nelder_mead(error, [5.0, 5.0, 5.0], 1.0, 30, enough=0.0)
    assert len(tried) <= 30 + 5
    assert best == min(tried) < 75.0
