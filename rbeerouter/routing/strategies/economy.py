"""Strategies that go by what a request costs: money, a share of it that may leave the house, or loading a model."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from rbeerouter.core.types import LOCAL, Request, Worker
from rbeerouter.routing.split import Share
from rbeerouter.routing.strategies.base import Context, Scored, Strategy, best, with_mean
from rbeerouter.routing.strategies.measured import Lengths
from rbeerouter.routing.strategies.tokens import Warming

_LATEST = ":latest"
_PER_TOKEN = 1e-6
"""Prices are per million tokens."""
_ONE_MS = 1 / 3_600_000
"""Of an hour."""


class Cheapest(Scored):
    """The worker on which this request costs least; of those that cost about the same, the one with the least load.

    1. A worker's tokens have a price: price_in * prompt + price_out * expected answer.
    2. Else its hours have one: cost_per_hour * time of an answer there / requests that it serves at once.
    3. Else the model's tokens have one.
    4. Else it is free if it is local, as it is paid for anyway. A remote one is taken to be as dear as the dearest, and
       not free: nothing should be spent on a guess.
    """

    name = "cheapest"
    by_load = True
    figures = ("latency_ms",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.lengths = context.memory(Lengths)

    def scores(self, request: Request, workers: list[Worker]) -> list[float] | None:
        """What the request costs on each, in the operator's currency; None where only remote ones are left and none
        has a price."""
        model = self.context.models.resolve(request.model)
        no_price = model is None or (model.price_in is None and model.price_out is None)
        of_model_in = model.price_in or 0.0 if model is not None else 0.0
        of_model_out = model.price_out or 0.0 if model is not None else 0.0
        tokens_in = self.lengths.prompt_of(request) * _PER_TOKEN
        tokens_out = self.lengths.answer_of(request) * _PER_TOKEN
        usual_ms: float | None = None
        costs: list[float | None] = []
        for worker in workers:
            price_in, price_out = worker.price_in, worker.price_out
            if price_in is None and price_out is None:
                if worker.cost_per_hour is not None:
                    latency_ms = worker.latency_ms
                    if latency_ms is None:
                        latency_ms = usual_ms = self._usual_ms(workers) if usual_ms is None else usual_ms
                    costs.append(worker.cost_per_hour * latency_ms * _ONE_MS / worker.capacity)
                    continue
                if no_price:
                    costs.append(0.0 if worker.deployment == LOCAL else None)
                    continue
            costs.append(
                (of_model_in if price_in is None else price_in) * tokens_in
                + (of_model_out if price_out is None else price_out) * tokens_out
            )
        if None not in costs:
            return costs  # type: ignore[return-value]
        dearest = max((cost for cost in costs if cost is not None), default=None)
        return None if dearest is None else [dearest or 1.0 if cost is None else cost for cost in costs]

    def _usual_ms(self, workers: list[Worker]) -> float:
        """How long an answer takes on a worker of which that is not known: as long as on the others."""
        known = [worker.latency_ms for worker in workers if worker.latency_ms is not None]
        return sum(known) / len(known) if known else self.context.options.cheapest.answer_s * 1000

    def choose(self, request: Request, workers: list[Worker]) -> Worker | None:
        costs = self.scores(request, workers)
        if costs is None:
            return None
        most = min(costs) * (1.0 + self.context.options.cheapest.tolerance)
        cheap = [worker for worker, cost in zip(workers, costs, strict=True) if cost <= most]
        return least_loaded(self.context, cheap)


class FixedRatio(Strategy):
    """A fixed share of the requests stays local, exactly, in turns; within the side, the worker with the least load.

    Turns and debts are those of `[routing.split]`, which narrows what any strategy sees; this is the same as a strategy
    of its own, for the requests that are given to it.
    """

    name = "fixed-ratio"
    by_load = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        ratio = context.options.ratio
        self.share = Share(ratio.local, ratio.debt)

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        local = [worker for worker in workers if worker.deployment == LOCAL]
        side = self.share.side(bool(local), len(local) < len(workers))
        if side != LOCAL and local:
            return least_loaded(self.context, [worker for worker in workers if worker.deployment != LOCAL])
        return least_loaded(self.context, local or workers)

    def taken(self, request: Request, worker: Worker) -> None:
        self.share.take(worker.deployment)

    def state(self) -> float:
        return self.share.owed

    def stand_at(self, state: Any) -> None:
        if isinstance(state, int | float) and isfinite(state):
            self.share.owe(state)


class CacheWarm(Scored):
    """A worker that has the model in memory before one that must load it, which takes tens of seconds.

        (occupied + 1) / capacity, times `spill` where the model is not loaded

    The least wins, so the model is loaded once more only where all that have it are that much fuller. Then, or when
    nobody has it, of those that would do as well: the one that is loading the fewest others, then the most free VRAM,
    then the fewest loaded models, then the least load.
    """

    name = "cache-warm"
    by_load = True
    figures = ("vram_used",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.warming = context.memory(Warming)

    def scores(self, request: Request, workers: list[Worker]) -> list[float]:
        spill, warm = self.context.options.warm.spill, self._warm(request.model, workers)
        fills = [(worker.occupied + 1) / worker.capacity for worker in workers]
        return [fill if is_warm else fill * spill for fill, is_warm in zip(fills, warm, strict=True)]

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        warm = self._warm(request.model, workers)
        fills = [(worker.occupied + 1) / worker.capacity for worker in workers]
        least = min([fill for fill, is_warm in zip(fills, warm, strict=True) if is_warm], default=inf)
        if least < inf:
            below = least / self.context.options.warm.spill
            if min(fills) >= below:
                return self.context.chance.choice(
                    [worker for worker, fill, is_warm in zip(workers, fills, warm, strict=True)
                     if is_warm and fill == least]
                )  # fmt: skip
        else:
            below = inf
        return self._roomiest(
            [worker for worker, fill, is_warm in zip(workers, fills, warm, strict=True) if not is_warm and fill < below]
        )

    def _warm(self, model: str, workers: list[Worker]) -> list[bool]:
        """Is the model loaded there, or asked for since the engine last told what is?"""
        other, asked = _other_name(model), self.warming.records.get
        return [
            model in worker.loaded or other in worker.loaded
            or (bool(worker.spec.model_names) and _is_loaded_renamed(worker, model))
            or ((models := asked(worker)) is not None and model in models.asked)
            for worker in workers
        ]  # fmt: skip

    def _roomiest(self, workers: list[Worker]) -> Worker:
        """Where a model should be loaded."""
        free = with_mean(
            [
                worker.vram - worker.vram_used if worker.vram is not None and worker.vram_used is not None else None
                for worker in workers
            ]
        )
        records = self.warming.records
        keys = []
        for index, worker in enumerate(workers):
            models = records.get(worker)
            loading = len(models.asked) if models is not None else 0
            keys.append((loading, -free[index] if free is not None else 0.0, len(worker.loaded), worker.load))
        least = min(keys)
        return self.context.chance.choice([worker for worker, key in zip(workers, keys, strict=True) if key == least])


def _other_name(model: str) -> str:
    """What Ollama may call it as well: `name` is `name:latest`."""
    return model.removesuffix(_LATEST) if ":" in model else model + _LATEST


def _is_loaded_renamed(worker: Worker, model: str) -> bool:
    """Is it loaded under the name that the operator says the worker has for it?"""
    own = worker.spec.model_names.get(model)
    return own is not None and (own in worker.loaded or _other_name(own) in worker.loaded)


def least_loaded(context: Context, workers: list[Worker]) -> Worker:
    """The one with the least load, as least-request chooses."""
    return best(context.chance, workers, [worker.load for worker in workers])
