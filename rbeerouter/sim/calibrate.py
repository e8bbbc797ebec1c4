"""Learns how fast workers are from what routing.log shows of them.

Called by `rbeerouter routing calibrate`. For each worker a first guess by least squares, which reads off the log how many
sequences were decoded beside each request; then the log's own requests go through the simulated engine again and again,
and a search moves the parameters until the simulated times are those of the log. Fitted is the first part of the time;
the error is told on the rest, which the search has not seen. It decides nothing about where requests go: the log says
that.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim.engine import Engine, Work
from rbeerouter.sim.fit import least_squares, nelder_mead
from rbeerouter.sim.fitted import Errors, Fitted
from rbeerouter.sim.observe import Record, Seen
from rbeerouter.sim.types import Profile, SimWorker

FITTED = ("step_s", "sequence_s", "prefill_s", "context_s", "overhead_s")
FEWEST = 30
"""Requests that count, below which five parameters are not told: any numbers would fit."""
_FEWEST_HELD_BACK = 10
_FIRST_PART = 0.7
_GRAIN_S = 0.001
"""What the log's `time` is cut to; smaller differences say nothing."""
_TRIES, _ROUGH_TRIES, _ROUGH_REQUESTS = 240, 40, 300
_NO_WORSE = 0.02
"""Numbers of slots whose errors differ by less explain the log equally well."""
_FOREIGN_TIMES, _FOREIGN_SHARE = 2.0, 0.05
_DRIFT = 0.15
_SHORT_PROMPT_TOKENS = 512
"""The smallest batch that engines come with: shorter prompts never show how large it is."""

Times = list[tuple[float, float]]
Told = Callable[[str], "Known"]


class Known(msgspec.Struct, frozen=True):
    """What is known of a worker from elsewhere; None: not known."""

    slots: int | None = None
    batch_tokens: int | None = None
    kv_tokens: int | None = None


def calibrate(name: str, record: Record, known: Known = Known(), tick: Callable[[], None] = lambda: None) -> Fitted:
    """What can be told of a worker. `tick` is called at each try, of which there are some hundreds."""
    fitted = Fitted(name, len(record.seen) + record.left_out, record.counting, notes=_remarks(record))
    if record.counting < FEWEST:
        fitted.notes.insert(0, f"not fitted: {record.counting} requests count, expected {FEWEST} or more")
        return fitted
    seen = record.seen
    split_s = seen[0].sent_s + _FIRST_PART * (seen[-1].sent_s - seen[0].sent_s)
    before = [one for one in seen if one.sent_s < split_s]
    held = sum(one.counts for one in seen[len(before) :])
    enough = held >= _FEWEST_HELD_BACK and sum(one.counts for one in before) >= FEWEST
    if not enough:
        before = seen
        fitted.notes.append("too few requests to hold a part back: how well it predicts others is not known")
    profile = _assumed(fitted, seen, known, before, tick)
    profile, _ = _refined(before, profile, _TRIES, tick)
    fitted.profile = msgspec.structs.replace(profile, source=f"fitted to {fitted.counting} requests of routing.log")
    times = simulated(seen, fitted.profile)
    fitted.fit = errors(seen[: len(before)], times)
    if enough:
        fitted.held_back = errors(seen[len(before) :], times[len(before) :])
    fitted.notes += _doubts(seen, times)
    return fitted


def simulated(seen: Sequence[Seen], profile: Profile) -> Times:
    """(first content, end) of each request, seconds from its sending, on an engine of that profile."""
    engine = Engine(SimWorker(WorkerSpec("calibrated", ""), profile), profile.block_tokens)
    works = []
    for one in seen:
        while engine.next_s <= one.sent_s:
            engine.advance(engine.next_s)
        work = Work(tokens_in=one.tokens_in, tokens_out=one.tokens_out)
        engine.submit(work, one.sent_s)
        works.append(work)
    while engine.next_s < math.inf:
        engine.advance(engine.next_s)
    return [(work.first_s - one.sent_s, work.finished_s - one.sent_s) for one, work in zip(seen, works, strict=True)]


def errors(seen: Sequence[Seen], times: Times) -> Errors:
    """How far the simulated times are from those of the log, over the requests that count; relative, 0.1 is 10 % too
    slow."""
    first, end = _pairs(seen, times)
    if not end:
        return Errors()
    typical = sorted(abs(ours / theirs - 1) for ours, theirs in end)[len(end) // 2]
    p50, p95 = (_relative(first, share) for share in (0.5, 0.95))
    return Errors(p50, p95, _relative(end, 0.5), _relative(end, 0.95), typical)


def quantile(values: Iterable[float], share: float) -> float:
    """Between the two neighbours, as most programs do it (type 7 of Hyndman and Fan, 1996)."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * share
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def _pairs(seen: Sequence[Seen], times: Times) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(simulated, observed) of the first content and of the end."""
    first, end = [], []
    for one, (first_s, end_s) in zip(seen, times[: len(seen)], strict=True):
        if one.counts:
            end.append((end_s, one.end_s))
            if one.first_s is not None:
                first.append((first_s, one.first_s))
    return first, end


def _relative(pairs: list[tuple[float, float]], share: float) -> float | None:
    if not pairs:
        return None
    return quantile((ours for ours, _ in pairs), share) / quantile((theirs for _, theirs in pairs), share) - 1


def mismatch(seen: Sequence[Seen], times: Times) -> float:
    """What the search makes small: the mean of |log(simulated / observed)| over the requests, which a few wild ones
    hardly move, and the same of the quantiles that people look at, so that a model is not right on average only."""
    total, terms = 0.0, 0
    quantiles = []
    for pairs in _pairs(seen, times):
        total += sum(_off(ours, theirs) for ours, theirs in pairs)
        terms += len(pairs)
        for share in (0.5, 0.95) if pairs else ():
            ours, theirs = (quantile(side, share) for side in zip(*pairs, strict=True))
            quantiles.append(_off(ours, theirs))
    return total / terms + sum(quantiles) / len(quantiles)


def _off(ours: float, theirs: float) -> float:
    return abs(math.log((ours + _GRAIN_S) / (theirs + _GRAIN_S)))


# The first guess.


class _Level:
    """How much of something there is over time, made of intervals (begin, end, amount)."""

    def __init__(self, intervals: Iterable[tuple[float, float, float]]) -> None:
        changes: list[tuple[float, float]] = []
        for begin, end, amount in intervals:
            changes += [(begin, amount), (end, -amount)]
        changes.sort()
        self.times, self.levels, self.sums = [-math.inf], [0.0], [0.0]
        for at, change in changes:
            past = self.levels[-1] * (at - self.times[-1]) if self.levels[-1] else 0.0
            self.times.append(at)
            self.sums.append(self.sums[-1] + past)
            self.levels.append(self.levels[-1] + change)

    def _until(self, at: float) -> float:
        last = bisect.bisect_right(self.times, at) - 1
        return self.sums[last] + (self.levels[last] * (at - self.times[last]) if self.levels[last] else 0.0)

    def mean(self, begin: float, end: float) -> float:
        return (self._until(end) - self._until(begin)) / (end - begin)

    def most(self) -> int:
        return round(max(self.levels))


def most_at_once(seen: Iterable[Seen]) -> int:
    return _Level((one.sent_s, one.sent_s + one.end_s, 1.0) for one in seen).most()


def first_guess(seen: Sequence[Seen], slots: int) -> list[float]:
    """The parameters FITTED by least squares: one equation for the tokens after the first of each stream, one for the
    time until its first, where it did not have to wait for a slot; the sum of both for an answer in one piece."""
    firsts = [one.sent_s + (_guessed_first(one) if one.first_s is None else one.first_s) for one in seen]
    spans = [(first, max(first, one.sent_s + one.end_s)) for one, first in zip(seen, firsts, strict=True)]
    decoding = _Level((first, end, 1.0) for first, end in spans)
    context = _Level(
        (first, end, one.tokens_in + one.tokens_out / 2) for one, (first, end) in zip(seen, spans, strict=True)
    )
    inside = _Level((one.sent_s, end, 1.0) for one, (_, end) in zip(seen, spans, strict=True))
    order = sorted(range(len(seen)), key=lambda at: firsts[at])
    sorted_firsts, prompts = [firsts[at] for at in order], [0]
    for at in order:
        prompts.append(prompts[-1] + seen[at].tokens_in)

    def prompt_tokens(begin: float, end: float) -> int:
        """Of the prompts that were read to their ends in that time."""
        return prompts[bisect.bisect_right(sorted_firsts, end)] - prompts[bisect.bisect_right(sorted_firsts, begin)]

    rows, values = [], []
    for one, (first, end) in zip(seen, spans, strict=True):
        if not one.counts:
            continue
        sent, steps = one.sent_s, one.tokens_out - 1
        busy = inside.mean(sent - _GRAIN_S, sent) if first > sent else slots
        # It comes in the middle of a step of the others, and then one step reads its prompt.
        begun = 1.5 if busy else 1.0
        start = [begun, begun * decoding.mean(sent, first), prompt_tokens(sent, first), begun * context.mean(sent, first), 1.0] if first > sent else None
        rest = None
        if steps > 0 and end > first:
            rest = [steps, steps * decoding.mean(first, end), prompt_tokens(first, end), steps * context.mean(first, end), 0.0]
        for row, value in _equations(one, start if busy < slots else None, rest, first - sent, end - first):
            rows.append(row)
            values.append(value)
    return least_squares(rows, values) if rows else [0.0] * len(FITTED)
