"""The prefix rules of other routers, as strategies, made from their description: what ours are compared with.

Used by tests/routing/test_prefix_in_the_lab.py and scripts/compare-strategies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Strategy
from rbeerouter.routing.strategies.index import BlockIndex
from rbeerouter.routing.strategies.prefix_strict import StrictPrefix

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job

CACHE_THRESHOLD = 0.3
BALANCE_ABS_THRESHOLD, BALANCE_REL_THRESHOLD = 64, 1.5
MOST_CHARACTERS = 1 << 26
"""Of one worker in the tree: SGLang's defaults on the command line, as the others."""
_CHARACTERS_PER_TOKEN = 4


class CacheAwareTree(Memory):
    """The tree of the `cache_aware` policy: for each prefix the worker that was sent it last, which is the only one
    that a look-up knows of, and for each worker what it was sent, the least recently used first."""

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self._held = BlockIndex()
        self._last: dict[int, str] = {}
        self.sent_to: dict[str, int] = {}

    def tenant(self, blocks: Sequence[int]) -> tuple[str | None, float]:
        """(who was sent the longest known prefix last, its share of the prompt)."""
        count, name = 0, None
        for block in blocks:
            last = self._last.get(block)
            if last is None:
                break
            holders = self._held.match([block])
            if not holders:
                break
            name = last if last in holders else next(iter(holders))
            count += 1
        return name, count / len(blocks) if blocks else 0.0

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        self.sent_to[worker.id] = self.sent_to.get(worker.id, 0) + 1
        text = job.request.text
        if text is not None:
            self._held.bound(worker.id, MOST_CHARACTERS // _CHARACTERS_PER_TOKEN // text.block_tokens)
            self._held.stored(worker.id, text.blocks())
            self._last.update(dict.fromkeys(text.blocks(), worker.id))

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        """What no worker holds any more goes; so much only that memory stays bounded."""
        if len(self._last) > 2 * len(self._held) + 1000:
            self._last = {block: name for block, name in self._last.items() if self._held.match([block])}


class SglangCacheAware(Strategy):
    """Imbalanced (max - min > 64 and max > 1.5 min): the least load. Else the worker of the deepest known prefix if
    that is more than 0.3 of the prompt, else the least load. Of equals the one that was sent less, then the first.

    Source: sgl-model-gateway/src/policies/cache_aware.rs and its tree, over text.
    """

    name = "sglang-cache-aware"
    reads_prompt = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._tree = context.memory(CacheAwareTree)

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        loads = [worker.in_flight for worker in workers]
        imbalanced = max(loads) - min(loads) > BALANCE_ABS_THRESHOLD and max(loads) > BALANCE_REL_THRESHOLD * min(loads)
        if not imbalanced and request.text is not None:
            name, share = self._tree.tenant(request.text.blocks())
            if name is not None and share > CACHE_THRESHOLD:
                return next((worker for worker in workers if worker.id == name), workers[0])
        return min(workers, key=lambda worker: (worker.in_flight, self._tree.sent_to.get(worker.id, 0)))


class AibrixPrefixCache(Strategy):
    """AIBrix's rule, which `strict = true` gives: with the values of its manifest, as are the defaults."""

    name = "aibrix-prefix-cache"
    reads_prompt = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._rule = StrictPrefix(context)

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        return self._rule.choose(request, workers)
