"""Learns how fast workers are from what routing.log shows of them.

Called by `rbeerouter routing calibrate`. For each worker a first guess by least squares, which reads off the log how
many sequences were decoded beside each request; then the log's own requests go through the simulated engine again and
again, and a search moves the parameters until the simulated times are those of the log. Fitted is the first part of the
time; the error is told on the rest, which the search has not seen; then it goes on a little with all of the log. It
decides nothing about where requests go: the log says that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from rbeerouter.config.loading import load
from rbeerouter.config.sections import ConfigError
from rbeerouter.core.types import Request, WorkerSpec
from rbeerouter.dialects.engines import ENGINES
from rbeerouter.recorded import LogError, Tally, read_log
from rbeerouter.sim.engine import Engine, Work
from rbeerouter.sim.fit import nelder_mead
from rbeerouter.sim.fitted import Errors, Fitted
from rbeerouter.sim.guess import FITTED, first_guess, most_at_once
from rbeerouter.sim.observe import Record, Seen, records
from rbeerouter.sim.types import Arrival, Profile, SimWorker

FEWEST = 30
"""Requests that count, below which nothing is fitted: any five numbers would explain them."""
_FEWEST_HELD_BACK = 10
_FIRST_PART = 0.7
_GRAIN_S = 0.001
"""What the log's `time` is cut to; smaller differences say nothing."""
_TRIES = ((150, 0.3), (100, -0.3), (80, 0.15))
"""Of the search, and how far it reaches at first in natural logarithms. It begins anew, in another direction, because a
simplex can get stuck."""
_AT_LAST = (100, 0.15)
"""The same for the whole log, after the error is known: what was held back is not thrown away."""
_ENOUGH = 1e-4
_ROUGH_TRIES, _ROUGH_REQUESTS = 40, 300
_NO_WORSE = 0.02
"""Numbers of slots whose errors differ by less explain the log equally well."""
_SMALLEST_BATCH = 512
"""Shorter prompts never show how large an engine's batch is: none comes with a smaller one."""
_TWICE, _FOREIGN_SHARE, _DRIFT = 2.0, 0.05, 0.15
"""Told is when more than that share of the requests took more than twice as long, and by how much a worker's pace moved
if it is more than that."""
_SHOWN_EVERY = 10
_NOBODY = Request("calibrate", "", "", None, None, None, None, True, {})

Times = list[tuple[float, float]]
Tick = Callable[[], None]


class Known(msgspec.Struct, frozen=True):
    """What is known of a worker from elsewhere; None: not known."""

    slots: int | None = None
    batch_tokens: int | None = None
    kv_tokens: int | None = None


def from_logs(
    logs: Sequence[Path], config_path: Path | None, wanted: Sequence[str], most: int, told: Known,
    show: Callable[[str], None] | None,
) -> tuple[list[Fitted], str]:  # fmt: skip
    """Each worker of the logs as far as it can be told, and in words where from. Raises ConfigError.

    Args:
        logs: none: the configured one.
        wanted: ids of workers; none: all.
        most: newest lines that are used of each.
        told: what the command line says of all of them; the rest is looked up in the configuration.
        show: is told how far it has come.
    """
    config = load(config_path, engines=tuple(ENGINES))
    logs = logs or [config.log]
    tally = Tally()
    try:
        found = records(read_log(logs, tally), most)
    except LogError as error:
        raise ConfigError(f"--log {error}") from None
    source = ", ".join(map(str, logs))
    if not found:
        raise ConfigError(f"--log {source}: has no request that a worker got; expected lines of routing.log")
    for worker in wanted:
        if worker not in found:
            raise ConfigError(f"--worker {worker}: is not in the log; there are {', '.join(found)}")
    slots = {spec.id: spec.max_concurrency for spec in config.workers}
    fitted = []
    for worker in wanted or found:
        known = told if told.slots is not None else msgspec.structs.replace(told, slots=slots.get(worker))
        one = calibrate(worker, found[worker], known, _ticker(worker, show))
        if tally.unreadable or tally.lost:
            one.notes.append(f"{tally.unreadable + tally.lost} lines of the log are lost or cannot be read")
        fitted.append(one)
    if show is not None:
        show("")
    return fitted, source


def _ticker(worker: str, show: Callable[[str], None] | None) -> Tick:
    tries = itertools.count(1)

    def tick() -> None:
        count = next(tries)
        if show is not None and count % _SHOWN_EVERY == 0:
            show(f"{worker}: {count} times simulated")

    return tick


def calibrate(worker: str, record: Record, known: Known, tick: Tick = lambda: None) -> Fitted:
    """What can be told of a worker. `tick` is called at each try, of which there are some hundreds."""
    seen = record.seen
    fitted = Fitted(worker, len(seen) + record.left_out, record.counting, notes=_remarks(record))
    if record.counting < FEWEST:
        fitted.notes.insert(0, f"not fitted: {record.counting} requests count, expected {FEWEST} or more")
        return fitted
    split_s = _FIRST_PART * seen[-1].sent_s
    before = sum(one.sent_s < split_s for one in seen)
    parts = (seen[:before], seen[before:])
    enough = all(_counting(part) >= fewest for part, fewest in zip(parts, (FEWEST, _FEWEST_HELD_BACK), strict=True))
    if not enough:
        parts = (seen, [])
        fitted.notes.append("too few requests to hold a part back: nothing tells how well it predicts others")
    start = _assumed(fitted, parts[0], known, tick)
    profile = _searched(parts[0], start, tick)
    times = simulated(seen, profile)
    fitted.fit = errors(parts[0], times[: len(parts[0])])
    fitted.notes += _doubts(seen, times)
    if enough:
        fitted.held_back = errors(parts[1], times[before:])
        profile = _search(seen, profile, *_AT_LAST, tick)
    fitted.profile = msgspec.structs.replace(profile, source=f"fitted to {record.counting} requests of routing.log")
    return fitted


def simulated(seen: Sequence[Seen], profile: Profile) -> Times:
    """(first content, end) of each request, seconds from its sending, on an engine of that profile."""
    engine = Engine(SimWorker(WorkerSpec("calibrated", ""), profile), profile.block_tokens)
    works = []
    for one in seen:
        work = Work(Arrival(one.sent_s, _NOBODY, one.tokens_in, one.tokens_out), "")
        engine.submit(work, one.sent_s + profile.overhead_s)
        works.append(work)
    while engine.next_s < math.inf:
        engine.advance(engine.next_s)
    return [
        ((work.first_s or 0.0) - one.sent_s, (work.finished_s or 0.0) - one.sent_s)
        for one, work in zip(seen, works, strict=True)
    ]


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


# The search.


def _assumed(fitted: Fitted, seen: Sequence[Seen], known: Known, tick: Tick) -> Profile:
    """A first guess at the profile, with what the log does not show as it is known, or as it explains the log best."""
    given = {name: value for name in Known.__struct_fields__ if (value := getattr(known, name)) is not None}
    profile = msgspec.structs.replace(Profile(), **given)
    longest = max(one.tokens_in for one in seen)
    if known.batch_tokens is None and longest > _SMALLEST_BATCH:
        fitted.notes.append(f"batch_tokens is not in the log: assumed {profile.batch_tokens} (--batch-tokens)")
    if known.slots is not None:
        return _guessed(seen, profile, known.slots)
    most = max(1, most_at_once(seen))
    rough = seen[-_ROUGH_REQUESTS:]
    if _counting(rough) < FEWEST:
        rough = seen
    tried = []
    for slots in [*(1 << power for power in range((most - 1).bit_length())), most]:
        start = _guessed(rough, profile, slots)
        tried.append((mismatch(rough, simulated(rough, _search(rough, start, _ROUGH_TRIES, 0.3, tick))), slots))
    best = min(tried)[0]
    slots = max(slots for error, slots in tried if error <= best + _NO_WORSE)
    if slots == most:
        fitted.notes.append(f"never more than {most} requests at once: more slots do not show in the log (--slots)")
    else:
        fitted.notes.append(f"slots: {slots} explains the log best (--slots, if you know it)")
    return _guessed(seen, profile, slots)


def _guessed(seen: Sequence[Seen], profile: Profile, slots: int) -> Profile:
    """Never quite 0, so that the search, which multiplies, can leave it."""
    found = first_guess(seen, slots)
    counting = [one for one in seen if one.counts]
    per_token_s = quantile((one.end_s / (one.tokens_out + one.tokens_in / 10) for one in counting), 0.5)
    context = quantile((one.tokens_in + one.tokens_out for one in counting), 0.5)
    least = (per_token_s / 10, per_token_s / 100, per_token_s / 500, per_token_s / 1000 / context, _GRAIN_S / 10)
    values = dict(zip(FITTED, map(max, found, least), strict=True))
    return msgspec.structs.replace(profile, slots=slots, **values)


def _searched(seen: Sequence[Seen], profile: Profile, tick: Tick) -> Profile:
    for tries, reach in _TRIES:
        profile = _search(seen, profile, tries, reach, tick)
    return profile


def _search(seen: Sequence[Seen], profile: Profile, tries: int, reach: float, tick: Tick) -> Profile:
    """A profile whose mismatch is smaller, if one is found."""

    def at(point: list[float]) -> Profile:
        return msgspec.structs.replace(profile, **{name: math.exp(x) for name, x in zip(FITTED, point, strict=True)})

    def error(point: list[float]) -> float:
        tick()
        return mismatch(seen, simulated(seen, at(point)))

    point, _ = nelder_mead(error, [math.log(getattr(profile, name)) for name in FITTED], reach, tries, _ENOUGH)
    return at(point)


# What is to be said.


def _counting(seen: Iterable[Seen]) -> int:
    return sum(one.counts for one in seen)


def _remarks(record: Record) -> list[str]:
    """What the log does not tell, as far as that can be seen without a fit."""
    notes = []
    if record.older:
        notes.append(f"{record.older} older lines were not used (--most)")
    if record.left_out:
        notes.append(f"{record.left_out} lines without any content were taken for no load")
    if record.without_tokens:
        notes.append(f"{record.without_tokens} answers without token counts were taken for load of a usual length; "
                     'clients have them counted with "stream_options": {"include_usage": true}')  # fmt: skip
    counting = [one for one in record.seen if one.counts]
    if counting and all(one.first_s is None for one in counting):
        notes.append("no streams, so no time to the first token: reading and writing can hardly be told apart")
    if counting and most_at_once(record.seen) == 1:
        notes.append("never two requests at once: how much slower a step is with more sequences cannot be told")
    if len(record.models) > 1:
        names = ", ".join(sorted(record.models))
        notes.append(f"{len(record.models)} models in one profile, as if they were alike: {names}")
    return notes


def _doubts(seen: Sequence[Seen], times: Times) -> list[str]:
    """What the fit leaves unexplained, and what may be the cause."""
    pairs = _pairs(seen, times)[1]
    notes = []
    slow = sum(theirs > _TWICE * ours + _GRAIN_S for ours, theirs in pairs) / len(pairs)
    if slow > _FOREIGN_SHARE:
        notes.append(f"{slow:.0%} of the requests took more than twice as long as such a worker takes: the machine has "
                     "other work, or clients that do not come through this router")  # fmt: skip
    third = len(pairs) // 3
    early, late = (quantile((theirs / ours for ours, theirs in part), 0.5) for part in (pairs[:third], pairs[-third:]))
    if abs(late / early - 1) > _DRIFT:
        became = f"{late / early - 1:.0%} slower" if late > early else f"{early / late - 1:.0%} faster"
        notes.append(f"it became {became} in the course of the log, which no profile explains")
    return notes
