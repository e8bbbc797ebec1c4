"""Strategies that send a prompt where its beginning is in the KV cache already, unless others wait there.

What a worker has is guessed from what it was sent (`PrefixIndex`): engines keep the blocks of a prompt until their room
is needed. Where engines tell of their caches themselves, what they tell is taken in place of the guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.config.sections import Prefix
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Request, Text, Worker
from rbeerouter.routing.strategies.base import Context, Scored
from rbeerouter.routing.strategies.exact import Exact
from rbeerouter.routing.strategies.index import BlockIndex
from rbeerouter.routing.strategies.prefix_strict import StrictPrefix

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.errors import Failure

_NOTHING: dict[str, int] = {}
_PACE_FADES_S = 60.0
"""Half of what is known of a worker's pace is from the time since then."""
_USUAL_TOKENS = 4096
"""A worker is taken for a usual one until it has computed about so many tokens."""
_ALIKE = 1.3
"""Workers that differ by no more than so many times are taken for alike: so much comes from what they were sent."""


class _Flight(msgspec.Struct, gc=False):
    """A prompt at a worker.

    old: how many of its blocks were there before. queued: tokens that the worker has to compute, 0 once it has.
    ahead: tokens that it had to compute until the first of the answer, those of others included. at: when it was sent.
    """

    worker: str
    generation: int
    blocks: Sequence[int]
    old: int
    queued: int
    ahead: int
    at: float
    computed: bool = False


class _Pace(msgspec.Struct, gc=False):
    """How long a worker took until first tokens, and how many tokens it had to compute until then; both fade."""

    seconds: float = 0.0
    tokens: float = 0.0


class PrefixIndex(Memory):
    """Which blocks of prompts each worker was sent and should have yet, and how many tokens wait there to be computed.

    A prompt counts as cached from the moment at which it is sent, so that others with the same beginning follow it at
    once. When the attempt fails before any content came, the worker may have computed all of it or nothing: the blocks
    that were not there before go, but for those that another prompt under way has too. A wrong "not cached" costs no
    more than the choice of another worker; a wrong "cached" would send prompts to a worker that has nothing of them.

    A worker has room for as many tokens as it reports, else for `worker_tokens`; of the rest, what was not used for
    longest goes, the end of a prompt before its beginning. A restart forgets all of a worker. After llm-d's
    approximate prefix scorer, which bounds by worker as well.

    Attributes:
        blocks: the index.
        queued: {worker id: tokens of prompts that are not computed yet}.
        chosen, cold: {worker id: when it last got a prompt, or one of which nobody had anything}, by a counter.
        slowness: {worker id: by what its cost is multiplied}, of those that take much longer or shorter than the mean
            to compute a token, as the first contents of streams have told lately.
    """

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self._prefix = options if isinstance(options, Prefix) else Prefix()
        self.blocks = BlockIndex()
        self.queued: dict[str, int] = {}
        self.chosen: dict[str, int] = {}
        self.cold: dict[str, int] = {}
        self.slowness: dict[str, float] = {}
        self._paces: dict[str, _Pace] = {}
        self._faded_at: float | None = None
        self._flights: dict[Job, _Flight] = {}
        self._generations: dict[str, int] = {}
        self._rooms: dict[str, int] = {}
        self._count = 0
        self._matched: tuple[Text | None, dict[str, int]] = None, _NOTHING

    def match(self, text: Text) -> dict[str, int]:
        """{worker id: blocks of the prompt that it has, from the first one on}. Not to be changed."""
        known, found = self._matched
        if known is not text:
            found = self.blocks.match(text.blocks())
            self._matched = text, found
        return found

    def is_cold(self, blocks: Sequence[int], found: dict[str, int]) -> bool:
        """Has no worker more than a trifle of the prompt?"""
        return not found or max(found.values()) <= self._prefix.cold_share * len(blocks)

    # What the dispatcher tells

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        name, text, request = worker.id, job.request.text, job.request
        if self._generations.get(name) != worker.generation:
            self._begin(worker)
        self._count += 1
        self.chosen[name] = self._count
        blocks: Sequence[int] = ()
        old, block_tokens = 0, 0
        if text is not None:
            blocks, found, block_tokens = text.blocks(), self.match(text), text.block_tokens
            old = found.get(name, 0)
            if self.is_cold(blocks, found):
                self.cold[name] = self._count
            self._fit(worker, block_tokens)
            self.blocks.stored(name, blocks)
            self._matched = None, _NOTHING
        queued = max(0, tokens_of(request, blocks, block_tokens) - old * block_tokens)
        self.queued[name] = ahead = self.queued.get(name, 0) + queued
        self._flights[job] = _Flight(name, worker.generation, blocks, old, queued, ahead, now)

    def answering(self, job: Job, worker: Worker, now: float) -> None:
        flight = self._flights.get(job)
        if flight is not None:
            self._compute(flight)
            flight.computed = job.status < 400
            if job.request.stream and flight.computed and (pace := self._paces.get(flight.worker)) is not None:
                pace.seconds += now - flight.at
                pace.tokens += flight.ahead

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        flight = self._flights.pop(job, None)
        if flight is None:
            return
        self._compute(flight)
        name = flight.worker
        if not flight.blocks or flight.generation != self._generations.get(name):
            return
        self._matched = None, _NOTHING
        if flight.computed or (failure is None and job.status < 400):
            self.blocks.stored(name, flight.blocks)            # it was in use until now, whatever went meanwhile
            return
        kept = flight.old
        for one in self._flights.values():
            if one.worker == name:
                kept = _alike(flight.blocks, one.blocks, kept)
        self.blocks.removed(name, flight.blocks[kept:])

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        generations = self._generations
        there = {worker.id: worker for worker in workers}
        for name in [name for name in generations if name not in there]:
            self.blocks.forget(name)
            for known in (generations, self.queued, self.chosen, self.cold, self._rooms, self._paces):
                known.pop(name, None)
            self._matched = None, _NOTHING
        for name, generation in generations.items():
            if there[name].generation != generation:
                self._begin(there[name])
        self._compare_paces(now)

    def _compare_paces(self, now: float) -> None:
        """Who is slower than the others? What is not heard of for a while is taken for usual again."""
        left = 1.0 if self._faded_at is None else 0.5 ** (max(0.0, now - self._faded_at) / _PACE_FADES_S)
        self._faded_at = now
        for pace in self._paces.values():
            pace.seconds *= left
            pace.tokens *= left
        seconds = sum(pace.seconds for pace in self._paces.values())
        tokens = sum(pace.tokens for pace in self._paces.values())
        self.slowness = {}
        if seconds > 0.0 and tokens > _USUAL_TOKENS:
            usual_s = seconds / tokens
            for name, pace in self._paces.items():
                mine_s = (pace.seconds + _USUAL_TOKENS * usual_s) / (pace.tokens + _USUAL_TOKENS)
                times = mine_s / usual_s
                if not 1 / _ALIKE <= times <= _ALIKE:
                    self.slowness[name] = times**self._prefix.speed_power

    def _begin(self, worker: Worker) -> None:
        """A worker that is new, or has been started again: its cache is empty."""
        self.blocks.cleared(worker.id)
        self._generations[worker.id] = worker.generation
        self._paces[worker.id] = _Pace()
        self._matched = None, _NOTHING

    def _fit(self, worker: Worker, block_tokens: int) -> None:
        """So many blocks fit into the worker, as far as it has ever said."""
        if worker.kv_blocks is not None and worker.block_size is not None:
            room = worker.kv_blocks * worker.block_size
        else:
            room = self._rooms.get(worker.id, 0) * block_tokens or self._prefix.worker_tokens
        most = max(1, room // block_tokens)
        if self._rooms.get(worker.id) != most:
            self._rooms[worker.id] = most
            self.blocks.bound(worker.id, most)

    def _compute(self, flight: _Flight) -> None:
        """The worker has nothing to compute for it any more."""
        if flight.queued:
            left = self.queued.get(flight.worker)
            if left is not None:
                self.queued[flight.worker] = max(0, left - flight.queued)
            flight.queued = 0


def _alike(blocks: Sequence[int], others: Sequence[int], known: int) -> int:
    """How many blocks two prompts begin with in common, if they are more than `known`; else that. A block stands for
    all before it, so a few are looked at and not all: a worker that dies has hundreds of prompts."""
    low, high = known, min(len(blocks), len(others))
    if low >= high or blocks[low] != others[low]:
        return known
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if blocks[middle] == others[middle] else (low, middle)
    return low


def tokens_of(request: Request, blocks: Sequence[int], block_tokens: int) -> int:
    """Of a prompt, as far as anybody can say."""
    return max(request.prompt_tokens or 0, len(blocks) * block_tokens)


class _ByPrefix(Scored):
    """What these strategies have in common: they need the prompt, and have nothing to go by without one."""

    by_load = True
    reads_prompt = True

    reads_tokens = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.index = context.memory(PrefixIndex, context.options.prefix)
        self.exact = context.memory(Exact)

    def uncached(self, request: Request, text: Text, workers: list[Worker]) -> list[int]:
        """Tokens of the prompt that each worker would have to compute."""
        exact = self.exact.cached_tokens(request, workers)
        if exact:
            return self._uncached_exactly(exact, text, workers)
        width, found = text.block_tokens, self.index.match(text)
        total = tokens_of(request, text.blocks(), width)
        has = found.get
        return [total - has(worker.id, 0) * width for worker in workers]

    def _uncached_exactly(self, exact: dict[str, int], text: Text, workers: list[Worker]) -> list[int]:
        """The same where workers tell what they have. Of the others, the part of the prompt that they should have."""
        total = len(text.token_ids() or ())
        if len(exact) == len(workers):
            return [total - exact[worker.id] for worker in workers]
        found, width = self.index.match(text), total / (len(text.blocks()) or 1)
        has, guessed = exact.get, found.get
        return [
            total - (cached if (cached := has(worker.id)) is not None else round(guessed(worker.id, 0) * width))
            for worker in workers
        ]

    def note(self, request: Request) -> str:
        if not self.exact.holdings or request.text is None:
            return ""
        known = request.text.token_ids() is not None
        return "; by tokens" if known else "; by bytes, as its tokens are not known"


class LMetric(_ByPrefix):
    """The least of uncached tokens times requests that it would have (arXiv 2603.15202)."""

    name = "lmetric"

    def scores(self, request: Request, workers: list[Worker]) -> Sequence[float | None] | None:
        text = request.text
        if text is None:
            return None
        uncached = self.uncached(request, text, workers)
        return [tokens * (worker.in_flight + 1) for tokens, worker in zip(uncached, workers, strict=True)]


class PrefixCache(_ByPrefix):
    """The least of (tokens that wait to be computed + uncached tokens + one block) times requests that it would have,
    with the first at `queued_weight` and the requests to the power of `load_power`.

    A worker that has all of a prompt has still a cost by its load (with lmetric it is 0 whatever that is), and prompts
    of which nobody has anything are spread though no request has ended. A worker that computes slower has a higher
    cost, to the power of `speed_power`.

    Among equals the one with the fewest requests, then the one that was chosen longest ago, or for a prompt of which
    nobody has more than a trifle, the one that got such a prompt longest ago, so that new conversations do not all
    begin on one worker (llm-d's no-hit-lru scorer).

    In a weighted list its score is the share of the prompt in per cent.
    """

    name = "prefix-cache"
    least = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        prefix = context.options.prefix
        self._weight, self._power = prefix.queued_weight, prefix.load_power
        self._strict = StrictPrefix(context) if context.options.strict else None
        self.reads_tokens = self._strict is None  # type: ignore[misc]

    def scores(self, request: Request, workers: list[Worker]) -> Sequence[float | None] | None:
        text = request.text
        if text is None:
            return None
        if self._strict is not None:
            return self._strict.percents(request, text, workers)
        exact = self.exact.cached_tokens(request, workers)
        if exact:
            total = len(text.token_ids() or ()) or 1
            return [100 - 100 * left / total for left in self._uncached_exactly(exact, text, workers)]
        found, count = self.index.match(text), len(text.blocks()) or 1
        return [found.get(worker.id, 0) * 100 / count for worker in workers]

    def choose(self, request: Request, workers: list[Worker]) -> Worker | None:
        if self._strict is not None:
            return self._strict.choose(request, workers)
        text = request.text
        if text is None:
            return None
        index = self.index
        queued, block = index.queued.get, text.block_tokens
        slowness, weight, power = index.slowness.get, self._weight, self._power
        costs = [
            (weight * queued(worker.id, 0) + tokens + block) * slowness(worker.id, 1.0) * (worker.occupied + 1) ** power
            for tokens, worker in zip(self.uncached(request, text, workers), workers, strict=True)
        ]
        least = min(costs)
        if costs.count(least) == 1:
            return workers[costs.index(least)]
        equal = [worker for worker, cost in zip(workers, costs, strict=True) if cost == least]
        before = index.cold if index.is_cold(text.blocks(), index.match(text)) else index.chosen
        ranks = [(worker.occupied, before.get(worker.id, 0)) for worker in equal]
        first = min(ranks)
        return self.context.chance.choice([worker for worker, rank in zip(equal, ranks, strict=True) if rank == first])
