"""Which prompt blocks a simulated worker has in its KV cache. `engine.Engine` calls it; it knows no time.

A block is pinned as long as a running sequence uses it; the others stay until their room is needed, and go least
recently used first, the end of a prompt before its beginning, as in vLLM's block pool
(vllm/v1/core/block_pool.py and kv_cache_manager.py: blocks of a finished request are freed in reverse order). A block's
name stands for all tokens up to its end, so a prompt hits as many blocks as it finds from its first one on.
"""

from __future__ import annotations

from collections import OrderedDict


class PrefixCache:
    """Blocks by name, with the number of running sequences that use each. `idle` holds those that nobody uses, the one
    to go first at its beginning."""

    __slots__ = ("idle", "users")

    def __init__(self) -> None:
        self.users: dict[int, int] = {}
        self.idle: OrderedDict[int, None] = OrderedDict()  # a dict would look for its first key among deleted ones

    def look(self, blocks: tuple[int, ...]) -> tuple[int, int]:
        """(how many blocks are there without a gap, how many of those are pinned)."""
        get = self.users.get
        hits = pinned = 0
        for block in blocks:
            used = get(block)
            if used is None:
                break
            hits += 1
            if used:
                pinned += 1
        return hits, pinned

    def pin(self, blocks: tuple[int, ...]) -> None:
        """A sequence uses the blocks from now on; those that were not there are now."""
        users, idle = self.users, self.idle
        for block in blocks:
            used = users.get(block)
            if used is None:
                users[block] = 1
            else:
                users[block] = used + 1
                if not used:
                    del idle[block]

    def unpin(self, blocks: tuple[int, ...], computed: int) -> int:
        """The sequence is gone: how many blocks nobody uses any more. Of these, only the first `computed` hold
        anything; the others are forgotten."""
        users, idle = self.users, self.idle
        freed = 0
        at = len(blocks)
        for block in reversed(blocks):
            at -= 1
            used = users[block] - 1
            if used:
                users[block] = used
                continue
            freed += 1
            if at < computed:
                users[block] = 0
                idle[block] = None
            else:
                del users[block]
        return freed

    def shrink(self, most: int) -> None:
        """Drops blocks that nobody uses, the longest unused first, until no more than `most` of them are left."""
        idle = self.idle
        most = max(0, most)
        while len(idle) > most:
            block, _ = idle.popitem(last=False)
            del self.users[block]

    def clear(self) -> None:
        self.users.clear()
        self.idle.clear()
