"""The numbers of a run that strategies are compared by. `MEASURES` names them all, with their units."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from rbeerouter.core.dispatch import DONE, Job
from rbeerouter.core.types import REMOTE, Wishes
from rbeerouter.sim import statistics, units
from rbeerouter.sim.types import Result, SimWorker

REMOTE_SHARE = 1 / 3
"""What is to go to the cloud where a split is configured."""


class Line(NamedTuple):
    """A request that has ended. Seconds from its arrival; None where there is no such time. worker: its last one."""

    at_s: float
    end_s: float
    user: str | None
    session: str | None
    worker: str | None
    ok: bool
    ttft_s: float | None
    tpot_s: float | None
    tokens_in: int
    tokens_out: int
    wishes: Wishes | None


def line_of(job: Job) -> Line:
    request, first, ended = job.request, job.first_content, job.finished or job.arrived
    tokens_out = job.tokens_out or 0
    return Line(
        job.arrived, ended, request.user_id, request.session_id, job.tried[-1] if job.tried else None,
        job.state == DONE and job.status < 400,
        None if first is None else first - job.arrived,
        None if first is None or tokens_out < 2 else (ended - first) / (tokens_out - 1),
        job.tokens_in or 0, tokens_out, request.wishes,
    )  # fmt: skip


class Ran(msgspec.Struct):
    """One simulation.

    choices: for each request in order of arrival, the index of the worker that it was sent to first, or -1.
    kv_usage: of each worker, every second. preempted: sequences that had to make room for others.
    asked: {user: tokens that it asked for}.
    """

    result: Result
    workers: tuple[SimWorker, ...]
    lines: list[Line]
    choices: array[int]
    kv_usage: list[list[float]]
    preempted: int
    asked: dict[str, int]


class Measure(msgspec.Struct, frozen=True):
    """unit: "share", "s", or nothing of what is counted. lower: is less better?"""

    name: str
    unit: str
    lower: bool
    about: str
    of: Callable[[Ran], float]


def told(value: float, unit: str) -> str:
    """As `sim.units` tells it, but for shares, of which small differences count here: 15.9%."""
    return f"{100 * value:.1f}%" if unit == "share" else units.told(value, unit)


def quantile(values: Iterable[float], share: float) -> float:
    """0.0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


# Even shares


def off_share(ran: Ran, weights: Sequence[float]) -> float:
    """The most requests that a worker ever had beyond or below its share, at any time of the run."""
    total, counts, most = sum(weights), [0] * len(weights), 0.0
    for number, index in enumerate(ran.choices, 1):
        if index >= 0:
            counts[index] += 1
        for count, weight in zip(counts, weights, strict=True):
            off = abs(count - number * weight / total)
            if off > most:
                most = off
    return most


def even_weights(ran: Ran) -> list[float]:
    return [1.0] * len(ran.workers)


def weights(ran: Ran) -> list[float]:
    return [worker.spec.weight for worker in ran.workers]


def off_split(ran: Ran, remote: float) -> float:
    """As `off_share`, of the two sides; remote: the share that is to go there."""
    away = [worker.spec.deployment == REMOTE for worker in ran.workers]
    count, most = 0, 0.0
    for number, index in enumerate(ran.choices, 1):
        count += index >= 0 and away[index]
        most = max(most, abs(count - number * remote))
    return most


def spread(values: Sequence[float]) -> float:
    """Between the most and the least, in parts of the mean."""
    return (max(values) - min(values)) / mean(values) if mean(values) else 0.0


def token_spread(ran: Ran) -> float:
    """Of prompt tokens twice and answer tokens once, as `throughput` weighs them."""
    tokens: Counter[str] = Counter({worker.spec.id: 0 for worker in ran.workers})
    for line in ran.lines:
        if line.worker is not None:
            tokens[line.worker] += 2 * line.tokens_in + line.tokens_out
    return spread(list(tokens.values()))


def busy_spread(ran: Ran) -> float:
    busy = [worker.busy for worker in ran.result.workers]
    return max(busy) - min(busy)


def kv_spread(ran: Ran) -> float:
    """Between the fullest and the emptiest KV cache, on average over time."""
    return mean([max(now) - min(now) for now in ran.kv_usage])


def most_of_mean(ran: Ran) -> float:
    """The requests of the worker that got most, in parts of the mean."""
    counts = Counter(index for index in ran.choices if index >= 0)
    return max(counts.values()) * len(ran.workers) / sum(counts.values()) if counts else 0.0


# Who comes back


def stayed(ran: Ran) -> float:
    """Of a conversation's later requests, those that went where the one before went."""
    last: dict[str, str] = {}
    same = again = 0
    for line in sorted(ran.lines):
        if line.session is None or line.worker is None:
            continue
        if line.session in last:
            again += 1
            same += last[line.session] == line.worker
        last[line.session] = line.worker
    return same / again if again else 0.0


# Fairness


def jain(ran: Ran) -> float:
    """Jain's index of what users had got when the last request came, each in parts of its max-min fair share of
    that: 1 when everybody has got what is fair."""
    ends_s = max(line.at_s for line in ran.lines)
    got: dict[str, float] = defaultdict(float)
    for line in ran.lines:
        if line.ok and line.end_s <= ends_s and line.user is not None:
            got[line.user] += line.tokens_in + line.tokens_out
    fair = max_min(ran.asked, sum(got.values()))
    return statistics.jain(got[user] / share for user, share in fair.items() if share > 0) or 0.0


def max_min(asked: dict[str, int], there: float) -> dict[str, float]:
    """What each gets of it where nobody gets more than it asks for, and who gets less gets as much as any other."""
    shares, left = {}, there
    for number, user in enumerate(sorted(asked, key=asked.__getitem__)):
        shares[user] = min(float(asked[user]), left / (len(asked) - number))
        left -= shares[user]
    return shares


def light_ttft(ran: Ran) -> float:
    """p95, of all users but the one that asked for most."""
    heavy = max(ran.asked, key=ran.asked.__getitem__)
    return quantile((line.ttft_s for line in ran.lines if line.user != heavy and line.ttft_s is not None), 0.95)


# Promises


def attained(ran: Ran) -> float:
    """The share of requests that were answered as fast as their headers wished."""
    return mean([float(_is_kept(line)) for line in ran.lines])


def _is_kept(line: Line) -> bool:
    if not line.ok:
        return False
    if (wishes := line.wishes) is None:
        return True
    pairs = (
        (wishes.slo_ttft_ms, line.ttft_s), (wishes.slo_tpot_ms, line.tpot_s),
        (wishes.slo_e2e_ms, line.end_s - line.at_s),
    )  # fmt: skip
    return all(wish is None or took is None or took * 1000 <= wish for wish, took in pairs)


def machines(ran: Ran) -> float:
    """At work at once, on average."""
    return sum(worker.busy for worker in ran.result.workers)


def cost(ran: Ran) -> float:
    """Of tokens, for a thousand requests."""
    return ran.result.all.cost / max(1, ran.result.all.requests) * 1000


_ALL = (
    Measure("off_share", "", True, "requests by which a worker missed an even share, at most",
            lambda ran: off_share(ran, even_weights(ran))),
    Measure("off_weight", "", True, "requests by which a worker missed the share of its weight, at most",
            lambda ran: off_share(ran, weights(ran))),
    Measure("off_split", "", True, "requests by which the cloud missed its share, at most",
            lambda ran: off_split(ran, REMOTE_SHARE)),
    Measure("stayed", "share", False, "next turns at the worker of the one before", stayed),
    Measure("most_of_mean", "times the mean", True, "requests of the worker with most", most_of_mean),
    Measure("kv_hit_rate", "share", False, "prompt tokens found in a cache", lambda ran: ran.result.kv_hit_rate or 0.0),
    Measure("mean_ttft", "s", True, "mean TTFT", lambda ran: ran.result.all.ttft_s.mean or 0.0),
    Measure("p90_ttft", "s", True, "p90 TTFT", lambda ran: ran.result.all.ttft_s.p90 or 0.0),
    Measure("p95_ttft", "s", True, "p95 TTFT", lambda ran: ran.result.all.ttft_s.p95 or 0.0),
    Measure("mean_e2e", "s", True, "mean time of whole answers", lambda ran: ran.result.all.e2e_s.mean or 0.0),
    Measure("p95_e2e", "s", True, "p95 time of whole answers", lambda ran: ran.result.all.e2e_s.p95 or 0.0),
    Measure("token_spread", "share", True, "weighted tokens of a worker, most less least, of the mean", token_spread),
    Measure("busy_spread", "share", True, "busy time of a worker, most less least", busy_spread),
    Measure("kv_spread", "share", True, "KV cache in use, fullest less emptiest", kv_spread),
    Measure("preempted", "", True, "answers interrupted for want of cache", lambda ran: float(ran.preempted)),
    Measure("jain", "", False, "Jain's index of users' fair shares", jain),
    Measure("light_ttft", "s", True, "p95 TTFT of the others", light_ttft),
    Measure("attained", "share", False, "requests answered in time", attained),
    Measure("machines", "", True, "machines at work at once", machines),
    Measure("cost", "", True, "cost of 1000 requests", cost),
    Measure("loads", "", True, "models loaded into memory",
            lambda ran: float(sum(worker.loads for worker in ran.result.workers))),
)  # fmt: skip
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
