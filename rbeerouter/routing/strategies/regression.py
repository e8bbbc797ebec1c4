"""What the slo strategies learn with: least squares that forget, and lengths of answers by lengths of prompts.

Arithmetic only; each is as large as it begins, whatever is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

_RIDGE = 1e-3
"""What is added to the sums of squares, in answers: without it, inputs that never differ would have no solution."""
_LEAST = 1e-4
_MOST_OFF = 4.0
"""An answer that took more than five times as long as expected tells no more than one that took five times as long."""
_BUCKETS = 21
"""Lengths from 1 to 2 ** 20 tokens and more, as AIBrix has them (output_predictor.go)."""


class LeastSquares:
    """y = coefficients * inputs, by the last answers.

    Recursive least squares with exponential forgetting (Haykin, "Adaptive Filter Theory") in its
    information form: the sums of x x' and x y are kept, not the inverse, which would grow without end while the inputs
    do not differ. A coefficient that would be negative is left out, as more work never takes less time.

    Args:
        terms: how many inputs there are.
        answers: so many of the last ones count, roughly: each next one takes 1 / answers of the weight of those before.

    Attributes:
        count: answers that were added.
        spread: the root of the mean square of y / expected - 1, over the last answers.
    """

    __slots__ = ("_answers", "_coefficients", "_products", "_squares", "_variance", "count")

    def __init__(self, terms: int, answers: int) -> None:
        self._answers = answers
        self._squares = [[0.0] * terms for _ in range(terms)]
        self._products = [0.0] * terms
        self._coefficients: tuple[float, ...] | None = (0.0,) * terms
        self._variance = 0.0
        self.count = 0

    def add(self, inputs: Sequence[float], y: float) -> None:
        if self.count >= 2 * len(inputs):                      # else there is nothing that an answer could be far from
            off = min(_MOST_OFF, y / max(_LEAST, self.expected(inputs)) - 1.0)
            weight = 1.0 / min(self.count - 2 * len(inputs) + 1, self._answers)
            self._variance += weight * (off * off - self._variance)
        keep = 1.0 - 1.0 / self._answers
        for row, x in zip(self._squares, inputs, strict=True):
            for column, other in enumerate(inputs):
                row[column] = keep * row[column] + x * other
        for index, x in enumerate(inputs):
            self._products[index] = keep * self._products[index] + x * y
        self._coefficients = None
        self.count += 1

    @property
    def spread(self) -> float:
        return sqrt(self._variance)

    @property
    def coefficients(self) -> tuple[float, ...]:
        if self._coefficients is None:
            self._coefficients = self._solved()
        return self._coefficients

    def expected(self, inputs: Sequence[float]) -> float:
        return sum(coefficient * x for coefficient, x in zip(self.coefficients, inputs, strict=True))

    def _solved(self) -> tuple[float, ...]:
        """The most negative coefficient is left out, one after the other, until none is negative: nearly always the
        best solution without negative ones (Lawson and Hanson, "Solving Least Squares Problems", chapter 23)."""
        free = list(range(len(self._products)))
        while free:
            solution = _solution(self._squares, self._products, free)
            worst = min(range(len(free)), key=solution.__getitem__)
            if solution[worst] >= 0.0:
                found = dict(zip(free, solution, strict=True))
                return tuple(found.get(index, 0.0) for index in range(len(self._products)))
            del free[worst]
        return (0.0,) * len(self._products)


def _solution(squares: Sequence[Sequence[float]], products: Sequence[float], free: Sequence[int]) -> list[float]:
    """(squares + ridge) * x = products in these rows and columns, by elimination: the matrix is positive definite, so
    no rows need be exchanged."""
    size = len(free)
    rows = [[squares[i][j] + (_RIDGE if i == j else 0.0) for j in free] + [products[i]] for i in free]
    for k in range(size):
        for i in range(k + 1, size):
            times = rows[i][k] / rows[k][k]
            for j in range(k, size + 1):
                rows[i][j] -= times * rows[k][j]
    found = [0.0] * size
    for k in reversed(range(size)):
        rest = sum(rows[k][j] * found[j] for j in range(k + 1, size))
        found[k] = (rows[k][size] - rest) / rows[k][k]
    return found


class AnswerLengths:
    """How long answers are, by how long their prompts are, each in powers of two.

    AIBrix draws a length of such a table each time that it is asked; here it is the mean, and some of the spread, so
    that a request has the same one whenever somebody looks at it.

    Args:
        answers: so many of the last ones of each row count, roughly.
    """

    __slots__ = ("_all", "_keep", "_rows")

    def __init__(self, answers: int) -> None:
        self._keep = 1.0 - 1.0 / answers
        self._rows: list[_Row | None] = [None] * _BUCKETS
        self._all = _Row()

    def add(self, tokens_in: int, tokens_out: int) -> None:
        at = _bucket(tokens_in)
        row = self._rows[at]
        if row is None:
            row = self._rows[at] = _Row()
        row.add(tokens_out, self._keep)
        self._all.add(tokens_out, self._keep)

    def expected(self, tokens_in: int, most: int | None = None, caution: float = 0.0) -> tuple[float, float] | None:
        """(the mean of answers to prompts of about that length, the same with caution): of all where there were none
        of that length, None where there were none at all.

        Args:
            most: where they would have been cut off.
            caution: standard deviations to be added.
        """
        return (self._rows[_bucket(tokens_in)] or self._all).expected(most, caution)


class _Row:
    """Answers by their lengths: how many, and how many tokens together."""

    __slots__ = ("_counts", "_tokens")

    def __init__(self) -> None:
        self._counts = [0.0] * _BUCKETS
        self._tokens = [0.0] * _BUCKETS

    def add(self, tokens: int, keep: float) -> None:
        self._counts = [keep * count for count in self._counts]
        self._tokens = [keep * total for total in self._tokens]
        self._counts[_bucket(tokens)] += 1.0
        self._tokens[_bucket(tokens)] += tokens

    def expected(self, most: int | None, caution: float) -> tuple[float, float] | None:
        """The spread is that between the buckets: within one, lengths differ little."""
        count = sum(self._counts)
        if not count:
            return None
        rows = [(each, total / each) for each, total in zip(self._counts, self._tokens, strict=True) if each]
        if most is not None:
            rows = [(each, min(mean, most)) for each, mean in rows]
        mean = sum(each * length for each, length in rows) / count
        variance = sum(each * (length - mean) ** 2 for each, length in rows) / count
        length = mean + caution * sqrt(variance)
        return mean, length if most is None else min(length, most)


def _bucket(tokens: int) -> int:
    return min(max(tokens, 1).bit_length() - 1, _BUCKETS - 1)
