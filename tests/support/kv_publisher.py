"""An engine's side of KV events: a PUB and a ROUTER socket that speak as vLLM's publisher does, byte for byte.

Called by tests in their own event loop: `async with Publisher() as publisher`. It must not import rbeerouter: what the
wire looks like is written down here once more, from vllm/distributed/kv_events.py. `batch_of`, `stored`, `removed` and
`CLEARED` make what is published, in the form of 0.32; `as_array` puts an event into the form of older releases.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import Any, Self

import msgspec
import zmq
import zmq.asyncio

END = (-1).to_bytes(8, "big", signed=True)
CLEARED = {"type": "AllBlocksCleared"}
_ARRAY_FIELDS = {
    "BlockStored": ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium"),
    "BlockRemoved": ("block_hashes", "medium"),
    "AllBlocksCleared": (),
}
_encode = msgspec.msgpack.encode


class Publisher:
    """One engine that tells.

    Attributes:
        replays: {number: payload} that it can still repeat, at most `steps` of them.
        asked: the numbers from which on somebody wanted a replay.
    """

    def __init__(self, steps: int = 10_000, topic: bytes = b"kv@w@tiny", old: bool = False, port: int = 0) -> None:
        self.replays: deque[tuple[int, bytes]] = deque(maxlen=steps)
        self.asked: list[int] = []
        self.next = 0
        self.topic = topic
        self.old = old                                         # no topic in replays
        self.answers = True
        self._port = port
        self._context = zmq.asyncio.Context()

    async def __aenter__(self) -> Self:
        self._publisher = self._context.socket(zmq.XPUB)       # a PUB that tells of its subscribers
        self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
        self._publisher.setsockopt(zmq.LINGER, 0)
        self._publisher.bind(f"tcp://127.0.0.1:{self._port or '*'}")
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.LINGER, 0)
        self._router.bind(f"tcp://127.0.0.1:{self._port + 1 if self._port else '*'}")
        self.endpoint = self._publisher.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
        self.replay = self._router.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")
        self._serving = asyncio.get_running_loop().create_task(self._serve_replays())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._serving.cancel()
        self._publisher.close(linger=0)
        self._router.close(linger=0)
        self._context.destroy(linger=0)

    async def until_heard(self) -> None:
        """Waits for the next subscriber."""
        async with asyncio.timeout(10):
            while (await self._publisher.recv())[:1] != b"\x01":
                pass

    async def publish(self, *events: Any, ts: float = 1.0, rank: int | None = 0, lost: bool = False) -> int:
        """One batch; lost: nobody gets it, though it can be repeated. Returns its number."""
        return await self.send(_encode([ts, list(events), rank]), lost)

    async def send(self, payload: bytes, lost: bool = False) -> int:
        number, self.next = self.next, self.next + 1
        if not lost:
            await self._publisher.send_multipart([self.topic, number.to_bytes(8, "big"), payload])
        self.replays.append((number, payload))
        return number

    async def send_frames(self, *frames: bytes) -> None:
        await self._publisher.send_multipart(list(frames))

    def begin_again(self) -> None:
        """As a new process on the same port would: its numbers begin at 0, and it has nothing to repeat."""
        self.next = 0
        self.replays.clear()

    async def _serve_replays(self) -> None:
        while True:
            client, empty, start = await self._router.recv_multipart()
            assert empty == b"", "no REQ or DEALER asks like that"
            self.asked.append(int.from_bytes(start, "big"))
            if not self.answers:
                continue
            topic = [] if self.old else [self.topic]
            for number, payload in list(self.replays):
                if number >= self.asked[-1]:
                    await self._router.send_multipart([client, b"", *topic, number.to_bytes(8, "big"), payload])
            await self._router.send_multipart([client, b"", *topic, END, b""])


def engine_hash(parent: int | None, tokens: list[int], seed: int = 0) -> int:
    """What an engine may call a block: a router must not care."""
    text = repr((seed, parent, tokens)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big")


def stored(
    tokens: list[int], block_size: int = 16, parent: int | None = None, seed: int = 0, **fields: Any
) -> dict[str, Any]:
    """A BlockStored of the whole blocks of these tokens."""
    hashes, before = [], parent
    count = len(tokens) // block_size
    for at in range(count):
        before = engine_hash(before, tokens[at * block_size : (at + 1) * block_size], seed)
        hashes.append(before)
    return {
        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent,
        "token_ids": tokens[: count * block_size], "block_size": block_size, "lora_id": None, "medium": "GPU",
        "lora_name": None, "extra_keys": [None] * count, "group_idx": 0, "kv_cache_spec_kind": "full_attention",
        **fields,
    }  # fmt: skip


def removed(hashes: list[Any], **fields: Any) -> dict[str, Any]:
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU", "group_idx": 0, **fields}


def as_array(event: dict[str, Any]) -> list[Any]:
    """The event as older releases have it."""
    return [event["type"], *(event[name] for name in _ARRAY_FIELDS[event["type"]])]
