"""What engines tell of their KV caches, and how blocks of tokens are named so that prompts can be compared with them.

An engine keeps prompts in blocks of `block_size` tokens and names each by a hash of its own, which changes with its
version, its settings and each start. Here a block has another name: a hash over its tokens and the name of the block
before it, which is the same for the event that told of it and for the prompt that begins with it. The names hold in
this process only.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import msgspec

TOKEN_BYTES = 4
"""Of one token in `Stored.tokens`."""
EngineHash = int | bytes


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An engine has these blocks now, each the one after the one before it.

    hashes: what the engine calls them. parent: what it calls the block before the first; None: that begins a prompt.
    tokens: of all of them, 4 bytes each. adapter: "" for the model itself.
    extras: what else each block depends on, such as a salt or an image; b"" for nothing.
    medium, group: where it is kept; None: the engine does not say.
    """

    hashes: tuple[EngineHash, ...]
    parent: EngineHash | None
    tokens: bytes
    block_size: int
    adapter: str = ""
    extras: tuple[bytes, ...] = ()
    medium: str | None = None
    group: int | None = None


class Removed(msgspec.Struct, frozen=True, gc=False):
    """An engine has these blocks no more, in this medium and group; None: in none."""

    hashes: tuple[EngineHash, ...]
    medium: str | None = None
    group: int | None = None


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """An engine has no blocks any more."""


Event = Stored | Removed | Cleared


class Batch(msgspec.Struct, frozen=True, gc=False):
    """What one message tells.

    at: Unix seconds when the engine made it. rank: of several engines behind one address; None: it does not say.
    strange: how many events of it could not be understood.
    """

    at: float
    events: tuple[Event, ...]
    rank: int | None = None
    strange: int = 0


def root(adapter: str) -> int:
    """What stands before the first block of every prompt for this adapter."""
    return hash(("root", adapter))


def named_after(before: int, tokens: bytes, extra: bytes = b"") -> int:
    """The name of a block: 64 bits over all of the prompt up to its end."""
    return hash((before, tokens, extra)) if extra else hash((before, tokens))


def salted(salt: str | None) -> bytes:
    """What a salt adds to the first block of a prompt."""
    return msgspec.msgpack.encode([salt]) if salt else b""


class PromptTokens(Sequence[int]):
    """A prompt as the engine's tokenizer reads it.

    Args:
        ids: below 2^32 each. Raises OverflowError, TypeError.
        salt: separates caches of prompts that are alike, in the body of some requests.
    """

    __slots__ = ("_names", "_salt", "ids")

    def __init__(self, ids: Iterable[int], salt: str | None = None) -> None:
        self.ids = ids if isinstance(ids, array) else array("I", ids)
        self._salt = salt
        self._names: dict[tuple[str, int], list[int]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at):  # type: ignore[no-untyped-def]
        return self.ids[at]

    def blocks(self, adapter: str, block_size: int) -> list[int]:
        """The names of its whole blocks, for workers with blocks of this many tokens."""
        names = self._names.get((adapter, block_size))
        if names is None:
            names = self._names[adapter, block_size] = self._named(adapter, block_size)
        return names

    def _named(self, adapter: str, block_size: int) -> list[int]:
        tokens, width = self.ids.tobytes(), TOKEN_BYTES * block_size
        name, extra = root(adapter), salted(self._salt)
        names = []
        for end in range(width, len(tokens) + 1, width):
            name = named_after(name, tokens[end - width : end], extra)
            extra = b""
            names.append(name)
        return names
