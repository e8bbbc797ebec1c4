"""What was going on over time, in at most `MOST` intervals: when they are full, each two become one.

`statistics` tells of requests that have ended, `world` of requests that are under way, at the end of each interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rbeerouter.sim.sketch import NONE, Sketch
from rbeerouter.sim.types import Series

MOST = 240
"""Intervals, which is about as many as a screen shows."""
_FIRST_S = 0.5


class Timeline:
    """Intervals of equal length from time 0.

    Attributes:
        every_s: how long an interval is, a multiple of half a second.
        ends: the end of the one that is open.
    """

    def __init__(self, worker_ids: Sequence[str]) -> None:
        self.every_s = _FIRST_S
        self.ends = _FIRST_S
        self._ids = tuple(worker_ids)
        self._before = [0.0] * (len(worker_ids) + 1)
        self._means: list[list[float]] = []                    # of each interval: who waits, then each worker
        self._arrivals: list[int] = []
        self._ttft: list[Counter[int]] = []

    def take(self, arrived: Sequence[float], finished: Sequence[float | None], ttft_buckets: Sequence[int]) -> None:
        """Takes requests that have ended: when they came and ended, and the buckets of their times to first token."""
        every_s, arrivals, ttft = self.every_s, self._arrivals, self._ttft
        latest = int(max(end or 0.0 for end in finished) / every_s)
        while len(ttft) <= latest:
            ttft.append(Counter())
            arrivals.append(0)
        for index, number in Counter([int(at / every_s) for at in arrived]).items():
            arrivals[index] += number
        buckets: dict[int, list[int]] = {}
        for at, index in zip(finished, ttft_buckets, strict=True):
            if index != NONE:
                buckets.setdefault(int((at or 0.0) / every_s), []).append(index)
        for index, some in buckets.items():
            ttft[index].update(some)

    def close(self, sums: list[float], at_s: float | None = None) -> None:
        """Ends an interval.

        Args:
            sums: request-seconds from time 0 to its end: of those who waited, then of those on each worker.
            at_s: when, if before its end.
        """
        ended_s = self.ends if at_s is None else at_s
        length_s = ended_s - (self.ends - self.every_s)
        if length_s <= 0:
            return
        before, self._before = self._before, sums
        self._means.append([max(0.0, now - then) / length_s for now, then in zip(sums, before, strict=True)])
        if len(self._means) >= MOST and at_s is None:
            self._halve()
        self.ends += self.every_s

    def _halve(self) -> None:
        """Each two intervals become one."""
        self.every_s *= 2
        means = self._means
        self._means = [
            [(one + other) / 2 for one, other in zip(means[at], means[at + 1], strict=True)]
            for at in range(0, len(means), 2)
        ]
        if len(self._arrivals) % 2:
            self._arrivals.append(0)
            self._ttft.append(Counter())
        self._arrivals = [sum(self._arrivals[at : at + 2]) for at in range(0, len(self._arrivals), 2)]
        self._ttft = [self._ttft[at] + self._ttft[at + 1] for at in range(0, len(self._ttft), 2)]
        self.ends = (len(self._means)) * self.every_s

    def series(self, ended_s: float) -> Series:
        """All intervals until the end of the simulation, the last of which may be shorter."""
        length = len(self._means)
        arrivals = (self._arrivals + [0] * length)[:length]
        ttft = (self._ttft + [Counter()] * length)[:length]
        rates = []
        for index, number in enumerate(arrivals):
            rates.append(number / max(1e-9, min(self.every_s, ended_s - index * self.every_s)))
        return Series(
            self.every_s, rates, [means[0] for means in self._means],
            {name: [means[at] for means in self._means] for at, name in enumerate(self._ids, 1)},
            [_p95(counts) for counts in ttft],
        )  # fmt: skip


def _p95(counts: Counter[int]) -> float | None:
    sketch = Sketch()
    sketch.counts, sketch.count, sketch.most = counts, counts.total(), float("inf")
    return sketch.quantile(0.95)
