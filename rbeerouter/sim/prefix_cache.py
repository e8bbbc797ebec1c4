"""Which prompt blocks a simulated worker has in its KV cache. `engine.Engine` calls it; it knows no time.

A block is pinned as long as a running sequence uses it; the others stay until their room is needed, and go least
recently used first, the end of a prompt before its beginning, as in vLLM's block pool
(vllm/v1/core/block_pool.py and kv_cache_manager.py: blocks of a finished request are freed in reverse order). A block's
name stands for all tokens up to its end, so a prompt hits as many blocks as it finds from its first one on.
"""

from __future__ import annotations


class PrefixCache:
    """Blocks by name, with the number of running sequences that use each. `idle` holds those that nobody uses, the one
    to go first at its beginning: a dict keeps the order in which they were put in."""

    __slots__ = ("idle", "users")

    def __init__(self) -> None:
        self.users: dict[int, int] = {}
        self.idle: dict[int, None] = {}

    def look(self, blocks: tuple[int, ...], count: int) -> tuple[int, int]:
        """(how many of the first `count` blocks are there without a gap, how many of those are pinned)."""
        users = self.users
        hits = pinned = 0
        for at in range(count):
            used = users.get(blocks[at])
            if used is None:
                break
            hits += 1
            pinned += used > 0
        return hits, pinned

    def pin(self, blocks: tuple[int, ...], count: int) -> None:
        """A sequence uses the first `count` blocks from now on; those that were not there are now."""
        users, idle = self.users, self.idle
        for at in range(count):
            block = blocks[at]
            used = users.get(block)
            if used is None:
                users[block] = 1
            else:
                users[block] = used + 1
                if not used:
                    del idle[block]

    def unpin(self, blocks: tuple[int, ...], count: int, computed: int) -> int:
        """The sequence is gone: how many blocks nobody uses any more. Of these, only the first `computed` hold
        anything; the others are forgotten."""
        users, idle = self.users, self.idle
        freed = 0
        for at in range(count - 1, -1, -1):
            block = blocks[at]
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
        users, idle = self.users, self.idle
        for block in [block for block, _ in zip(idle, range(len(idle) - most), strict=False)]:
            del idle[block], users[block]

    def clear(self) -> None:
        self.users.clear()
        self.idle.clear()
