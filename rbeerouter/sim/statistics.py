"""What came of a simulation, gathered while it runs, in memory that does not grow with the number of requests.

`world` hands each finished job in and asks for a `Result`'s parts at the end. Jobs are taken a batch at a time, column
by column, as sums and counts over a batch are done in C: a request costs some microseconds. Nothing here decides.
"""

from __future__ import annotations

from collections import Counter, _count_elements  # type: ignore[attr-defined]
from collections.abc import Callable, Iterable
from math import log
from typing import Any

from rbeerouter.core.dispatch import CANCELLED, DONE, Job
from rbeerouter.core.models import Models
from rbeerouter.core.types import Worker
from rbeerouter.sim.sketch import BUCKETS_PER_E, FIRST, NONE, Sketch
from rbeerouter.sim.timeline import Timeline
from rbeerouter.sim.types import Group, Targets

OTHERS = "others"
"""The name of all for whom there is no more room."""
MOST_SHOWN = 50
"""Users that a result tells of one by one."""
BATCH = 2048
"""After so many requests, those that have ended are to be counted."""
_MOST_USERS = 200
"""Users that are followed one by one, those who come first: who is among the `MOST_SHOWN` is known only at the end."""
_MOST_GROUPS = 100
_MOST_TEXTS = 200
_MOST_ACCOUNTS = 20_000
"""Users whose tokens are counted for the index of fairness."""
_LEAST = 1e-9

OK, REJECTED, FAILED, GONE = "ok", "rejected", "failed", "gone"
_BY_WORKERS = frozenset({"upstream_error", "overloaded_error"})
"""Types of failures that are the workers' doing."""

_Row = tuple[str, bool, int, int, float, bool, float, int, float, int, float, int, float, int]
"""Outcome, retried, tokens in and out, cost, met the targets; then value and bucket of TTFT, time per token, end-to-end
and queue time."""


class Tally:
    """What the requests of one group got, to be made a `Group` of."""

    def __init__(self) -> None:
        self.requests = self.retried = self.tokens_in = self.tokens_out = self.good = 0
        self.cost = 0.0
        self.outcomes: Counter[str] = Counter()
        self.ttft_s, self.tpot_s, self.e2e_s, self.queue_s = Sketch(), Sketch(), Sketch(), Sketch()

    def take(self, rows: list[_Row]) -> None:
        columns = tuple(zip(*rows, strict=True))
        self.requests += len(rows)
        _count_elements(self.outcomes, columns[0])
        self.retried += sum(columns[1])
        self.tokens_in += sum(columns[2])
        self.tokens_out += sum(columns[3])
        self.cost += sum(columns[4])
        self.good += sum(columns[5])
        self.ttft_s.take(columns[6], columns[7])
        self.tpot_s.take(columns[8], columns[9])
        self.e2e_s.take(columns[10], columns[11])
        self.queue_s.take(columns[12], columns[13])

    def merge(self, other: Tally) -> None:
        self.requests += other.requests
        self.outcomes.update(other.outcomes)
        self.retried += other.retried
        self.tokens_in += other.tokens_in
        self.tokens_out += other.tokens_out
        self.cost += other.cost
        self.good += other.good
        for name in ("ttft_s", "tpot_s", "e2e_s", "queue_s"):
            getattr(self, name).merge(getattr(other, name))

    def group(self) -> Group:
        outcomes = self.outcomes
        return Group(
            self.requests, outcomes[OK], outcomes[REJECTED], outcomes[FAILED], outcomes[GONE], self.retried,
            self.tokens_in, self.tokens_out, round(self.cost, 6), self.good / self.requests if self.requests else 0.0,
            self.ttft_s.quantiles(), self.tpot_s.quantiles(), self.e2e_s.quantiles(), self.queue_s.quantiles(),
        )  # fmt: skip


class Statistics:
    """All that is counted of requests.

    Args:
        workers: those of the fleet.
        models: what tokens cost, as `record` computes it.

    Attributes:
        by_worker: {id of the worker that had a request last: its tally}.
        failures: {worker id: attempts that it failed}.
        reasons, errors, script_errors: as in `Result`; past some number of different texts, `OTHERS`.
        ended: takes a job that has ended; to be called once for each.
    """

    def __init__(self, workers: Iterable[Worker], models: Models, targets: Targets, timeline: Timeline) -> None:
        self.all = Tally()
        self.tiers: dict[str, Tally] = {}
        self.users: dict[str, Tally] = {}
        self.models: dict[str, Tally] = {}
        self.by_worker = {worker.id: Tally() for worker in workers}
        self.failures: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.script_errors: Counter[str] = Counter()
        self._prices = models
        self._targets = targets
        self._has_targets = targets != Targets()
        self._timeline = timeline
        self._tokens: Counter[str] = Counter()
        self._jobs: list[Job] = []
        self.ended: Callable[[Job], None] = self._jobs.append

    def catch_up(self) -> None:
        """Counts the jobs that have ended, which are kept until then."""
        jobs = self._jobs.copy()
        self._jobs.clear()
        if not jobs:
            return
        rows = [self._row(job) for job in jobs]
        self.all.take(rows)
        tiers: dict[str, list[_Row]] = {}
        users: dict[str, list[_Row]] = {}
        models: dict[str, list[_Row]] = {}
        workers: dict[str, list[_Row]] = {}
        for job, row in zip(jobs, rows, strict=True):
            request = job.request
            models.setdefault(request.asked_model or request.model, []).append(row)
            if job.tried:
                workers.setdefault(job.tried[-1], []).append(row)
            if request.user_id is not None:
                users.setdefault(request.user_id, []).append(row)
            if "tier" in request.metadata:
                tiers.setdefault(str(request.metadata["tier"]), []).append(row)
        for name, some in workers.items():
            self.by_worker[name].take(some)
        for name, some in tiers.items():
            _tally(self.tiers, name, _MOST_GROUPS).take(some)
        for name, some in models.items():
            _tally(self.models, name, _MOST_GROUPS).take(some)
        for name, some in users.items():
            _tally(self.users, name, _MOST_USERS).take(some)
            if name in self._tokens or len(self._tokens) < _MOST_ACCOUNTS:
                self._tokens[name] += sum(row[2] + row[3] for row in some)
        self._timeline.take([job.arrived for job in jobs], [job.finished for job in jobs], [row[7] for row in rows])

    def _row(self, job: Job) -> _Row:
        arrived, finished, first, decision = job.arrived, job.finished, job.first_content, job.decision
        assert finished is not None, "a job is counted that has not ended"
        if decision is None:
            _count(self.reasons, ("nobody", job.failure.code if job.failure is not None else job.state))
        else:
            _count(self.reasons, (decision.by, decision.reason))
            if decision.error is not None:
                _count(self.script_errors, decision.error)
        attempts = job.attempts
        outcome = OK if job.state == DONE and job.status < 400 else self._trouble(job)
        if len(attempts) > 1 or outcome != OK:
            self.failures.update(one.worker_id for one in attempts if one.result not in ("ok", "client_gone"))
        ttft = tpot = e2e = queue = 0.0
        ttft_at = tpot_at = e2e_at = NONE
        queue_at = 0
        tokens_in = tokens_out = 0
        cost = 0.0
        if first is not None and job.request.stream:
            ttft = first - arrived
            ttft_at = int(log(ttft) * BUCKETS_PER_E + FIRST) if ttft >= _LEAST else 0
        if job.queue_s >= _LEAST:
            queue = job.queue_s
            queue_at = int(log(queue) * BUCKETS_PER_E + FIRST)
        good = False
        if outcome == OK:
            tokens_in, tokens_out = job.tokens_in or 0, job.tokens_out or 0
            e2e = finished - arrived
            e2e_at = int(log(e2e) * BUCKETS_PER_E + FIRST) if e2e >= _LEAST else 0
            if first is not None and tokens_out > 1 and first < finished:
                tpot = (finished - first) / (tokens_out - 1)
                tpot_at = int(log(tpot) * BUCKETS_PER_E + FIRST) if tpot >= _LEAST else 0
            cost = self._cost(job)
            good = not self._has_targets or self._meets(ttft, tpot, e2e)
        return (
            outcome, len(attempts) > 1, tokens_in, tokens_out, cost, good,
            ttft, ttft_at, tpot, tpot_at, e2e, e2e_at, queue, queue_at,
        )  # fmt: skip

    def _trouble(self, job: Job) -> str:
        """What kind of end a job had that was not served well; it is counted by its failure."""
        failure = job.failure
        if failure is None:                                    # the client got a worker's own error
            self.errors[job.attempts[-1].result if job.attempts else f"status_{job.status}"] += 1
            return FAILED
        self.errors[failure.code] += 1
        if job.state == CANCELLED:
            return GONE
        return FAILED if failure.type in _BY_WORKERS or failure.code.startswith("upstream") else REJECTED

    def _cost(self, job: Job) -> float:
        decision = job.decision
        worker = decision.worker if decision is not None else None
        if decision is None or worker is None:
            return 0.0
        if not (self._prices.priced or worker.price_in is not None or worker.price_out is not None):
            return 0.0
        model = decision.model or job.request.model
        return self._prices.cost(worker.spec, model, job.tokens_in, job.tokens_out) or 0.0

    def _meets(self, ttft_s: float, tpot_s: float, e2e_s: float) -> bool:
        targets = self._targets
        return (
            (targets.ttft_s is None or ttft_s <= targets.ttft_s)
            and (targets.tpot_s is None or tpot_s <= targets.tpot_s)
            and (targets.e2e_s is None or e2e_s <= targets.e2e_s)
        )

    # At the end

    def shown_users(self) -> dict[str, Group]:
        """Those with the most requests, most first, and all others together."""
        named = [name for name in self.users if name != OTHERS]
        named.sort(key=lambda name: (-self.users[name].requests, name))
        rest = [self.users[name] for name in (*named[MOST_SHOWN:], *(name for name in self.users if name == OTHERS))]
        shown = {name: self.users[name].group() for name in named[:MOST_SHOWN]}
        if rest:
            together = Tally()
            for tally in rest:
                together.merge(tally)
            shown[OTHERS] = together.group()
        return shown

    def fairness(self) -> float | None:
        """Jain's index of the users' tokens."""
        return jain(self._tokens.values()) if len(self._tokens) > 1 else None

    def told_reasons(self) -> dict[str, int]:
        told: Counter[str] = Counter()
        for (by, reason), number in self.reasons.items():
            told[OTHERS if by == OTHERS else f"{by}: {reason}"] += number
        return by_number(told)


def jain(parts: Iterable[float]) -> float | None:
    """Jain's index of fairness, (sum x)^2 / (n * sum x^2), 1 for equal parts and 1 / n if one has all; None when nobody
    has anything (Jain, Chiu and Hawe, DEC-TR-301, 1984)."""
    shares = list(parts)
    squares = sum(one * one for one in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def by_number(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first; equal ones by name."""
    return dict(sorted(counts.items(), key=lambda row: (-row[1], row[0])))


def groups(tallies: dict[str, Tally]) -> dict[str, Group]:
    return {name: tallies[name].group() for name in sorted(tallies)}


def _tally(tallies: dict[str, Tally], name: str, most: int) -> Tally:
    tally = tallies.get(name)
    if tally is None:
        if len(tallies) >= most:
            name = OTHERS
        tally = tallies.setdefault(name, Tally())
    return tally


def _count(counts: Counter[Any], key: Any) -> None:
    if key in counts or len(counts) < _MOST_TEXTS:
        counts[key] += 1
    else:
        counts[(OTHERS, "") if type(key) is tuple else OTHERS] += 1
