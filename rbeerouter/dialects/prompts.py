"""What a request says to the model, as hashes of blocks: `core.types.Text` of a body.

`wire.listener` hangs a `Prompt` on a request when a strategy may want one; the body is looked into when that asks, and
once. It knows no worker and no cache.

The hashes are over the body's own bytes: the JSON of tools, system prompt and messages in the order in which chat
templates put them, whatever the order in the body. So roles, names, tool calls and pictures count, and nobody needs
the template. Two bodies that say the same with other spaces or escapes have other hashes, which costs a hit and is
never wrong; a client that adds a turn to its conversation writes what was there before in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from xxhash import xxh3_64_intdigest, xxh64_intdigest

from rbeerouter.config.sections import Strategies
from rbeerouter.core.types import Request
from rbeerouter.dialects.surfaces import Surface

_NONE = msgspec.Raw(b"")
BYTES_PER_TOKEN = 4
"""Of JSON in English, about; of other languages there are fewer tokens in more bytes."""


class _Parts(msgspec.Struct, gc=False):
    """All that stands before the answer, each piece as it was sent."""

    tools: msgspec.Raw = _NONE
    functions: msgspec.Raw = _NONE
    system: msgspec.Raw = _NONE
    instructions: msgspec.Raw = _NONE
    messages: msgspec.Raw = _NONE
    prompt: msgspec.Raw = _NONE
    input: msgspec.Raw = _NONE
    cache_salt: msgspec.Raw = _NONE
    previous_response_id: msgspec.Raw = _NONE


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = _NONE


_decode_parts = msgspec.json.Decoder(_Parts).decode
_decode_messages = msgspec.json.Decoder(list[_Message]).decode
_decode_text = msgspec.json.Decoder(str).decode

_PIECES: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ("tools", "functions", "messages"),
    "/v1/completions": ("prompt",),
    "/v1/responses": ("tools", "instructions", "input"),
    "/v1/messages": ("tools", "system", "messages"),
    "/api/chat": ("tools", "messages"),
    "/api/generate": ("system", "prompt"),
}
"""{path: where its body says something, in the order of chat templates}. Of others nobody caches the prompt."""


class Prompt:
    """The prompt of one body.

    Attributes:
        block_tokens: how many tokens, about, one block stands for.
        body, path, model: what it was made of; the body is empty once the request has ended.
        ids: the prompt as a tokenizer reads it, for whoever asked one.
    """

    __slots__ = ("_blocks", "_options", "block_tokens", "body", "ids", "model", "path")

    def __init__(self, body: bytes, path: str, model: str, options: Strategies) -> None:
        self.body = body
        self.path = path
        self.model = model
        self.block_tokens = options.prefix.block_bytes // BYTES_PER_TOKEN
        self.ids: Sequence[int] | None = None
        self._options = options
        self._blocks: Sequence[int] | None = None

    def blocks(self) -> Sequence[int]:
        blocks = self._blocks
        if blocks is None:
            blocks = self._blocks = self._hashed()
        return blocks

    def token_ids(self) -> Sequence[int] | None:
        return self.ids

    def forget(self) -> None:
        self.body, self._blocks, self.ids = b"", (), None

    def _hashed(self) -> Sequence[int]:
        prefix = self._options.prefix
        try:
            parts = _decode_parts(self.body)
            if self._options.strict:
                text = _joined_text(parts)[: prefix.most_blocks * prefix.block_bytes]
                return strict_chain(text, prefix.block_bytes, prefix.strict_seed)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return ()
        said = _said(parts, _PIECES[self.path])[: prefix.most_blocks * prefix.block_bytes]
        return chain(said, prefix.block_bytes, _root(self.model, parts))


def prompt_of(options: Strategies, surface: Surface, request: Request, body: bytes) -> Prompt | None:
    """What a request says; None where nobody would cache it."""
    return Prompt(body, request.path, request.model, options) if surface.name in _PIECES else None


def chain(
    data: bytes, block_bytes: int, parent: int, digest: Callable[[bytes, int], int] = xxh3_64_intdigest
) -> list[int]:
    """Hashes of the whole blocks of these bytes, each with the one before as its seed; the first one's is `parent`."""
    return [
        parent := digest(data[start : start + block_bytes], parent)
        for start in range(0, len(data) - block_bytes + 1, block_bytes)
    ]


def strict_chain(data: bytes, block_bytes: int, seed: int) -> list[int]:
    """The same as AIBrix has it: XXH64 with the same seed each time, over the hash before, 8 bytes little-endian, and
    the block; the seed stands before the first one (pkg/utils/prefixcacheindexer/hash.go)."""
    hashes: list[int] = []
    before = seed
    for start in range(0, len(data) - block_bytes + 1, block_bytes):
        before = xxh64_intdigest(before.to_bytes(8, "little") + data[start : start + block_bytes], seed)
        hashes.append(before)
    return hashes


def _root(model: str, parts: _Parts) -> int:
    """What stands before the first block: another model, adapter, salt or stored conversation has nothing in common."""
    salt = b"\0".join((model.encode("utf-8", "surrogatepass"), parts.cache_salt, parts.previous_response_id))
    return xxh3_64_intdigest(salt)


def _said(parts: _Parts, names: Sequence[str]) -> bytes:
    """The pieces behind one another. The end of the last one is left out, as it is not the end once a turn is added."""
    found = [(name, raw) for name in names if (raw := bytes(getattr(parts, name)))]
    said = b"".join(b"%b:%b\n" % (name.encode(), raw) for name, raw in found)
    return said[:-2].rstrip() if said else said


def _joined_text(parts: _Parts) -> bytes:
    """What AIBrix hashes: the contents of all messages joined by a space, or the prompt; no roles and no tools
    (pkg/plugins/gateway/gateway_req_body.go)."""
    if parts.messages:
        said = [bytes(message.content) for message in _decode_messages(parts.messages)]
    else:
        said = [bytes(parts.prompt or parts.input)]
    return b" ".join(_decode_text(one).encode() if one.startswith(b'"') else one for one in said)
