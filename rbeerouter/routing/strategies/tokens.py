"""How much work each worker has been given, in tokens, and which models it is loading: memories of `figures` and
`economy` that need an estimate of each request while it is served. Estimates are taken back as they were made, so that
no error of theirs outlives a request.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import exp2
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.core.types import Worker
from rbeerouter.routing.strategies.measured import Lengths, Lookback, OfWorkers, Record, is_good

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.errors import Failure

_PROMPT_WEIGHT = 2
"""A token of a prompt counts for two of an answer, as in AIBrix (`algorithms/throughput.go`)."""
_SCALE_AFTER = 64.0
"""Half-lives after which sums are written in new units, long before a float has none that is large enough."""
_WARMING_S = 60.0
"""How long a worker that reports nothing is taken to be loading a model that it was asked for."""


class Sum(Record):
    """done: weighted tokens of requests that have ended, in the memory's units. under_way: estimates of the others."""

    __slots__ = ("done", "under_way")

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.done = 0.0
        self.under_way = 0


class TokenSums(OfWorkers[Sum]):
    """The weighted tokens, 2 * prompt + answer, that each worker was given: a sum that halves in each half-life.

    Sums are not made smaller as time goes on; what is added is made larger ("Forward decay", Cormode et al., ICDE
    2009), so that nothing has to be done to workers to which nothing happens.
    """

    def __init__(self, options: Lookback) -> None:
        super().__init__(options)
        self.half_life_s = options.seconds
        self.lengths = Lengths()
        self._begin: float | None = None
        self._under_way: dict[Job, tuple[Sum, int]] = {}

    def new(self, worker: Worker, now: float) -> Sum:
        return Sum(worker.generation)

    def unit(self, now: float) -> float:
        """What one token of the past counts now, in the units of `Sum.done`."""
        return exp2((self._begin - now) / self.half_life_s) if self._begin is not None else 1.0

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        self.lengths.sent(job, worker, now)
        request, one = job.request, self.record(worker, now)
        tokens = round(_PROMPT_WEIGHT * self.lengths.prompt_of(request) + self.lengths.answer_of(request))
        one.under_way += tokens
        self._under_way[job] = (one, tokens)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        self.lengths.released(job, worker, failure, now)
        begun = self._under_way.pop(job, None)
        if begun is None:                                    # it was sent before anybody wanted to know
            return
        one, tokens = begun
        one.under_way -= tokens
        if self._begin is None:
            self._begin = now
        one.done += _worked(job, failure, tokens) / self.unit(now)

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        super().tick(now, workers)
        if self._begin is not None and now - self._begin > _SCALE_AFTER * self.half_life_s:
            unit = self.unit(now)
            for one in self.records.values():
                one.done *= unit
            self._begin = now


def _worked(job: Job, failure: Failure | None, estimate: int) -> int:
    """The weighted tokens that a worker computed for a job: its usage where it tells; else the estimate for a good
    answer, and the prompt of one that broke off."""
    tokens_in, tokens_out = job.tokens_in, job.tokens_out
    if tokens_in is not None or tokens_out is not None:
        prompt = job.request.prompt_tokens if tokens_in is None else tokens_in
        return _PROMPT_WEIGHT * (prompt or 0) + (tokens_out or 0)
    if is_good(job, failure):
        return estimate
    begun = job.first_content is not None and job.first_content >= job.sent
    return _PROMPT_WEIGHT * (job.request.prompt_tokens or 0) if begun else 0


# What engines have not reported yet


class Credit(Record):
    """reported_at: of the report that it belongs to. share: of the KV cache, that was given since then less that which
    was given back."""

    __slots__ = ("reported_at", "share")

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.reported_at: float | None = None
        self.share = 0.0


class SinceReport(OfWorkers[Credit]):
    """How much of each worker's KV cache requests have taken since its engine last told: without that, all that comes
    between two reports would go to the one that looked emptiest ("dispatch credit" of SMG's `least_load`).

    A request takes its prompt and its answer, of all blocks where the engine tells how many there are; else as many
    fill the cache as the worker has room for.
    """

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self.lengths = Lengths()
        self._shares: dict[Job, tuple[float, int]] = {}       # and of which process of the worker

    def new(self, worker: Worker, now: float) -> Credit:
        return Credit(worker.generation)

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        lengths, request = self.lengths, job.request
        lengths.sent(job, worker, now)
        if worker.kv_blocks and worker.block_size:
            tokens = lengths.prompt_of(request) + lengths.answer_of(request)
            share = min(1.0, tokens / (worker.kv_blocks * worker.block_size))
        else:
            share = 1 / worker.capacity
        self._shares[job] = share, worker.generation
        self._add(worker, share, now)

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        self.lengths.released(job, worker, failure, now)
        share, generation = self._shares.pop(job, (0.0, -1))
        if generation == worker.generation:                    # else it was another process, or sent before that
            self._add(worker, -share, now)

    def _add(self, worker: Worker, share: float, now: float) -> None:
        one = self.record(worker, now)
        if one.reported_at != worker.reported_at:
            one.reported_at, one.share = worker.reported_at, 0.0
        one.share += share


# Prompts that are not computed yet


class Prompts(Record):
    """tokens: of prompts whose answers have not begun."""

    __slots__ = ("tokens",)

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.tokens = 0


class WaitingPrompts(OfWorkers[Prompts]):
    """The tokens of prompts that each worker has got from us and not computed yet."""

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self.lengths = Lengths()
        self._waiting: dict[Job, tuple[Prompts, int]] = {}

    def new(self, worker: Worker, now: float) -> Prompts:
        return Prompts(worker.generation)

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        self.lengths.sent(job, worker, now)
        one, tokens = self.record(worker, now), round(self.lengths.prompt_of(job.request))
        one.tokens += tokens
        self._waiting[job] = (one, tokens)

    def answering(self, job: Job, worker: Worker, now: float) -> None:
        waiting = self._waiting.pop(job, None)
        if waiting is not None:
            waiting[0].tokens -= waiting[1]

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        self.answering(job, worker, now)


# Models that are being loaded


class Asked:
    """in_flight: requests for one model on one worker. ended: when the last good one of them did."""

    __slots__ = ("ended", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.ended = float("-inf")


class ModelsAsked(Record):
    """asked: {model: what is known of it} of those that were asked for and may not have been reported yet."""

    __slots__ = ("asked",)

    def __init__(self, generation: int) -> None:
        super().__init__(generation)
        self.asked: dict[str, Asked] = {}


class Warming(OfWorkers[ModelsAsked]):
    """Which models workers must have loaded, or be loading, though their engines have not told yet: a request for it is
    there, or has been answered since the last report. What is kept is bounded by the requests under way."""

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self._under_way: dict[Job, Asked] = {}

    def new(self, worker: Worker, now: float) -> ModelsAsked:
        return ModelsAsked(worker.generation)

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        one = self._under_way[job] = self._of(job, worker, now)
        one.in_flight += 1

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        one = self._under_way.pop(job, None)
        if one is not None:
            one.in_flight -= 1
        elif is_good(job, failure):                           # it was sent before anybody wanted to know
            one = self._of(job, worker, now)
        if one is not None and is_good(job, failure):
            one.ended = now

    def _of(self, job: Job, worker: Worker, now: float) -> Asked:
        asked, decision = self.record(worker, now).asked, job.decision
        model = (decision is not None and (decision.wanted or decision.model)) or job.request.model
        one = asked.get(model)
        if one is None:
            one = asked[model] = Asked()
        return one

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        super().tick(now, workers)
        for worker, models in self.records.items():
            asked = models.asked
            if not asked:
                continue
            told_at = now - _WARMING_S if worker.reported_at is None else worker.reported_at
            for model in [model for model, one in asked.items() if not one.in_flight and one.ended <= told_at]:
                del asked[model]
