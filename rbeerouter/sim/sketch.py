"""Quantiles of any number of values in little memory. `statistics` fills sketches; whoever draws a distribution reads
them. Nothing here knows what the values are.

It is DDSketch (Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019): values are counted in buckets whose bounds grow by a constant factor, so each quantile is right
within 1 %. All times between a nanosecond and a year fit into fewer than 2000 buckets.
"""

from __future__ import annotations

import math
from collections import Counter, _count_elements  # type: ignore[attr-defined]
from collections.abc import Sequence

from rbeerouter.sim.types import Quantiles

ERROR = 0.01
"""How far a quantile may be from the true one, as a share of it."""
_GROWTH = (1 + ERROR) / (1 - ERROR)
_LEAST = 1e-9
"""What is smaller counts as zero."""
BUCKETS_PER_E = 1 / math.log(_GROWTH)
FIRST = 1 - math.floor(math.log(_LEAST) * BUCKETS_PER_E)
"""What is added to a value's power of `_GROWTH` so that all buckets are above 0, the one of zeros."""
NONE = -1
"""The bucket of requests that do not have the quantity."""


def bucket(value: float) -> int:
    """The bucket of a value of 0 or more."""
    return int(math.log(value) * BUCKETS_PER_E + FIRST) if value >= _LEAST else 0


def middle(index: int) -> float:
    """The value that stands for all in a bucket: at most `ERROR` of it away from each."""
    return 2 * _GROWTH ** (index - FIRST + 1) / (_GROWTH + 1) if index else 0.0


class Sketch:
    """A distribution.

    Attributes:
        count, total, most: of the values, exact.
        counts: {bucket: values in it}.
    """

    __slots__ = ("count", "counts", "most", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.most = 0.0
        self.counts: Counter[int] = Counter()

    def add(self, value: float) -> None:
        self.take((value,), (bucket(value),))

    def take(self, values: Sequence[float], buckets: Sequence[int]) -> None:
        """Takes one value or more at once, with their buckets; those in the bucket `NONE` have the value 0 and are left
        out. It is done in C, for all of a batch: `Counter.update` would look at what it is given first, which takes
        longer than to count the few requests of one user."""
        counts = self.counts
        _count_elements(counts, buckets)
        self.count += len(values)
        if NONE in counts:
            self.count -= counts.pop(NONE)
        self.total += sum(values)
        most = max(values)
        if most > self.most:
            self.most = most

    def merge(self, other: Sketch) -> None:
        self.counts.update(other.counts)
        self.count += other.count
        self.total += other.total
        self.most = max(self.most, other.most)

    def quantile(self, share: float) -> float | None:
        """The value that this share of all is not above; None without values."""
        if not self.count:
            return None
        rank, seen = share * (self.count - 1), 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen > rank:
                return min(middle(index), self.most)
        return self.most

    def quantiles(self) -> Quantiles:
        if not self.count:
            return Quantiles()
        return Quantiles(
            self.count, self.total / self.count, self.quantile(0.5), self.quantile(0.9), self.quantile(0.95),
            self.quantile(0.99), self.most,
        )  # fmt: skip

    def cdf(self, points: int = 200) -> list[tuple[float, float]]:
        """(value, share of all that is not above it), of so many points at most, for drawing."""
        rows, seen = [], 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            rows.append((min(middle(index), self.most), seen / self.count))
        step = max(1, math.ceil(len(rows) / points))
        kept = rows[step - 1 :: step]
        return kept if not rows or kept[-1] == rows[-1] else [*kept, rows[-1]]
