"""Strategies that give a client, or a session, the same worker each time.

All rest on *rendezvous hashing* (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998):
each worker gets a number by key and worker, and the largest wins. When a worker leaves, only its keys move, to
all others alike; when one comes, it only takes keys from others. With nothing to keep, several daemons agree.
"""

from __future__ import annotations

import struct
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from functools import lru_cache
from math import ceil
from urllib.parse import urlsplit

from xxhash import xxh3_64_intdigest

from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Scored, Strategy


class IpHash(Strategy):
    """The same worker for each request of a client's address."""

    name = "ip-hash"
    by_weight = True
    reads_client = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._rendezvous = Rendezvous()

    def key(self, request: Request) -> str | None:
        return request.client

    def choose(self, request: Request, workers: list[Worker]) -> Worker | None:
        return None if request.client is None else self._rendezvous.choice(request.client, workers)


class ConsistentHash(Strategy):
    """The same worker for each request of a session, user or client, as long as it has not much more than others.

    Of m requests in flight on n workers, the new one included, none gets more than its share of c * m, rounded up:
    m / n for equal weights (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018). A key
    whose worker is full goes to the next in its own order, so what a hot worker cannot take is spread over all others.
    c is `load_factor`. Somebody always has room, as c is not less than 1. In slow start a worker's share is smaller, as
    it comes back idle and would be taken for the one with the most room.
    """

    name = "consistent-hash"
    by_weight = True
    reads_client = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._rendezvous = Rendezvous()
        self._factor = context.options.consistent_hash.load_factor

    def key(self, request: Request) -> str | None:
        """The first that there is of session key, session, user and client's address."""
        key = request.wishes.session_key if request.wishes is not None else None
        return key or request.session_id or request.user_id or request.client

    def choose(self, request: Request, workers: list[Worker]) -> Worker | None:
        key = self.key(request)
        if key is None:
            return None
        scores = self._rendezvous.scores(key, workers)
        first = scores.index(max(scores))
        counts = [worker.in_flight for worker in workers]
        weights = [worker.spec.weight * worker.weight for worker in workers]
        most = self._factor * (sum(counts) + 1) / sum(weights)
        if counts[first] < ceil(most * weights[first]):
            return workers[first]
        return max(
            (score, -index, worker)
            for index, (score, count, weight, worker) in enumerate(zip(scores, counts, weights, workers, strict=True))
            if count < ceil(most * weight)
        )[2]


class SessionAffinity(Scored):
    """The worker that the header x-session-id names, which each answer sets: the client that sends it back stays.

    Else the one that the hash of `x-rbee-session-key` gives, or of an x-session-id that names no worker. A request
    with neither goes where the next strategy sends it, and stays there by the header of the answer.

    The header is the base64 of the worker's id. With `strict` it is as AIBrix has it: of HOST:PORT of its url;
    x-session-id only counts where it names a worker, 64-bit FNV-1a is the hash, and who has no key goes anywhere.
    """

    name = "session-affinity"
    least = False

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._strict = context.options.strict
        self._rendezvous = Rendezvous()
        self._strict_rendezvous = StrictRendezvous()

    def key(self, request: Request) -> str | None:
        key = request.wishes.session_key if request.wishes is not None else None
        return key if self._strict else key or request.session_id

    def choose(self, request: Request, workers: list[Worker]) -> Worker | None:
        kept = self._kept(request, workers)
        return self.context.chance.choice(workers) if kept is None and self._strict else kept

    def scores(self, request: Request, workers: list[Worker]) -> list[float] | None:
        kept = self._kept(request, workers)
        return None if kept is None else [1.0 if worker is kept else 0.0 for worker in workers]

    def headers(self, worker: Worker) -> tuple[tuple[str, str], ...]:
        name = address_of(worker.url) if self._strict else worker.id
        return (("x-session-id", b2a_base64(name.encode(), newline=False).decode()),)

    def _kept(self, request: Request, workers: list[Worker]) -> Worker | None:
        """The worker that the session belongs to, if the request tells one."""
        given = request.session_id
        if given is not None:
            worker = self._named(given, workers)
            if worker is not None:
                return worker
        key = self.key(request)
        if not key:
            return None
        if self._strict:
            return self._strict_rendezvous.choice(as_bytes(key), workers)
        return self._rendezvous.choice(key, workers)

    def _named(self, given: str, workers: list[Worker]) -> Worker | None:
        """The worker of the base64 of an id, or of an address, so that a client stays when `strict` is changed."""
        try:
            name = a2b_base64(given, strict_mode=True).decode()
        except ValueError:
            return None
        if not self._strict:
            for worker in workers:
                if worker.id == name:
                    return worker
        for worker in workers:
            if address_of(worker.url) == name:
                return worker
        return None


@lru_cache(4096)
def address_of(url: str) -> str:
    """HOST:PORT, with the port that the scheme implies where it names none."""
    parts = urlsplit(url)
    if parts.port is not None:
        return parts.netloc
    return f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"


def as_bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


class Rendezvous:
    """Weighted rendezvous hashing: a worker of weight w gets w shares of the keys (Schindelhauer and Schomaker,
    "Weighted distributed hash tables", 2005).

    The hash is XXH3-64 of the worker's id, seeded with XXH3-64 of the key.
    """

    def __init__(self) -> None:
        self._workers: list[Worker] = []                       # of the last call: usually the same ones
        self._names: list[bytes] = []

    def choice(self, key: str, workers: list[Worker]) -> Worker:
        scores = self.scores(key, workers)
        return workers[scores.index(max(scores))]

    def scores(self, key: str, workers: list[Worker]) -> Sequence[float]:
        """A number for each worker, of which the largest wins: h, or where weights differ (h / 2^64)^(1 / weight)."""
        if workers != self._workers:
            self._workers, self._names = list(workers), [worker.id.encode() for worker in workers]
        seed = xxh3_64_intdigest(as_bytes(key))
        hashes = [xxh3_64_intdigest(name, seed) for name in self._names]
        weights = [worker.spec.weight for worker in workers]
        if weights.count(weights[0]) == len(weights):
            return hashes
        return [(number * 2.0**-64) ** (1 / weight) for number, weight in zip(hashes, weights, strict=True)]


class StrictRendezvous:
    """AIBrix's: 64-bit FNV-1a over key, a zero byte and the address of the worker; of equals the smaller address."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []                       # of the last call
        self._addresses = Fnv(())

    def choice(self, key: bytes, workers: list[Worker]) -> Worker:
        if workers != self._workers:
            self._workers = list(workers)
            self._addresses = Fnv([address_of(worker.url).encode() for worker in workers])
        hashes = self._addresses.continued(fnv(key + b"\0"))
        top = max(hashes)
        if hashes.count(top) == 1:
            return workers[hashes.index(top)]
        equal = [worker for worker, number in zip(workers, hashes, strict=True) if number == top]
        return min(equal, key=lambda worker: address_of(worker.url))


_OFFSET, _PRIME, _MASK = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1
_LANE_BYTES = 16
"""Room for a 64-bit state times the prime of 41 bits."""


def fnv(data: bytes) -> int:
    """64-bit FNV-1a (Fowler, Noll and Vo; RFC 9923)."""
    state = _OFFSET
    for byte in data:
        state = (state ^ byte) * _PRIME & _MASK
    return state


class Fnv:
    """FNV-1a of many texts after one beginning, a byte of all in one step: each has its lane in a large integer.

    Byte for byte, 64 addresses would take a hundred microseconds.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._count = len(texts)
        by_length: dict[int, list[int]] = {}
        for index, text in enumerate(texts):
            by_length.setdefault(len(text), []).append(index)
        self._groups: list[tuple[list[int], int, list[int]]] = []
        for length, indexes in by_length.items():
            text = b"".join(texts[index] for index in indexes)
            columns = [_in_lanes(text[place::length]) for place in range(length)]
            self._groups.append((indexes, _in_lanes(b"\1" * len(indexes)), columns))

    def continued(self, state: int) -> list[int]:
        """The hash of each text, where `state` is that of what stands before it."""
        hashes = [0] * self._count
        for indexes, ones, columns in self._groups:
            lanes, mask = state * ones, _MASK * ones
            for column in columns:
                lanes = (lanes ^ column) * _PRIME & mask
            states = struct.unpack("<" + "Q8x" * len(indexes), lanes.to_bytes(_LANE_BYTES * len(indexes), "little"))
            for index, value in zip(indexes, states, strict=True):
                hashes[index] = value
        return hashes


@lru_cache(512)
def _in_lanes(values: bytes) -> int:
    """Cached, as most places of addresses are the same in all of them, and in the list of workers before."""
    lanes = bytearray(_LANE_BYTES * len(values))
    lanes[::_LANE_BYTES] = values
    return int.from_bytes(lanes, "little")
