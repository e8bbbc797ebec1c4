"""Two ways to find numbers that explain what was seen: least squares, and a search by trying.

Called by `calibrate`. Both are for a handful of unknowns, are plain Python, draw nothing at random and so find the same
each time. They know nothing of workers or time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

Point = list[float]
_REWEIGHED = 4
"""Rounds of reweighing: the weights hardly change after so many."""


def least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> Point:
    """The coefficients, none of them negative, of the sums of `rows` that come nearest to `values` (at least one row).

    Nearest in relative terms, and a few values that are far off count little: the rows are weighed by 1 / value, and
    again by how badly the round before explained them (iteratively reweighed least squares with the weights of
    P. Huber, Robust Estimation of a Location Parameter, 1964).
    """
    columns = len(rows[0])
    scaled = [[entry / value for entry in row] for row, value in zip(rows, values, strict=True)]
    weights = [1.0] * len(rows)
    best = [0.0] * columns
    for _ in range(_REWEIGHED):
        best = _not_negative(*_normal_equations(scaled, weights))
        off = [abs(sum(a * b for a, b in zip(row, best, strict=True)) - 1.0) for row in scaled]
        bound = 1.5 * sorted(off)[len(off) // 2] + 1e-9
        weights = [min(1.0, bound / one) if one else 1.0 for one in off]
    return best


def _normal_equations(rows: list[list[float]], weights: list[float]) -> tuple[list[list[float]], list[float]]:
    """The matrix and the right side whose solution has the smallest weighed squares, where each value is 1."""
    columns = len(rows[0])
    matrix = [[0.0] * columns for _ in range(columns)]
    right = [0.0] * columns
    for row, weight in zip(rows, weights, strict=True):
        for i, left in enumerate(row):
            right[i] += weight * left
            for j, entry in enumerate(row):
                matrix[i][j] += weight * left * entry
    return matrix, right


def _not_negative(matrix: list[list[float]], right: list[float]) -> Point:
    """The best solution without negative coefficients: of all choices of columns whose own solution has none, the one
    that explains most. Exact, and quick for the few columns that there are."""
    columns = len(right)
    best, gain = [0.0] * columns, 0.0
    for size in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), size):
            part = _solved([[matrix[i][j] for j in chosen] for i in chosen], [right[i] for i in chosen])
            if part is None or min(part) < 0:
                continue
            explained = sum(value * right[i] for i, value in zip(chosen, part, strict=True))
            if explained > gain * (1 + 1e-12):
                gain, best = explained, [0.0] * columns
                for i, value in zip(chosen, part, strict=True):
                    best[i] = value
    return best


def _solved(matrix: list[list[float]], right: list[float]) -> Point | None:
    """The solution of a square system by elimination with the largest pivots; None where it has no single one."""
    size = len(right)
    table = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for at in range(size):
        pivot = max(range(at, size), key=lambda row: abs(table[row][at]))
        if abs(table[pivot][at]) <= 1e-12 * abs(matrix[at][at]):
            return None
        table[at], table[pivot] = table[pivot], table[at]
        for row in range(at + 1, size):
            times = table[row][at] / table[at][at]
            table[row] = [a - times * b for a, b in zip(table[row], table[at], strict=True)]
    found = [0.0] * size
    for at in reversed(range(size)):
        known = sum(table[at][j] * found[j] for j in range(at + 1, size))
        found[at] = (table[at][size] - known) / table[at][at]
    return found


def nelder_mead(
    error: Callable[[Point], float], start: Sequence[float], step: float, most: int, enough: float = 1e-3
) -> tuple[Point, float]:
    """The point with the smallest error that a simplex finds, and its error (Nelder and Mead, A Simplex Method for
    Function Minimization, 1965, with their coefficients 1, 2, 1/2 and 1/2).

    Args:
        step: how far the simplex reaches from `start` at first.
        most: tries of `error`; it may take a few more to end a round.
        enough: the search ends when the corners' errors differ by less.
    """
    size = len(start)
    corners = [list(start), *([*start[:i], start[i] + step, *start[i + 1 :]] for i in range(size))]
    simplex = [(error(corner), corner) for corner in corners]
    tries = size + 1
    while tries < most:
        simplex.sort(key=lambda one: one[0])
        if simplex[-1][0] - simplex[0][0] < enough:
            break
        middle = [math.fsum(corner[i] for _, corner in simplex[:-1]) / size for i in range(size)]
        worst = simplex[-1]
        reflected = _tried(error, middle, worst[1], -1.0)
        tries += 1
        if reflected[0] < simplex[0][0]:
            expanded = _tried(error, middle, worst[1], -2.0)
            tries += 1
            simplex[-1] = min(expanded, reflected, key=lambda one: one[0])
        elif reflected[0] < simplex[-2][0]:
            simplex[-1] = reflected
        else:
            contracted = _tried(error, middle, worst[1], -0.5 if reflected[0] < worst[0] else 0.5)
            tries += 1
            if contracted[0] < min(reflected[0], worst[0]):
                simplex[-1] = contracted
            else:
                first = simplex[0][1]
                simplex[1:] = [_tried(error, first, corner, 0.5) for _, corner in simplex[1:]]
                tries += size
    best = min(simplex, key=lambda one: one[0])
    return best[1], best[0]


def _tried(error: Callable[[Point], float], origin: Point, corner: Point, times: float) -> tuple[float, Point]:
    """The point so many times as far from `origin` as `corner` is, with its error."""
    point = [a + times * (b - a) for a, b in zip(origin, corner, strict=True)]
    return error(point), point
