"""What all strategies have in common. Each family has a file beside this one.

A strategy is a small class that chooses and changes nothing; what it must remember of traffic is in a `Memory`, which
the dispatcher feeds, and what it must remember of its own choices it notes in `taken`. It never guesses at random where
data are missing: it says None, and the next strategy of the configured chain decides, at last least-request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, ClassVar

import msgspec

from rbeerouter.config.sections import Strategies
from rbeerouter.core.chance import Chance
from rbeerouter.core.memory import Kind, M, Memories
from rbeerouter.core.models import NO_MODELS, Models
from rbeerouter.core.queue import Shares
from rbeerouter.core.types import Request, Worker


class Hold(msgspec.Struct, frozen=True):
    """A choice: nobody yet. The request is to wait, as no worker can serve it well now.

    timeout_s: for so long at most; None for the configured time.
    priority: higher goes first.
    due: until when it has to be sent, as `Context.now`; among equals in priority the soonest goes first.
    why: for the reason in the log.
    """

    timeout_s: float | None = None
    priority: int = 0
    why: str = ""
    due: float = inf


class Context(msgspec.Struct):
    """What strategies are made of.

    chance: the random numbers of the decision that is being made.
    now: monotonic seconds.
    arrived: when the request came that is being decided about, in the same seconds; None: now.
    options: [routing.strategies] of the configuration.
    models: what the configuration says of models.
    memories: what is remembered, of all strategies together.
    remembered: those that strategies asked for, one by one.
    """

    chance: Chance
    now: Callable[[], float]
    options: Strategies = Strategies()
    models: Models = NO_MODELS
    memories: Memories = msgspec.field(default_factory=Memories)
    arrived: float | None = None
    remembered: list[Kind] = []

    def memory(self, kind: type[M], options: msgspec.Struct | None = None) -> M:
        self.remembered.append((kind, options))
        return self.memories.of(kind, options)


class Strategy:
    """Chooses one of `workers` (never empty, all eligible) and changes nothing.

    Attributes:
        name: as configuration, header and script have it, with `-`.
        by_load: it takes the idlest, so that a worker which comes back must be kept from it (`Panel._thinned`).
        by_weight: it gives each worker as much as its `WorkerSpec.weight` says.
        reads_prompt: it needs `Request.text`.
        reads_tokens: it makes use of `Text.token_ids`, too, where workers tell what they have in their caches.
        remembers: it goes by what a `Memory` knows of traffic. `Panel` sees that as it makes it.
        figures: those of seen.FIGURES that it goes by: the log tells them with each decision.
        reads_client, reads_caller: it needs `Request.client`, `Request.caller`.
        shares: puts those who wait in order, in place of turns, while this strategy is in force.
    """

    name: ClassVar[str]
    by_load: ClassVar[bool] = False
    by_weight: ClassVar[bool] = False
    reads_prompt: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False
    reads_client: ClassVar[bool] = False
    reads_caller: ClassVar[bool] = False
    figures: ClassVar[tuple[str, ...]] = ()
    remembers: bool = False
    shares: Shares | None = None

    def __init__(self, context: Context) -> None:
        self.context = context

    @property
    def names(self) -> tuple[str, ...]:
        """Its name; of a list those of its parts."""
        return (self.name,)

    def choose(self, request: Request, workers: list[Worker]) -> Worker | Hold | None:
        """One of the workers; None: there is nothing to go by."""
        raise NotImplementedError

    def taken(self, request: Request, worker: Worker) -> None:
        """What `choose` gave is taken. For what a strategy remembers of its own choices, such as whose turn it is."""

    def key(self, request: Request) -> str | None:
        """What it takes the hash of to choose a worker; None where it goes by something else."""
        return None

    def headers(self, worker: Worker) -> tuple[tuple[str, str], ...]:
        """What the client is told beside the worker's answer: (name in lower case, value)."""
        return ()

    def note(self, request: Request) -> str:
        """What the log is told beside the name of a strategy that reads tokens: "" or "; WORDS"."""
        return ""

    # What a reload or a replay must know

    def state(self) -> Any:
        """What `taken` noted, as JSON can hold it; None where there is none."""
        return None

    def stand_at(self, state: Any) -> None:
        """Goes on from there. One that makes no sense is left aside."""


class Scored(Strategy):
    """A strategy that gives each worker a number; it can be a part of a weighted list.

    Attributes:
        least: is the least number the best?
    """

    least: ClassVar[bool] = True

    def scores(self, request: Request, workers: list[Worker]) -> Sequence[float | None] | None:
        """A number for each worker, None where nothing is known of that one; None when of none."""
        raise NotImplementedError

    def choose(self, request: Request, workers: list[Worker]) -> Worker | Hold | None:
        scores = self.scores(request, workers)
        if scores is None:
            return None
        filled = with_mean(scores)
        return best(self.context.chance, workers, filled, self.least) if filled is not None else None


def with_mean(scores: Sequence[float | None]) -> Sequence[float] | None:
    """The scores, with the mean of those that are known in the place of those that are not; None when none is."""
    if None not in scores:
        return scores  # type: ignore[return-value]
    known = [score for score in scores if score is not None]
    if not known:
        return None
    mean = sum(known) / len(known)
    return [mean if score is None else score for score in scores]


def best(chance: Chance, workers: list[Worker], scores: Sequence[float], least: bool = True) -> Worker:
    """The worker with the best score, one of them at random where several have it."""
    top = min(scores) if least else max(scores)
    if scores.count(top) == 1:
        return workers[scores.index(top)]
    return chance.choice([worker for worker, score in zip(workers, scores, strict=True) if score == top])
