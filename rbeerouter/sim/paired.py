"""Is one thing better than another, or was it luck? The mean of paired differences with its 95 % confidence interval.

`diff` and `tune` simulate both sides with the same seeds (common random numbers), so that the luck of a seed is in both
and drops out of the difference; what is left is judged by Student's t (Law, Simulation Modeling and Analysis, 10.2.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

_T95 = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452, 2.0423,
)  # fmt: skip
_Z95 = 1.959964
FEWEST = 3
"""Pairs that tell a confidence: two differences of a count are often the same by luck, and would look certain."""


class Interval(msgspec.Struct, frozen=True):
    """A mean, and between what it lies 95 times in 100; low and high are None where too few pairs tell of that."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_seen(self) -> bool:
        """Is it certainly not 0?"""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def t95(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; from 31 degrees of freedom on by Cornish and Fisher's expansion."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def interval(differences: Sequence[float]) -> Interval:
    """Of one difference for each seed; at least one."""
    count = len(differences)
    mean = math.fsum(differences) / count
    if count < FEWEST:
        return Interval(mean, None, None)
    squares = math.fsum((difference - mean) ** 2 for difference in differences)
    half = t95(count - 1) * math.sqrt(squares / (count - 1) / count)
    return Interval(mean, mean - half, mean + half)
