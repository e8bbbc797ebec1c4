"""What engines tell of their own KV caches: the exact half of the prefix strategies.

`control.kv_events` feeds one `Exact` with events; a strategy that reads prompts asks it for the workers that tell, and
guesses for the others. What it knows is never more than what the engine has, as whoever feeds it clears a worker of
which something was missed; it may be less, for a moment or until the engine stores a block anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.core.kv_events import TOKEN_BYTES, Cleared, EngineHash, Event, PromptTokens, Removed, named_after, root
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.index import BlockIndex

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job

_Place = tuple[str | None, int | None]
"""Medium and group."""
_Known = OrderedDict[EngineHash, tuple[int, tuple[_Place, ...]]]
"""{what the engine calls a block: (what we do, where it has it)}, the oldest first."""
_MOST_RANKS = 64
"""Engines behind one address; what more of them tell is left aside."""


class Holding:
    """What one worker has told.

    Attributes:
        live: is what it told complete and up to date, as far as its engine says?
        block_size: in tokens, None until it has told of a block.
        orphans: blocks whose beginning it had told before anybody listened, so that they can be compared with nothing.
    """

    def __init__(self, worker_id: str, index: BlockIndex, most_blocks: int) -> None:
        self.live = False
        self.block_size: int | None = None
        self.orphans = 0
        self.most_blocks = most_blocks
        self._id = worker_id
        self._index = index
        self._ranks: dict[int, _Known] = {}
        self._holders: dict[int, int] = {}                     # by block: how many names of engines stand for it
        self._expected: OrderedDict[int, float] = OrderedDict()

    def __len__(self) -> int:
        """How many blocks it is known to have."""
        return len(self._holders)

    def apply(self, event: Event, rank: int = 0) -> None:
        """Takes what the engine of this rank told."""
        if type(event) is Cleared:
            self.clear((rank,))
            return
        known = self._ranks.get(rank)
        if known is None:
            if len(self._ranks) >= _MOST_RANKS:
                return
            known = self._ranks[rank] = OrderedDict()
        if type(event) is Removed:
            self._remove(event, known)
            return
        if event.parent is None:
            name = root(event.adapter)
        elif event.parent in known:
            name = known[event.parent][0]
        else:
            self.orphans += len(event.hashes)
            return
        self.block_size, width = event.block_size, TOKEN_BYTES * event.block_size
        place, extras, new = (event.medium, event.group), event.extras, []
        for at, engine_hash in enumerate(event.hashes):
            name = named_after(
                name, event.tokens[at * width : (at + 1) * width], extras[at] if extras else b""
            )  # each block after its own predecessor, not after the parent of the event
            before = known.get(engine_hash)
            if before is not None and before[0] == name:
                if place not in before[1]:
                    known[engine_hash] = (name, (*before[1], place))
                continue
            if before is not None:
                self._drop(before[0])
            known[engine_hash] = (name, (place,))
            self._holders[name] = self._holders.get(name, 0) + 1
            self._expected.pop(name, None)
            new.append(name)
        self._index.stored(self._id, [name for name in new if name in self._holders])
        while len(known) > self.most_blocks:
            self._drop(known.popitem(last=False)[1][0])

    def clear(self, ranks: Collection[int] | None = None) -> None:
        """It may have nothing any more; ranks: only these."""
        if ranks is None or self._ranks.keys() <= set(ranks):
            self._ranks.clear()
            self._holders.clear()
            self._expected.clear()
            self._index.cleared(self._id)
            return
        for rank in ranks:
            for name, _ in self._ranks.pop(rank, {}).values():
                self._drop(name)

    def expect(self, blocks: list[int], until: float) -> None:
        """It will have these blocks soon, as a prompt that begins with them was sent to it."""
        new = [block for block in blocks if block not in self._holders]
        if len(self._expected) + len(new) > self.most_blocks:
            return
        for block in new:
            self._expected[block] = until
            self._expected.move_to_end(block)
        self._index.stored(self._id, new)

    def expire(self, now: float) -> None:
        """What it was expected to tell by now, it has not got."""
        expected, over = self._expected, []
        for block, until in expected.items():
            if until > now:
                break
            over.append(block)
        for block in over:
            del expected[block]
        if over:
            self._index.removed(self._id, over)

    def _remove(self, event: Removed, known: _Known) -> None:
        for engine_hash in event.hashes:
            found = known.get(engine_hash)
            if found is None:
                continue
            name, places = found
            left = tuple(
                place for place in places
                if event.medium not in (None, place[0]) or event.group not in (None, place[1])
            )  # fmt: skip
            if left:
                known[engine_hash] = (name, left)
            else:
                del known[engine_hash]
                self._drop(name)

    def _drop(self, name: int) -> None:
        """One name of an engine stands for this block no more."""
        left = self._holders[name] - 1
        if left:
            self._holders[name] = left
        else:
            del self._holders[name]
            self._index.removed(self._id, (name,))


class Exact(Memory):
    """What all workers have told that tell.

    Attributes:
        holdings: {worker id: what it told}; empty where nobody is listened to.
        most_blocks: of each engine; beyond that, what it told first is forgotten.
        optimistic_s: how long a worker is taken to have a prompt that it was sent, before its engine says so.
    """

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self.holdings: dict[str, Holding] = {}
        self.most_blocks = 131_072
        self.optimistic_s = 2.0
        self._index = BlockIndex()

    def listen_to(self, worker_id: str) -> Holding:
        """What this worker will have told, from now on."""
        self.forget(worker_id)
        holding = self.holdings[worker_id] = Holding(worker_id, self._index, self.most_blocks)
        return holding

    def forget(self, worker_id: str) -> None:
        """Nobody listens to it any more."""
        self.holdings.pop(worker_id, None)
        self._index.forget(worker_id)

    def tells(self, worker: Worker) -> bool:
        """Does this worker tell what it has?"""
        holding = self.holdings.get(worker.id)
        return holding is not None and holding.live

    def cached_tokens(self, request: Request, workers: Iterable[Worker]) -> dict[str, int]:
        """{worker id: how many tokens of the prompt, from the first one on, it has in its cache} of those that tell.
        Those that do not are not in it, and nobody is where the prompt's tokens are not known."""
        tokens = _tokens_of(request) if self.holdings else None
        if tokens is None:
            return {}
        found: dict[str, int] = {}
        matches: dict[tuple[str, int | None], dict[str, int]] = {}
        holding_of, size, adapter, match = self.holdings.get, None, "", None
        for worker in workers:                                 # nearly always, all of them are of one kind
            name = worker.id
            holding = holding_of(name)
            if holding is None or not holding.live:
                continue
            last, size = (size, adapter), holding.block_size or worker.block_size
            adapter = _adapter(request, worker) if worker.loras else ""
            if match is None or last != (size, adapter):
                match = matches.get((adapter, size))
                if match is None:
                    match = self._index.match(tokens.blocks(adapter, size)) if size is not None else {}
                    matches[adapter, size] = match
            found[name] = size * match.get(name, 0) if size is not None else 0   # None: it never told of any block
        return found

    # What the dispatcher tells

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        holding = self.holdings.get(worker.id) if self.holdings else None
        if holding is None or not holding.live:
            return
        tokens, size = _tokens_of(job.request), holding.block_size or worker.block_size
        if tokens is not None and size is not None:
            blocks = tokens.blocks(_adapter(job.request, worker), size)
            holding.expect(blocks[: holding.most_blocks], now + self.optimistic_s)

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        if self.holdings:
            for gone in self.holdings.keys() - {worker.id for worker in workers}:
                self.forget(gone)
            for holding in self.holdings.values():
                holding.expire(now)


def _tokens_of(request: Request) -> PromptTokens | None:
    tokens = request.text.token_ids() if request.text is not None else None
    return tokens if isinstance(tokens, PromptTokens) else None


def _adapter(request: Request, worker: Worker) -> str:
    """The adapter that the request is for, by the name that the worker knows it by."""
    name = worker.spec.model_names.get(request.model, request.model)
    return name if name in worker.loras else ""
