"""Which blocks of prompts each worker has in its KV cache, as far as we know.

`prefix` writes into one what it sends, `control` into another what engines tell of their caches. It knows no time, no
text and no tokens: a block is a 64-bit hash over all of its prompt up to its end, whoever made it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection, Sequence


class BlockIndex:
    """Sets of blocks, one for each worker, and for each block who has it.

    Of a prompt, `stored` takes the end for older than the beginning, as engines do who free their blocks
    (vllm/v1/core/kv_cache_manager.py): without `removed`, what is left of it is always a beginning.

    Memory: about 90 bytes for each block of each worker, and 120 more for each different block.

    Args:
        most: blocks of a worker for which `bound` says nothing else; None: any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._bounds: dict[str, int] = {}
        self._held: dict[str, OrderedDict[int, None]] = {}  # by worker, least recently used first
        self._holders: dict[int, int] = {}  # by block: the bits of those who have it
        self._bits: dict[str, int] = {}
        self._names: list[str] = []  # by the number of the bit; "" is free

    def __len__(self) -> int:
        """How many different blocks there are."""
        return len(self._holders)

    def workers(self) -> list[str]:
        """Those of which something was said."""
        return list(self._held)

    def count(self, worker: str) -> int:
        """How many blocks a worker has."""
        return len(self._held.get(worker, ()))

    def bound(self, worker: str, most: int) -> None:
        """From now on a worker has no more than so many blocks; those go that were not used for longest."""
        self._bounds[worker] = most
        if self.count(worker) > most:
            self._shrink(self._held[worker], self._bits[worker], most)

    def stored(self, worker: str, hashes: Sequence[int]) -> None:
        """A worker has these blocks, one prompt's in their order or a part of them, and has used them just now."""
        held = self._held.get(worker)
        if held is None:
            held = self._join(worker)
        bit, holders, used = self._bits[worker], self._holders, held.move_to_end
        rest = reversed(hashes)
        for block in rest:                                    # the end is new, and after it nothing is
            if block in held:
                used(block)
                break
            held[block] = None
            holders[block] = holders.get(block, 0) | bit
        try:
            deque(map(used, rest), 0)
        except KeyError:                                      # but where there was a gap
            for block in reversed(hashes):
                if block not in held:
                    holders[block] = holders.get(block, 0) | bit
                held[block] = None
                used(block)
        most = self._bounds.get(worker, self._most)
        if most is not None and len(held) > most:
            self._shrink(held, bit, most)

    def removed(self, worker: str, hashes: Collection[int]) -> None:
        """A worker has these blocks no more. Some that it never had do no harm."""
        held = self._held.get(worker)
        if held is None:
            return
        bit = self._bits[worker]
        for block in hashes:
            if block in held:
                del held[block]
                self._take_from(block, bit)

    def cleared(self, worker: str) -> None:
        """A worker has no block any more; more may come."""
        held = self._held.get(worker)
        if held is not None:
            self._shrink(held, self._bits[worker], 0)

    def forget(self, worker: str) -> None:
        """A worker is gone."""
        self.cleared(worker)
        self._bounds.pop(worker, None)
        if self._held.pop(worker, None) is not None:
            self._names[self._bits.pop(worker).bit_length() - 1] = ""

    def match(self, hashes: Sequence[int]) -> dict[str, int]:
        """{worker: how many blocks it has of this prompt, from the first one on without a gap}; who has not even the
        first is not in it."""
        found: dict[str, int] = {}
        get, count = self._holders.get, 0
        live = get(hashes[0], 0) if hashes else 0
        for block in hashes:
            still = live & get(block, 0)
            if still != live:
                self._note(live ^ still, count, found)
                live = still
                if not live:
                    break
            count += 1
        if live:
            self._note(live, count, found)
        return found

    def _note(self, bits: int, count: int, found: dict[str, int]) -> None:
        names = self._names
        while bits:
            low = bits & -bits
            found[names[low.bit_length() - 1]] = count
            bits ^= low

    def _join(self, worker: str) -> OrderedDict[int, None]:
        """A worker gets the first bit that is free."""
        names = self._names
        number = names.index("") if "" in names else len(names)
        names[number : number + 1] = [worker]
        self._bits[worker] = 1 << number
        held = self._held[worker] = OrderedDict()  # a dict would look for its first key among deleted ones
        return held

    def _shrink(self, held: OrderedDict[int, None], bit: int, most: int) -> None:
        while len(held) > most:
            self._take_from(held.popitem(last=False)[0], bit)

    def _take_from(self, block: int, bit: int) -> None:
        left = self._holders[block] ^ bit
        if left:
            self._holders[block] = left
        else:
            del self._holders[block]
