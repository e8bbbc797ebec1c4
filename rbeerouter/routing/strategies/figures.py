"""Strategies that go by what engines report and by what is measured of their answers.

Where one worker does not tell, it is taken for one like the mean of the others; where none does, the next strategy of
the chain decides. With `[routing.strategies] strict`, those that come from AIBrix do as it does: who does not tell is
left out, and where nobody tells, one is chosen at random.
"""

from __future__ import annotations

from collections.abc import Sequence

from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Hold, Scored, with_mean
from rbeerouter.routing.strategies.measured import BusyTime, Latencies, Lookback, PeakLatencies, TokenTimes
from rbeerouter.routing.strategies.tokens import SinceReport, TokenSums, WaitingPrompts

_KV_WEIGHT, _KV_TOP = 0.15, 1.001
"""What a KV cache that fills up counts for, as in SMG's `least_load`; a full one must not divide by zero."""
_KV_FULL = 0.9
"""The share of the KV cache at which SGLang takes an engine for fully used."""
_TIE = 0.001
"""What the load weighs beside busy time: it decides where workers are as busy within a thousandth of the window."""


class LoadBased(Scored):
    """The worker with the least to do, as far as anybody can tell: its requests, those that wait in the engine once
    more, prompts that it has not begun to answer by their tokens, and how full its KV cache is.

        (occupied + waiting + unanswered prompt tokens / mean prompt tokens) / capacity + 0.15 * kv / (1.001 - kv)
    """

    name = "load-based"
    by_load = True
    figures = ("waiting", "kv_usage")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.prompts = context.memory(WaitingPrompts)

    def scores(self, request: Request, workers: list[Worker]) -> list[float]:
        prompts, a_token = self.prompts.records.get, 1.0 / self.prompts.lengths.prompt_tokens
        try:
            return [
                (worker.occupied + worker.waiting + (one.tokens * a_token if one else 0.0)) / worker.capacity
                + _KV_WEIGHT * (usage := worker.kv_usage) / (_KV_TOP - usage)
                for worker, one in zip(workers, map(prompts, workers), strict=True)
            ]  # fmt: skip
        except TypeError:                                     # somebody does not tell: there is a None
            pass
        loads = [
            (worker.occupied + one.tokens * a_token if one else worker.occupied) / worker.capacity
            for worker, one in zip(workers, map(prompts, workers), strict=True)
        ]
        told: Sequence[float | None] = [worker.waiting for worker in workers]
        if any(told) and (waiting := with_mean(told)):
            loads = [load + rows / worker.capacity for load, rows, worker in zip(loads, waiting, workers, strict=True)]
        told = [worker.kv_usage for worker in workers]
        if any(told) and (usages := with_mean(told)):
            loads = [load + _KV_WEIGHT * usage / (_KV_TOP - usage) for load, usage in zip(loads, usages, strict=True)]
        return loads


class LatencyBased(Scored):
    """The worker whose answers are fastest for how many requests it has: average latency * (requests in flight + 1), as
    Finagle's and linkerd's load balancers choose, with the average instead of the peak unless `strict`."""

    name = "latency-based"
    by_load = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        kind = PeakLatencies if context.options.strict else Latencies
        self.latencies = context.memory(kind, Lookback(context.options.span.latency_s))

    def scores(self, request: Request, workers: list[Worker]) -> list[float] | None:
        known_s = self.latencies.known_s
        means = with_mean([known_s.get(worker) for worker in workers])
        if means is None:
            return None
        return [mean_s * (worker.in_flight + 1) for mean_s, worker in zip(means, workers, strict=True)]


class LeastBusyTime(Scored):
    """The worker that was busy for the least of the last window: had at least one request of ours. Of those that were
    busy alike, such as all of the time, the one with the least load."""

    name = "least-busy-time"
    by_load = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.busy_time = context.memory(BusyTime, Lookback(context.options.span.busy_s))

    def scores(self, request: Request, workers: list[Worker]) -> list[float]:
        shares = self.busy_time.shares(workers, self.context.now())
        return [share + _TIE * worker.load for share, worker in zip(shares, workers, strict=True)]


class LeastLatency(Scored):
    """The worker on which a request of the mean length takes the least time, as measured lately, and for those that are
    there before it: seconds * (1 + occupied / capacity)."""

    name = "least-latency"
    by_load = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.times = context.memory(TokenTimes, Lookback(context.options.span.latency_s))

    def scores(self, request: Request, workers: list[Worker]) -> list[float] | None:
        mean_s = self.times.mean_s
        if mean_s is None:
            return None
        known_s = self.times.known_s.get
        return [known_s(worker, mean_s) * (1.0 + worker.load) for worker in workers]


class LeastKvCache(Scored):
    """The worker whose KV cache is emptiest: as its engine told, and what was sent there and came back since."""

    name = "least-kv-cache"
    by_load = True
    figures = ("kv_usage",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.credits = None if context.options.strict else context.memory(SinceReport)

    def scores(self, request: Request, workers: list[Worker]) -> list[float | None] | None:
        if self.credits is None:
            return [worker.kv_usage for worker in workers]
        records = self.credits.records
        scores: list[float | None] = []
        for worker in workers:
            usage = worker.kv_usage
            if usage is not None:
                credit = records.get(worker)
                if credit is not None and credit.reported_at == worker.reported_at:
                    usage += credit.share
                    if usage < 0.0:
                        usage = 0.0
            scores.append(usage)
        return scores

    def choose(self, request: Request, workers: list[Worker]) -> Worker | Hold | None:
        if self.credits is not None:
            return super().choose(request, workers)
        telling = [worker for worker in workers if worker.kv_usage is not None]
        if not telling:
            return self.context.chance.choice(workers)
        return super().choose(request, telling)


class LeastGpuCache(LeastKvCache):
    """The same: what vLLM once called `gpu_cache_usage_perc` is its `kv_cache_usage_perc` now."""

    name = "least-gpu-cache"


class LeastUtilization(Scored):
    """The worker of which the least is used: of its places or of nine tenths of its KV cache, whichever is more. So
    SGLang computes its `sglang:utilization`; from what is known here, every engine has one."""

    name = "least-utilization"
    by_load = True
    figures = ("kv_usage",)

    def scores(self, request: Request, workers: list[Worker]) -> list[float]:
        usages = with_mean([worker.kv_usage for worker in workers])
        if usages is None:
            return [worker.load for worker in workers]
        return [
            worker.load if worker.load * _KV_FULL > usage else usage / _KV_FULL
            for worker, usage in zip(workers, usages, strict=True)
        ]


class Throughput(Scored):
    """The worker that was given the fewest tokens lately for its capacity: 2 * prompt + answer, of requests that have
    ended by their usage, halved in each half-life, and of those that are under way by estimate."""

    name = "throughput"
    by_load = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.sums = context.memory(TokenSums, Lookback(context.options.span.tokens_s))

    def scores(self, request: Request, workers: list[Worker]) -> list[float]:
        unit, records = self.sums.unit(self.context.now()), self.sums.records
        scores = []
        for worker in workers:
            one = records.get(worker)
            scores.append(0.0 if one is None else (one.done * unit + one.under_way) / worker.capacity)
        return scores
