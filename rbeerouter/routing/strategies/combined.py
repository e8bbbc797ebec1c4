"""A weighted list of strategies, as one: `least-request:2,prefix-cache:1`.

The rule is that of AIBrix (pkg/plugins/gateway/algorithms/router.go): each part's scores are brought into 0 to 1, 1 for
the best worker, and the worker with the greatest weighted mean wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rbeerouter.config.strategies import Part, spelled
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Scored, Strategy, with_mean

_ALIKE = 1e-9
"""Totals that differ by no more are a tie."""


class Combined(Strategy):
    """The worker with the greatest `sum(weight * normalised score) / sum(weight)`, one of them at random where several
    have it.

    A part that knows nothing of any worker has no say. Where it knows nothing of one worker, that one counts as the
    mean of the others; with `strict`, as the worst.

    Args:
        parts: (a strategy, its weight above 0), two or more.
    """

    def __init__(self, context: Context, parts: Sequence[tuple[Strategy, int]]) -> None:
        super().__init__(context)
        self.parts = [(part, weight) for part, weight in parts if isinstance(part, Scored)]
        names: tuple[Part, ...] = tuple((part.name, weight) for part, weight in self.parts)
        self.name = spelled(names)  # type: ignore[misc]
        self.by_load = any(part.by_load for part, _ in self.parts)  # type: ignore[misc]
        self.reads_prompt = any(part.reads_prompt for part, _ in self.parts)  # type: ignore[misc]
        self.reads_tokens = any(part.reads_tokens for part, _ in self.parts)  # type: ignore[misc]
        self.reads_client = any(part.reads_client for part, _ in self.parts)  # type: ignore[misc]
        self.reads_caller = any(part.reads_caller for part, _ in self.parts)  # type: ignore[misc]
        self.by_weight = any(part.by_weight for part, _ in self.parts)  # type: ignore[misc]
        self.remembers = any(part.remembers for part, _ in self.parts)
        self.shares = next((part.shares for part, _ in self.parts if part.shares is not None), None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part, _ in self.parts)

    def choose(self, request: Request, workers: list[Worker]) -> Worker | None:
        strict = self.context.options.strict
        totals, weights = [0.0] * len(workers), 0
        for part, weight in self.parts:
            scores = part.scores(request, workers)
            normal = normalised(scores, part.least, strict) if scores is not None else None
            if normal is None:
                continue
            weights += weight
            totals = [total + weight * score for total, score in zip(totals, normal, strict=True)]
        if not weights:
            return None
        least = (max(totals) / weights - _ALIKE) * weights
        best = [worker for worker, total in zip(workers, totals, strict=True) if total >= least]
        return best[0] if len(best) == 1 else self.context.chance.choice(best)

    def taken(self, request: Request, worker: Worker) -> None:
        for part, _ in self.parts:
            part.taken(request, worker)

    def key(self, request: Request) -> str | None:
        return next((key for part, _ in self.parts if (key := part.key(request)) is not None), None)

    def headers(self, worker: Worker) -> tuple[tuple[str, str], ...]:
        return tuple(header for part, _ in self.parts for header in part.headers(worker))

    def note(self, request: Request) -> str:
        return next((note for part, _ in self.parts if (note := part.note(request))), "")

    def state(self) -> Any:
        """Its parts are known by their own names, and keep what they remember themselves."""
        return None


def normalised(scores: Sequence[float | None], least: bool, strict: bool = False) -> list[float] | None:
    """Scores as numbers from 0 to 1, which is the best: 1 for all where they are alike. None where nothing is known.

    Args:
        least: is the least score the best?
        strict: a worker of which nothing is known gets 0, in place of the mean of the others.
    """
    known = scores
    if None in scores or not math.isfinite(sum(scores)):  # type: ignore[arg-type]
        known = [score if score is not None and math.isfinite(score) else None for score in scores]
    filled = with_mean(known)
    if filled is None:
        return None
    low, high = min(filled), max(filled)
    span = high - low
    if span == 0:
        normal = [1.0] * len(filled)
    elif least:
        normal = [(high - score) / span for score in filled]
    else:
        normal = [(score - low) / span for score in filled]
    if not strict:
        return normal
    return [0.0 if strict and score is None else value for score, value in zip(known, normal, strict=True)]
