"""The worker's side: one HTTP/1.1 connection, and each worker's pool of idle ones.

`wire.exchange` takes a connection, sends one request on it and is told what comes back by four calls:
`upstream_data`, `upstream_lost`, `upstream_garbage` and, from the pool, the result of `connect`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httptools

from rbeerouter.config.sections import ConfigError, Limits
from rbeerouter.control.addresses import guard_for, literal
from rbeerouter.core.types import Worker, WorkerSpec
from rbeerouter.dialects.engines.detect import of_url
from rbeerouter.wire.headers import RawHeaders

if TYPE_CHECKING:
    from rbeerouter.wire.exchange import Exchange

_MOST_HEAD_BYTES = 64 << 10
"""A worker's answer has its head within this many bytes, or is not one."""
_MOST_BARE_BYTES = 256 << 10
"""Bytes behind a head that are no body: chunk extensions, trailers."""
_MOST_FIELDS = 200
"""Header and trailer fields of one answer."""
_VERSIONS = ("1.1", "1.0")
_MOST_INFORMATIONAL = 8
"""100 Continue and its like before an answer; a worker that sends more is not speaking to us."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to a worker. What its parser has found of the current answer stands in public attributes.

    `raw` are the answer's headers as written; `parts` are its body's bytes since they were last taken, without chunk
    framing.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport
        self.idle_since = self.opened_at = 0.0
        self.peer = ""
        self.reused = self.paused = False
        self.raw: RawHeaders = {}
        self.parts: list[bytes] = []
        # The parser calls these for every header and every piece of body: built-in methods cost it least.
        self.on_header = self.raw.__setitem__
        self.on_body = self.parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._informational = self._head_bytes = self._bare_bytes = 0
        self.status = 0
        self.spoke = self.head_done = self.complete = self.broken = self.keep_alive = False

    def send(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Sends a request for this exchange, which is told of everything that comes back."""
        self.exchange = exchange
        self.raw.clear()
        self.spoke = self.head_done = self.complete = self.keep_alive = False
        self._informational = self._head_bytes = self._bare_bytes = 0
        self.transport.writelines((head, body))

    def ends_by_closing(self) -> bool:
        """Is the closed connection the answer's only end mark?"""
        return self.head_done and not {name.lower() for name in self.raw} & {b"content-length", b"transfer-encoding"}

    def pause(self) -> None:
        """Stops reading, so that the worker is slowed down to what the client takes."""
        if not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Closes at once; the exchange hears no more of it. The engine sees the close and stops generating."""
        self.exchange = None
        self.transport.abort()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.pool.opened(self)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            # Bytes nobody asked for on an idle connection would become the next request's answer.
            self.pool.forget(self)
            self.transport.abort()
            return
        self.spoke = True
        if not self.head_done:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.broken = True
            if not self.complete:
                exchange.upstream_garbage(self)
                return
        if self.head_done and not self.parts and not self.complete:
            self._bare_bytes += len(data)
        if (
            (self._head_bytes > _MOST_HEAD_BYTES and not self.head_done)
            or self._bare_bytes > _MOST_BARE_BYTES
            or len(self.raw) > _MOST_FIELDS
        ):
            self.broken = True
            exchange.upstream_garbage(self)
            return
        exchange.upstream_data(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.open_count -= 1
        self.pool.forget(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.upstream_lost(self, exc)

    def pause_writing(self) -> None:
        """A large request body waits in the transport; it was read whole before, so there is nobody to slow down."""

    def resume_writing(self) -> None:
        pass

    # Called by the parser

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("a second answer to one request")   # the parser stops: nothing of it is collected

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            if self._parser.get_http_version() not in _VERSIONS:
                raise ValueError("not HTTP/1")                   # the parser takes a textual HTTP/2.0
            self.status = status
            self.head_done = True
            return
        self._informational += 1
        if self._informational > _MOST_INFORMATIONAL:
            raise ValueError("too many informational answers")

    def on_message_complete(self) -> None:
        if self.head_done:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()   # true only while the parser is in this callback
        else:
            self.raw.clear()                                     # a 1xx answer; the real one follows


class Pool:
    """The idle connections of one worker, newest first, and what every request to it begins with.

    A worker that has a name is looked for under it with each new connection; `resolved` is told from time to time where
    the name leads now, and lets no connection to another place serve once more.
    """

    def __init__(
        self, spec: WorkerSpec, limits: Limits, tls: ssl.SSLContext | None = None, allow: Iterable[str] = ()
    ) -> None:
        parts = urlsplit(spec.url)
        self.spec = spec
        self._connect_s, self._age_s = limits.connect_s, limits.connection_age_s
        self._most_idle, self._idle_s = limits.idle_connections, limits.idle_connection_s
        self._guard = guard_for(spec, allow)
        self._tls = tls if parts.scheme == "https" else None
        self.host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.encode()
        fixed = b" HTTP/1.1\r\nhost: " + parts.netloc.encode() + b"\r\n"
        key = b"" if not spec.api_key else b"authorization: Bearer " + spec.api_key.encode() + b"\r\n"
        self._fixed = fixed + key
        # Anthropic takes its keys as a Bearer on its paths of OpenAI's protocol alone.
        is_anthropic = "anthropic" in (spec.engine, of_url(spec.url))
        self._of_messages = fixed + b"x-api-key: " + spec.api_key.encode() + b"\r\n" if key and is_anthropic else None
        self.idle: list[UpstreamConnection] = []
        self.open_count = 0
        self._addresses: frozenset[str] | None = None
        self._addresses_before: frozenset[str] = frozenset()
        self._closed = False

    def head(self, target: bytes, headers: bytes, length: int) -> bytes:
        """The head of a POST. `target` is the path with its query, `headers` are lines, the content type among them."""
        fixed = self._fixed
        if self._of_messages is not None and target.startswith(b"/v1/messages"):
            fixed = self._of_messages
        return b"POST %b%b%b%bcontent-length: %d\r\n\r\n" % (self._prefix, target, fixed, headers, length)

    def take(self, now: float) -> UpstreamConnection | None:
        """An idle connection that is young enough to be alive: servers close theirs after about 5 s."""
        idle = self.idle
        while idle:
            connection = idle.pop()
            if now - connection.idle_since < self._idle_s and not connection.transport.is_closing():
                connection.reused = True
                return connection
            connection.transport.abort()
        return None

    def give_back(self, connection: UpstreamConnection, now: float) -> None:
        """Keeps a connection whose answer is complete, or closes it."""
        connection.exchange = None
        if (
            not connection.keep_alive or connection.broken or self._closed or len(self.idle) >= self._most_idle
            or now - connection.opened_at >= self._age_s
            or (self._addresses is not None and connection.peer not in self._addresses)
        ):  # fmt: skip
            connection.transport.abort()
            return
        if connection.paused:
            connection.resume()
        connection.idle_since = now
        self.idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        if connection in self.idle:
            self.idle.remove(connection)

    async def connect(self) -> UpstreamConnection:
        """Opens a connection. Raises OSError, which TLS errors and TimeoutError are, too."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_s):
            hosts = [self.host] if self._guard is None else await self._permitted()
            for host in hosts:
                try:
                    _, connection = await loop.create_connection(
                        lambda: UpstreamConnection(self), host, self._port,
                        ssl=self._tls, server_hostname=self.host if self._tls else None,
                    )  # fmt: skip
                    return connection
                except OSError:
                    if host == hosts[-1]:
                        raise
        raise OSError(f"{self.host} has no address")

    def opened(self, connection: UpstreamConnection) -> None:
        self.open_count += 1
        connection.opened_at = asyncio.get_running_loop().time()
        connection.peer = (connection.transport.get_extra_info("peername") or ("",))[0]

    async def resolve(self) -> None:
        """Looks where the worker's name leads now, if there is a connection that may lead elsewhere."""
        if not self.open_count or self.host == "localhost":
            return
        try:
            if literal(self.host) is None:
                self.resolved(frozenset(await self._lookup()))
        except (OSError, ValueError):
            return                                            # a name server that is away says nothing of the worker

    def resolved(self, addresses: frozenset[str]) -> None:
        """Connections to addresses that the name had neither now nor the time before are not used again: names with
        many addresses often give a few at a time."""
        self._addresses, self._addresses_before = addresses | self._addresses_before, addresses
        for connection in [old for old in self.idle if old.peer not in self._addresses]:
            self.forget(connection)
            connection.transport.abort()

    async def _permitted(self) -> list[str]:
        """The worker's addresses, all of which its guard must let pass. Raises OSError."""
        assert self._guard is not None
        addresses = await self._lookup()
        for address in addresses:
            problem = self._guard(self.host, address)
            if problem is not None:
                raise PermissionError(problem)
        return addresses

    async def _lookup(self) -> list[str]:
        found = await asyncio.get_running_loop().getaddrinfo(self.host, self._port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    def expire(self, now: float) -> None:
        """Closes what has been idle too long."""
        for connection in [old for old in self.idle if now - old.idle_since >= self._idle_s]:
            self.forget(connection)
            connection.transport.abort()

    def close(self) -> None:
        """Closes the idle connections now and those in use when their answers end."""
        self._closed = True
        while self.idle:
            self.idle.pop().transport.abort()


class Pools:
    """The connection pool of each worker. A reload prepares new pools first and swaps them in afterwards."""

    def __init__(self, prepared: dict[str, Pool]) -> None:
        self._pools = prepared

    @staticmethod
    def prepare(
        specs: Iterable[WorkerSpec], limits: Limits, allow: Iterable[str] = (), kept: Pools | None = None
    ) -> dict[str, Pool]:
        """Pools by worker id. Raises ConfigError for a CA file that cannot be used.

        Args:
            allow: networks where workers may be that registered themselves.
            kept: whose pools are good for the workers that are still the same.
        """
        contexts: dict[str | None, ssl.SSLContext] = {}        # reading the system's CAs takes some 20 ms
        pools = {}
        for spec in specs:
            known = kept._pools.get(spec.id) if kept is not None else None
            if known is not None and known.spec == spec:
                pools[spec.id] = known
                continue
            if spec.url.startswith("https:") and spec.ca_file not in contexts:
                contexts[spec.ca_file] = _tls_context(spec)
            pools[spec.id] = Pool(spec, limits, contexts.get(spec.ca_file), allow)
        return pools

    def of(self, worker: Worker) -> Pool | None:
        """None for a worker that a reload has removed."""
        return self._pools.get(worker.id)

    def swap(self, prepared: dict[str, Pool]) -> None:
        """From here on the new pools are used; answers under way finish on connections of the old ones."""
        old, self._pools = self._pools, prepared
        for worker_id, pool in old.items():
            if prepared.get(worker_id) is not pool:
                pool.close()

    def expire(self, now: float) -> None:
        for pool in self._pools.values():
            pool.expire(now)

    async def resolve(self) -> None:
        """Looks where the names of workers lead now: one after the other, as a resolver that hangs holds up others."""
        for pool in list(self._pools.values()):
            await pool.resolve()

    def idle_count(self) -> int:
        return sum(len(pool.idle) for pool in self._pools.values())


def _tls_context(spec: WorkerSpec) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=spec.ca_file)
    except (ssl.SSLError, OSError) as error:
        what = f"ca_file = {spec.ca_file!r}: not a usable CA certificate: {error}"
        raise ConfigError(f"worker {spec.id}: {what}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
