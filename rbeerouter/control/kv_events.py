"""Listens to what engines tell of their KV caches, over ZeroMQ, and feeds it into `routing.strategies.exact`.

`server.daemon` runs one `KvEvents` where the configuration names a worker that tells. Each engine of a worker (its
ranks) is a feed: a SUB socket for what happens, and, where the worker has one, a DEALER for what was missed. Messages
have numbers. Where one is missing that cannot be had again, all that this engine told is forgotten: a block that is not
known costs a hit, one that is gone costs a wrong choice. Protocol: vllm/distributed/kv_events.py, which SGLang shares.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from rbeerouter import tasks
from rbeerouter.config.sections import ConfigError, KvEventOptions
from rbeerouter.control.addresses import guard_for
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Env, Worker, WorkerSpec
from rbeerouter.dialects.kv_events import read_batch
from rbeerouter.routing.strategies.exact import Exact, Holding

if TYPE_CHECKING:
    import zmq.asyncio

_SYNC_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
"""How long it takes until a feed that broke off is tried again: doubled each time."""
_CONNECT_S = 5.0
_END = -1
"""The number of the message that ends a replay."""
_MOST_REPLAYED = 200_000
_MOST_MESSAGE_BYTES = 4 << 20
"""A step of an engine with 8,000 tokens makes 20 KB; more than this is no engine's, and would take half a second."""
_MOST_QUEUED = 10_000
"""Messages that wait to be read; more are thrown away, which shows as a gap."""
_MOST_REPLAYED_QUEUED = 100_000
"""The same of a replay, all of which is sent at once: what finds no room, the engine throws away."""
_IN_A_ROW = 20
_BYTES_IN_A_ROW = 16 << 10
"""Messages and their bytes after which everybody else has a turn: about two milliseconds' work."""
_TELLING = ("vllm", "sglang")
"""Engines that a template is for."""
_HEARTBEAT_MS = 10_000


class Counts(msgspec.Struct):
    """What came of one worker's feeds since the daemon began to listen to it.

    lag_s: how old the last message was when it came, by both clocks; None before the first.
    """

    messages: int = 0
    events: int = 0
    gaps: int = 0
    replayed: int = 0
    garbage: int = 0
    lag_s: float | None = None


class Place(msgspec.Struct, frozen=True):
    """Where a worker's events are: tcp://HOST:PORT, of the first rank."""

    endpoint: str
    replay: str | None = None
    ranks: int = 1


class _Lost(Exception):
    """The connection is gone, or was never there; the message says why."""


def place_of(worker: Worker, options: KvEventOptions) -> Place | None:
    """Where the events of this worker are; None: nobody said."""
    spec = worker.spec
    if spec.kv_events is not None:
        return Place(spec.kv_events, spec.kv_replay, spec.kv_ranks)
    if options.endpoint is None or worker.engine not in _TELLING:
        return None
    host = urlsplit(spec.url).hostname or ""
    host = f"[{host}]" if ":" in host else host
    replay = options.replay.replace("{host}", host) if options.replay else None
    return Place(options.endpoint.replace("{host}", host), replay, spec.kv_ranks)


def configured(options: KvEventOptions, specs: Iterable[WorkerSpec]) -> bool:
    """Does anybody tell, as far as the configuration says?"""
    return options.endpoint is not None or any(spec.kv_events is not None for spec in specs)


def need_zmq() -> None:
    """Raises ConfigError where pyzmq is not installed."""
    try:
        import zmq  # noqa: F401
    except ImportError:
        raise ConfigError(
            "kv_events: listening to the events of KV caches needs pyzmq: pip install 'rbeerouter[kv-events]'"
        ) from None


class KvEvents:
    """All feeds of all workers.

    Args:
        log: writes an event with its fields.

    Attributes:
        counts: {worker id: what came of it} of those that are listened to.
        allow: networks where workers may be that registered themselves.
    """

    def __init__(self, fleet: Fleet, exact: Exact, options: KvEventOptions, env: Env, log: Callable[..., Any]) -> None:
        self.counts: dict[str, Counts] = {}
        self.allow: tuple[str, ...] = ()
        self._fleet = fleet
        self._env = env
        self._log = log
        self._told: dict[str, bool] = {}
        self._listened: dict[str, tuple[tuple[Place, int], list[_Feed]]] = {}
        self.apply(exact, options)

    def apply(self, exact: Exact, options: KvEventOptions) -> None:
        """Takes new settings."""
        self._exact, self._options = exact, options
        exact.most_blocks, exact.optimistic_s = options.blocks, options.optimistic_s
        for holding in exact.holdings.values():
            holding.most_blocks = options.blocks

    async def run(self) -> None:
        """Listens to whom the fleet has, for ever."""
        while True:
            self.sync()
            await asyncio.sleep(_SYNC_S)

    def sync(self) -> None:
        """Brings the feeds in line with the fleet. A worker that may be another process than before begins anew."""
        wanted: dict[str, tuple[Place, int]] = {}
        for worker in self._fleet.ordered:
            place = place_of(worker, self._options)
            if place is not None:
                wanted[worker.id] = (place, worker.generation)
        for worker_id in [one for one in self._listened if self._listened[one][0] != wanted.get(one)]:
            self._stop(worker_id, keep_counts=worker_id in wanted)
        for worker_id in wanted.keys() - self._listened.keys():
            self._start(self._fleet.workers[worker_id], *wanted[worker_id])

    def close(self) -> None:
        """Listens to nobody. Each feed closes its own sockets as soon as the loop gets to it."""
        for worker_id in list(self._listened):
            self._stop(worker_id, keep_counts=False)

    def describe(self, worker_id: str) -> dict[str, Any] | None:
        """How it goes with a worker's events; None for one that is not listened to."""
        listened, holding = self._listened.get(worker_id), self._exact.holdings.get(worker_id)
        if listened is None or holding is None:
            return None
        (place, _), feeds = listened
        problem = next((feed.problem for feed in feeds if feed.problem is not None), None)
        return {
            "endpoint": place.endpoint, "live": holding.live, "blocks": len(holding), "block_size": holding.block_size,
            "orphans": holding.orphans, **msgspec.structs.asdict(self.counts[worker_id]),
            **({"problem": problem} if problem else {}),
        }  # fmt: skip

    def _start(self, worker: Worker, place: Place, generation: int) -> None:
        import zmq.asyncio

        context = zmq.asyncio.Context.instance()               # one for the process, as ZeroMQ wants it
        holding = self._exact.listen_to(worker.id)
        counts = self.counts.setdefault(worker.id, Counts())
        feeds = [
            _Feed(context, worker.spec, place, rank, holding, counts, self) for rank in range(place.ranks)
        ]
        self._listened[worker.id] = ((place, generation), feeds)
        for feed in feeds:
            feed.task = tasks.start(f"kv events of {worker.id}", feed.run())

    def _stop(self, worker_id: str, keep_counts: bool) -> None:
        _, feeds = self._listened.pop(worker_id)
        for feed in feeds:
            if feed.task is not None:
                feed.task.cancel()
        self._exact.forget(worker_id)
        if not keep_counts:
            self.counts.pop(worker_id, None)
            self._told.pop(worker_id, None)

    # What feeds ask

    def note(self, worker_id: str, holding: Holding, problem: str | None) -> None:
        """A feed of this worker works now, or does not: then none of it counts, as one worker's prompts may be with any
        of its engines."""
        if self._exact.holdings.get(worker_id) is not holding:
            return
        _, feeds = self._listened[worker_id]
        holding.live = all(feed.listening for feed in feeds)
        if holding.live == self._told.get(worker_id):          # one line, none for each try
            return
        self._told[worker_id] = holding.live
        if holding.live:
            self._log("kv_events_live", worker=worker_id, blocks=len(holding))
        else:
            self._log("kv_events_lost", worker=worker_id, why=problem)

    def wall(self) -> float:
        return self._env.wall()

    async def address(self, spec: WorkerSpec, endpoint: str) -> str:
        """The endpoint with an address in the place of a name, as ZeroMQ would look it up once and for all. Raises
        OSError, also for an address where no worker may be."""
        parts = urlsplit(endpoint)
        host = parts.hostname or ""
        found = await asyncio.get_running_loop().getaddrinfo(host, parts.port, type=socket.SOCK_STREAM)
        guard = guard_for(spec, self.allow)
        for entry in found if guard is not None else ():
            problem = guard(host, str(entry[4][0]))
            if problem is not None:
                raise OSError(problem)
        address = str(found[0][4][0])
        return f"tcp://[{address}]:{parts.port}" if ":" in address else f"tcp://{address}:{parts.port}"

    @property
    def replay_s(self) -> float:
        return self._options.replay_s


class _Feed:
    """One engine of one worker.

    Attributes:
        listening: is it connected, and has it what there was to have again?
        problem: what is wrong, in words.
    """

    def __init__(
        self, context: zmq.asyncio.Context, spec: WorkerSpec, place: Place, rank: int, holding: Holding, counts: Counts,
        owner: KvEvents,
    ) -> None:  # fmt: skip
        self.listening = False
        self.problem: str | None = None
        self.task: asyncio.Task[None] | None = None
        self._context = context
        self._spec = spec
        self._endpoint = _of_rank(place.endpoint, rank)
        self._replay = _of_rank(place.replay, rank) if place.replay is not None else None
        self._rank = rank
        self._ranks = {rank}
        self._holding = holding
        self._counts = counts
        self._owner = owner
        self._in_a_row = self._bytes_in_a_row = 0
        self._next: int | None = None                          # the number that must come next
        self._last_heard = -1                                  # of those that came by themselves
        self._last: int = 0                                    # tells the last message from another of its number

    async def run(self) -> None:
        """Listens for ever."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._listen()
            except (_Lost, OSError) as error:
                was_listening, self.listening = self.listening, False
                self.problem = str(error) or type(error).__name__
                self._owner.note(self._spec.id, self._holding, self.problem)
                pause_s = _FIRST_PAUSE_S if was_listening else min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _listen(self) -> None:
        """From one connection to its end. Raises _Lost, OSError."""
        import zmq

        address = await self._owner.address(self._spec, self._endpoint)
        subscriber = self._context.socket(zmq.SUB)
        monitor = subscriber.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
        )
        try:
            for option, value in (
                (zmq.LINGER, 0), (zmq.IPV6, 1), (zmq.MAXMSGSIZE, _MOST_MESSAGE_BYTES), (zmq.RCVHWM, _MOST_QUEUED),
                (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS), (zmq.RECONNECT_IVL, -1),
            ):  # fmt: skip
                subscriber.setsockopt(option, value)
            subscriber.subscribe(b"")
            subscriber.connect(address)
            if not await monitor.poll(int(1000 * _CONNECT_S)):
                raise _Lost(f"{self._endpoint}: no connection in {_CONNECT_S:g} s")
            await self._check(monitor)
            self.problem, self._last_heard = None, -1
            await self._catch_up()
            self.listening = True
            self._owner.note(self._spec.id, self._holding, None)
            await self._follow(subscriber, monitor)
        except zmq.ZMQError as error:
            raise _Lost(f"{self._endpoint}: {error}") from None
        finally:
            subscriber.disable_monitor()
            monitor.close(linger=0)
            subscriber.close(linger=0)

    async def _check(self, monitor: zmq.asyncio.Socket) -> None:
        import zmq
        from zmq.utils.monitor import parse_monitor_message

        told = parse_monitor_message(await monitor.recv_multipart())
        if told["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
            raise _Lost(f"{self._endpoint}: the connection was closed or refused")

    async def _follow(self, subscriber: zmq.asyncio.Socket, monitor: zmq.asyncio.Socket) -> None:
        import zmq.asyncio

        poller = zmq.asyncio.Poller()
        poller.register(subscriber, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        while True:
            ready = dict(await poller.poll())
            if subscriber in ready:
                with contextlib.suppress(zmq.Again):
                    for _ in range(_IN_A_ROW):
                        await self._heard(await subscriber.recv_multipart(zmq.NOBLOCK))
                await asyncio.sleep(0)
            elif monitor in ready:                             # all that came before the end is read first
                await self._check(monitor)

    # Messages

    async def _heard(self, frames: list[bytes]) -> None:
        """A message that came by itself."""
        if len(frames) != 3 or len(frames[1]) != 8:
            self._counts.garbage += 1
            return
        number = int.from_bytes(frames[1], "big", signed=True)
        if number < 0:
            self._counts.garbage += 1
            return
        if number <= self._last_heard:                         # no engine says anything twice: it has begun again
            self._next = None
            await self._catch_up()
        self._last_heard = number
        if self._next is not None and number < self._next:     # a replay was quicker
            return
        if self._next is not None and number > self._next:
            self._counts.gaps += 1
            await self._catch_up()
            if self._next is not None and number < self._next:
                return
            if self._next != number:
                self._forget()
        made = await self._take(number, frames[2])
        self._counts.messages += 1
        if made is not None:
            self._counts.lag_s = round(max(0.0, self._owner.wall() - made), 3)

    async def _take(self, number: int, payload: bytes) -> float | None:
        """The next message, however it came. Returns when it was made, in Unix seconds."""
        self._next, self._last = number + 1, hash(payload)
        try:
            batch = read_batch(payload)
        except ValueError:
            self._counts.garbage += 1
            self._forget()                                     # whatever it was to tell, it is missing
            return None
        rank = self._rank if batch.rank is None else batch.rank
        self._ranks.add(rank)
        for event in batch.events:
            self._holding.apply(event, rank)
        counts = self._counts
        counts.events += len(batch.events)
        counts.garbage += batch.strange
        self._in_a_row += 1
        self._bytes_in_a_row += len(payload)
        if self._in_a_row >= _IN_A_ROW or self._bytes_in_a_row >= _BYTES_IN_A_ROW:
            self._in_a_row = self._bytes_in_a_row = 0
            await asyncio.sleep(0)
        return batch.at

    def _forget(self) -> None:
        self._holding.clear(self._ranks)

    # What was missed

    async def _catch_up(self) -> None:
        """Has again what was missed, or forgets what this engine told before. The replay begins with the last message
        that was taken: whether it is still the same tells whether the engine is."""
        if self._next is not None and self._replay is not None and await self._replayed(self._next - 1, self._last):
            return
        self._forget()
        self._next = None
        if self._replay is not None and not await self._replayed(0, None):
            self.problem = f"{self._replay}: no answer to what was missed"

    async def _replayed(self, start: int, same: int | None) -> bool:
        """Asks for all messages from this number on, and takes them.

        Args:
            same: what the first one of them must be like; None: whatever there is, is taken.

        Returns:
            False: the first one is another or gone, or no answer came.
        """
        import zmq

        assert self._replay is not None
        address = await self._owner.address(self._spec, self._replay)
        dealer = self._context.socket(zmq.DEALER)
        try:
            for option, value in (
                (zmq.LINGER, 0), (zmq.IPV6, 1), (zmq.MAXMSGSIZE, _MOST_MESSAGE_BYTES),
                (zmq.RCVHWM, _MOST_REPLAYED_QUEUED),
            ):  # fmt: skip
                dealer.setsockopt(option, value)
            dealer.connect(address)
            await dealer.send_multipart([b"", start.to_bytes(8, "big")])
            for at in range(_MOST_REPLAYED):
                if not await dealer.poll(int(1000 * self._owner.replay_s)):
                    return False
                frames = await dealer.recv_multipart()         # [b"", topic, number, payload]; once without the topic
                if len(frames) < 3 or len(frames[-2]) != 8:
                    self._counts.garbage += 1
                    return False
                number = int.from_bytes(frames[-2], "big", signed=True)
                if number == _END:
                    return same is None or at > 0
                if at == 0 and same is not None:
                    if number != start or hash(frames[-1]) != same:
                        return False
                    continue
                if self._next is not None and number != self._next:
                    self._forget()
                await self._take(number, frames[-1])
                self._counts.replayed += 1
            return False
        finally:
            dealer.close(linger=0)


def _of_rank(endpoint: str, rank: int) -> str:
    """Each engine has ports of its own, one after the other."""
    if not rank:
        return endpoint
    base, _, port = endpoint.rpartition(":")
    return f"{base}:{int(port) + rank}"
