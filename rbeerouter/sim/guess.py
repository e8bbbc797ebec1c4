"""A first guess at a worker's speed, read off the log by least squares.

Called by `calibrate`, whose search starts there. Beside each request the log shows who else was being written to, and
whose prompt was read meanwhile; so each request gives equations in the parameters of `types.Profile`. They are not
exact, because the log does not show the engine's steps: that is what the search is for.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence

from rbeerouter.sim.fit import least_squares
from rbeerouter.sim.observe import Seen

FITTED = ("step_s", "sequence_s", "prefill_s", "context_s", "overhead_s")
_INSTANT_S = 0.002
"""The log's `time` is cut to milliseconds: two things that are nearer than this may have been in the other order."""
_TOKENS_READ_PER_STEP = 10
"""Of an answer in one piece nobody knows when its first token came. An engine reads about so many tokens in the time of
one step."""


class Level:
    """How much of something there was over time, made of intervals (begin, end, amount)."""

    def __init__(self, intervals: Iterable[tuple[float, float, float]]) -> None:
        changes: list[tuple[float, float]] = []
        for begin, end, amount in intervals:
            changes += [(begin, amount), (end, -amount)]
        changes.sort()
        self._times, self._levels, self._sums = [-math.inf], [0.0], [0.0]
        for at, change in changes:
            self._sums.append(self._until(at))
            self._times.append(at)
            self._levels.append(self._levels[-1] + change)

    def mean(self, begin: float, end: float) -> float:
        return (self._until(end) - self._until(begin)) / (end - begin)

    def most(self) -> int:
        return round(max(self._levels))

    def _until(self, at: float) -> float:
        last = bisect.bisect_right(self._times, at) - 1
        return self._sums[last] + (self._levels[last] * (at - self._times[last]) if self._levels[last] else 0.0)


class _Around:
    """What was going on beside each request."""

    def __init__(self, seen: Sequence[Seen]) -> None:
        spans = [(one.sent_s, one.sent_s + _first_s(one), one.sent_s + one.end_s) for one in seen]
        self.inside = Level((sent, end, 1.0) for sent, _, end in spans)
        self.decoding = Level((first, end, 1.0) for _, first, end in spans)
        self.context = Level(
            (first, end, one.tokens_in + one.tokens_out / 2) for one, (_, first, end) in zip(seen, spans, strict=True)
        )
        ends = sorted((first, one.tokens_in) for one, (_, first, _) in zip(seen, spans, strict=True))
        self._read_at = [at for at, _ in ends]
        self._read = [0]
        for _, tokens in ends:
            self._read.append(self._read[-1] + tokens)

    def equation(self, begin: float, end: float, steps: float) -> list[float]:
        """The first four coefficients of so many steps in that time. Prompts count where they were read to the end."""
        first, last = (bisect.bisect_right(self._read_at, at) for at in (begin, end))
        prompts = self._read[last] - self._read[first]
        return [steps, steps * self.decoding.mean(begin, end), prompts, steps * self.context.mean(begin, end)]


def most_at_once(seen: Iterable[Seen]) -> int:
    """How many requests the worker had at the same time at most."""
    return Level((one.sent_s, one.sent_s + max(0.0, one.end_s - _INSTANT_S), 1.0) for one in seen).most()


def first_guess(seen: Sequence[Seen], slots: int) -> list[float]:
    """The values of FITTED by least squares, none negative.

    One equation for the tokens after the first of each stream, and one for the time until its first where it had not to
    wait for a slot; the sum of both for an answer in one piece.
    """
    around = _Around(seen)
    rows: list[list[float]] = []
    values: list[float] = []
    for one in seen:
        if not one.counts:
            continue
        sent, steps = one.sent_s, one.tokens_out - 1
        first, end = sent + _first_s(one), sent + one.end_s
        beside = around.inside.mean(sent - _INSTANT_S, sent)
        # Who comes while others are at work comes in the middle of a step, and the next one reads the prompt.
        start = [*around.equation(sent, first, 1.5 if beside else 1.0), 1.0] if first > sent else [0.0] * 5
        rest = [*around.equation(first, end, steps), 0.0] if end > first else [0.0] * 5
        if one.first_s is None:
            if beside < slots:
                rows.append([a + b for a, b in zip(start, rest, strict=True)])
                values.append(one.end_s)
            continue
        if beside < slots and first > sent:
            rows.append(start)
            values.append(first - sent)
        if steps and end > first:
            rows.append(rest)
            values.append(end - first)
    return least_squares(rows, values) if rows else [0.0] * len(FITTED)


def _first_s(one: Seen) -> float:
    """Until its first token, as far as one knows; never after its end."""
    if one.first_s is not None:
        return min(one.first_s, one.end_s)
    read = one.tokens_in / _TOKENS_READ_PER_STEP
    return one.end_s * read / (read + one.tokens_out)
