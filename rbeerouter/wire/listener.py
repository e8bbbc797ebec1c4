"""The client's side: accepts connections, parses HTTP/1.1, starts an exchange for each request.

`server.daemon` builds one `Listener`; asyncio makes a `ClientConnection` per socket. A request is handed over only
when it is whole: head and body within their limits. What is not a request is answered here and goes no further.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import fcntl
import itertools
import re
import secrets
import sys
import termios
from collections import Counter, deque
from collections.abc import Callable

import httptools
import msgspec
from msgspec.structs import force_setattr

from rbeerouter.config.sections import Limits, Server, limits_of_models, queue_rules, retry_rules
from rbeerouter.core.dispatch import Dispatcher, Job, refused_job
from rbeerouter.core.errors import FAILURES, Failure, RouterError
from rbeerouter.core.models import NO_MODELS, Models, for_side
from rbeerouter.core.types import Env, Request, Text
from rbeerouter.dialects.surfaces import ADMINISTRATION, OPENAI_DIALECT, SURFACES, Dialect, Surface, dialect_of
from rbeerouter.wire.exchange import Exchange, Reader
from rbeerouter.wire.headers import RawHeaders, Shape, Shapes, client_of, header_value, status_line, with_headers
from rbeerouter.wire.refusals import OwnError
from rbeerouter.wire.relay import Asgi, Relay, relayed
from rbeerouter.wire.upstream import Pools
from rbeerouter.wire.waiting import Waiters, report

_SWEEP_S = 0.5
_LINGER_S = 2.0
"""How long a refused client may go on sending before it is cut off; it needs that time to read the refusal."""
_MOST_FRAMING_BYTES = 1 << 20
"""What chunk sizes and trailers may add to a body, besides eight times its length."""
_MOST_PIPELINED = 64
"""Requests sent ahead of their answers, with bodies of `limits.request_body_bytes` in all. A client that sends more is
cut off rather than no longer listened to, as whoever is not read cannot be seen leaving."""
_NOTHING: dict[bytes, bytes] = {}
_NO_TEXTS: dict[str, str] = {}
_JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")


class Listener:
    """All client connections, and what they share.

    Args:
        record: called exactly once per request with its finished job.
        relay_to: the control plane's ASGI application, for the public paths.

    Attributes:
        shown_headers, prompt_chars: what the script wants to see of a request, see `show`.
        client_header: (the header that names the client, b"" for none; how many proxies stand before us).
        reader: finds out the tokens of prompts; None: nobody wants to know them.
        text_of: makes `Request.text` of (surface, request, body), for strategies that read the prompt.
        models: None where the configuration names none.
        limits_of: {model: the limits with its own in their place}.
    """

    def __init__(
        self, server: Server, limits: Limits, dispatcher: Dispatcher, pools: Pools, env: Env,
        record: Callable[[Job], None], relay_to: Asgi, max_connections: int, models: Models = NO_MODELS,
    ) -> None:  # fmt: skip
        self.dispatcher = dispatcher
        self.env = env
        self.now = env.now
        self.record = record
        self.relay_to = relay_to
        self.max_connections = max_connections
        self.pools = pools
        self.waiters = Waiters(dispatcher, env.now)
        self.connections: set[ClientConnection] = set()
        self.counts: Counter[str] = Counter()
        self.draining = False
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._id_prefix = secrets.token_hex(6).encode()
        self._id_numbers = itertools.count(1)
        self.date_line = b""
        self.clock = env.now()
        self.shown_headers: tuple[str, ...] = ()
        self.prompt_chars = 0
        self.client_header = b"", 1
        self.reader: Reader | None = None
        self.text_of: Callable[[Surface, Request, bytes], Text | None] | None = None
        self.models: Models | None = None
        self.limits_of: dict[str, Limits] = {}
        self.apply(server, limits, models)

    def apply(self, server: Server, limits: Limits, models: Models) -> None:
        """Takes new settings. Requests that have begun keep the limits they have passed."""
        self._settings, self.limits = server, limits
        self.models = models if models else None              # None is quicker to ask
        self.limits_of = limits_of_models(limits, models)
        self.request_shapes = Shapes(server.request_headers, ours=(b"content-type",), shown=self.shown_headers)
        self.response_shapes = Shapes(server.response_headers)
        self.dispatcher.retries.rules = retry_rules(limits)
        self.dispatcher.queue.rules = queue_rules(limits, self.limits_of)

    def show(self, headers: tuple[str, ...] = (), prompt_chars: int = 0) -> None:
        """What the script wants to see of each request besides the usual, which costs time: by default nothing.

        Args:
            headers: names of the client's headers for `Request.headers`.
            prompt_chars: how long `Request.prompt` may be; 0 for none.
        """
        self.shown_headers, self.prompt_chars = headers, prompt_chars
        self.apply(self._settings, self.limits, self.models or NO_MODELS)

    async def open(self, host: str, port: int) -> int:
        """Starts to listen; returns the port, which differs from the one asked for when that is 0."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientConnection(self), host, port, backlog=1024)
        self._sweep()
        return self._server.sockets[0].getsockname()[1]

    def jobs(self) -> list[Job]:
        """Those that have not ended: on a worker, or waiting for one."""
        return [one.exchange.job for one in self.connections if isinstance(one.exchange, Exchange)]

    async def drain(self, limit_s: float) -> None:
        """Stops accepting, lets requests finish for at most `limit_s`, then ends the rest with an error."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.drain()
        deadline = self.now() + limit_s
        while self.connections and self.now() < deadline:
            await asyncio.sleep(0.05)
        self.waiters.stop()
        for connection in list(self.connections):
            connection.end_now()
        await asyncio.sleep(0)

    def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            connection.cut(gently=False)
        self.pools.swap({})

    def next_request_id(self) -> bytes:
        return b"%b-%x" % (self._id_prefix, next(self._id_numbers))

    def _sweep(self) -> None:
        """Twice a second: every limit that is counted in seconds, for all connections in one pass."""
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)
        now = self.clock = self.now()
        self.date_line = b"date: %b\r\n" % email.utils.formatdate(self.env.wall(), usegmt=True).encode()
        for connection in list(self.connections):
            try:
                connection.check(now)
            except Exception as error:                        # a defect with one must not stop the clock for the others
                report("a connection could not be checked", error)
        self.pools.expire(now)
        self.dispatcher.sweep(now)
        self.waiters.tick()


class ClientConnection(asyncio.Protocol):
    """One client's connection: a parser's state, and at most one exchange at a time.

    Requests that a client sends ahead of their answers (pipelining) wait in `_waiting`.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.transport: asyncio.Transport
        self.exchange: Exchange | Relay | None = None
        self.dialect: Dialect = OPENAI_DIALECT
        self.keep_alive = self.speaks_chunked = True
        self.write_paused = self._head_only = False
        self._unread_bytes, self._unread_since = 0, 0.0
        self._waiting: deque[tuple[bytes, bytes, RawHeaders, Shape, bytes, bool, bool]] = deque()
        self._raw: RawHeaders = {}
        self._shape: Shape
        self._body: list[bytes] = []
        self._url: list[bytes] = []
        self._repeated = 0
        # Built-in methods as parser callbacks: the cheapest way to collect.
        self.on_body = self._body.append
        self.on_url = self._url.append
        self._parser = httptools.HttpRequestParser(self)
        self._head_done = False
        self._fed = self._body_bytes = self._body_parts = 0
        self._since = self._read_at = listener.clock
        self._closing_at: float | None = None

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        listener = self.listener
        if listener.draining or (listener.max_connections and len(listener.connections) >= listener.max_connections):
            listener.counts["connections_rejected"] += 1
            self._closing_at = 0.0
            transport.abort()  # type: ignore[attr-defined]
            return
        listener.connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._closing_at is not None or (self.exchange is not None and not self.keep_alive):
            return                                            # refused, or after its last request: thrown away
        self._read_at = self.listener.clock
        if not self._fed:
            self._since = self._read_at
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse("bad_request", "this server does not upgrade connections; use plain HTTP/1.1")
        except httptools.HttpParserCallbackError as error:
            refusal = error.__context__
            if isinstance(refusal, RouterError):
                self._refuse(refusal.failure.code, refusal.message)
            else:
                raise
        except httptools.HttpParserError as error:
            if self.exchange is not None and not self.keep_alive:
                return                                        # bytes behind a request with Connection: close
            self._refuse("bad_request", f"the request is not valid HTTP/1.1: {error}")
        else:
            if self._fed > self.listener.limits.header_bytes:
                self._check_sizes()

    def eof_received(self) -> bool:
        """A client that closes its sending half counts as gone, as the two cannot be told apart in time."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.listener.connections.discard(self)
        self._closing_at = 0.0
        self._waiting.clear()
        exchange = self.exchange
        if exchange is not None:
            exchange.client_gone()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._unread_bytes, self._unread_since = self._count_unread(), self.listener.now()
        if self.exchange is not None:
            self.exchange.pause()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.exchange is not None:
            self.exchange.resume()
        elif self._waiting and self._closing_at is None:
            self._begin(*self._waiting.popleft())

    # Called by the parser; `on_url` and `on_body` are list methods

    def on_header(self, name: bytes, value: bytes) -> None:
        raw = self._raw
        if name in raw:
            self._repeated += 1
            if self._repeated > 2 * self.listener.limits.header_count:
                raise RouterError("headers_too_large", "a header is repeated too often")
            value = raw[name] + b", " + value
        raw[name] = value

    def on_headers_complete(self) -> None:
        self._head_done = True
        self._body_bytes = self._body_parts = 0
        raw, limits = self._raw, self.listener.limits
        self._shape = shape = self.listener.request_shapes.of(raw)
        if self._repeated or len(shape.names) != len(raw):
            self._check_repeated()
        fields = len(raw) + self._repeated
        if fields > limits.header_count or self._fed > limits.header_bytes or self.exchange is not None:
            size = sum(map(len, self._url)) + sum(len(name) + len(value) + 4 for name, value in raw.items())
            if fields > limits.header_count or size > limits.header_bytes:
                raise RouterError(
                    "headers_too_large",
                    f"at most {limits.header_count} header fields of {limits.header_bytes} bytes in all are accepted",
                )
        self._fed = 0
        length = shape.get(raw, b"content-length")
        if length is not None and int(length) > limits.request_body_bytes and int(length) > self._most_body_bytes():
            raise self._too_large()
        if b"expect" in shape.names and self._parser.get_http_version() == "1.1":
            if raw[shape.names[b"expect"]].lower() != b"100-continue":
                raise RouterError("expectation_failed", "the only expectation supported is 100-continue")
            if self.exchange is None:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_repeated(self) -> None:
        """Lists may come in parts; what says where a request goes must come once, or others may read it otherwise."""
        written = [name.lower() for name in self._raw]
        host = self._shape.get(self._raw, b"host") or b""
        if written.count(b"host") > 1 or b", " in host:
            raise RouterError("bad_request", "more than one Host header")

    def on_message_complete(self) -> None:
        self._head_done = False
        self._fed = self._repeated = 0
        parser, parts, url = self._parser, self._body, self._url
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        target = url[0] if len(url) == 1 else b"".join(url)
        raw = self._raw.copy()
        parts.clear()
        self._raw.clear()
        if len(body) > self.listener.limits.request_body_bytes and len(body) > self._most_body_bytes():
            raise self._too_large()
        version = parser.get_http_version()
        current = version == "1.1"
        if not current:
            self._check_old_version(version)
        elif b"host" not in self._shape.names:
            raise RouterError("bad_request", "HTTP/1.1 requires a Host header")
        if parser.should_upgrade():
            raise RouterError("bad_request", "this server does not upgrade connections; use plain HTTP/1.1")
        url.clear()
        keep_alive = current and parser.should_keep_alive()
        if self.exchange is None and not self._waiting and not self.write_paused:
            self._begin(parser.get_method(), target, raw, self._shape, body, keep_alive, current)
            return
        self._waiting.append((parser.get_method(), target, raw, self._shape, body, keep_alive, current))
        waiting_bytes = sum(len(request[4]) for request in self._waiting)
        if len(self._waiting) > _MOST_PIPELINED or waiting_bytes > self.listener.limits.request_body_bytes:
            raise RouterError("bad_request", "too much was sent ahead of the answers")

    def _check_old_version(self, version: str) -> None:
        if version != "1.0":
            raise RouterError("bad_request", f"HTTP/{version} is not supported; use HTTP/1.1")
        if b"transfer-encoding" in self._shape.names:
            raise RouterError("bad_request", "Transfer-Encoding does not exist in HTTP/1.0")

    # From a request to an exchange

    def _begin(
        self, method: bytes, target: bytes, raw: RawHeaders, shape: Shape, body: bytes, keep_alive: bool, chunked: bool
    ) -> None:
        self.speaks_chunked = chunked
        self._head_only = method == b"HEAD"
        self.keep_alive = keep_alive and not self.listener.draining
        path = target if b"?" not in target else target.partition(b"?")[0]
        request_id = shape.get(raw, b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = self.listener.next_request_id()
        try:
            surface = SURFACES.get(path)
            if surface is not None:
                self.dialect = surface.dialect
                self.exchange = self._inference(method, target, surface, raw, shape, body, request_id)
            else:
                self.dialect = dialect_of(path)
                self.exchange = self._other(method, path)
        except RouterError as refusal:
            self._refuse(refusal.failure.code, refusal.message, refusal.param, request_id)
            return
        self.exchange.start()

    def _inference(
        self, method: bytes, target: bytes, surface: Surface, raw: RawHeaders, shape: Shape, body: bytes,
        request_id: bytes,
    ) -> Exchange:  # fmt: skip
        listener = self.listener
        if method != b"POST":
            raise RouterError("method_not_allowed", f"{method.decode()} is not allowed here; use POST")
        names = shape.names
        content_type = _JSON
        if b"content-type" in names and raw[names[b"content-type"]].lower().startswith(b"multipart/"):
            if not surface.uploads:
                raise RouterError("unsupported_media_type", "bodies of several parts are not taken here; send JSON")
            content_type = raw[names[b"content-type"]]
        arrived, wall = listener.now(), listener.env.wall()
        ours = {name: raw[spelled] for name, spelled in shape.ours} if shape.ours else _NOTHING
        try:
            request = surface.parse(
                surface, request_id.decode(), ours, body, listener.limits,
                shape.texts(raw) if shape.shown else _NO_TEXTS, listener.prompt_chars, content_type,
            )  # fmt: skip
            if shape.hurried:
                timeout_s = shape.timeout_s(raw, request.stream)
                request = request if timeout_s is None else msgspec.structs.replace(request, timeout_s=timeout_s)
            if listener.models is not None:
                request = listener.models.resolved(request)
            if ours and b"x-rbee-deployment" in ours:
                request = for_side(request, ours[b"x-rbee-deployment"])
            if shape.wishing or listener.dispatcher.decider.reads_request:
                self._look_closer(request, surface, raw, shape, body)
        except RouterError as refusal:
            listener.record(refused_job(surface.unread(request_id.decode()), refusal, arrived, wall, listener.now()))
            raise
        job = Job(request, arrived, wall)
        if shape.credential is not None:
            job.caller = raw[shape.credential]
        connection = raw[names[b"connection"]].lower() if b"connection" in names else b"close"
        if connection not in (b"keep-alive", b"close") or len(names) != len(raw):     # or a name in two spellings
            shape = listener.request_shapes.less(raw)
        forwarded = b"content-type: %b\r\n%bx-request-id: %b\r\n" % (content_type, shape.lines(raw), request_id)
        return Exchange(self, job, surface, target, forwarded, body)

    def _look_closer(
        self, request: Request, surface: Surface, raw: RawHeaders, shape: Shape, body: bytes
    ) -> None:
        """Fills in what few requests need: the client's wishes, and what some strategies go by. Raises RouterError."""
        listener, wishes = self.listener, shape.wishes(raw) if shape.wishing else None
        decider, may_choose = listener.dispatcher.decider, wishes is not None and wishes.strategy is not None
        if wishes is not None:
            force_setattr(request, "wishes", wishes)
        if may_choose or decider.reads_client:
            force_setattr(request, "client", self._client_address(raw, shape))
        if (may_choose or decider.reads_caller) and shape.credential is not None:
            force_setattr(request, "caller", raw[shape.credential])
        if (may_choose or decider.reads_prompt) and listener.text_of is not None:
            force_setattr(request, "text", listener.text_of(surface, request, body))

    def _client_address(self, raw: RawHeaders, shape: Shape) -> str | None:
        """Where the request came from: the peer, or whom a proxy before us names, as far as we are told to trust it."""
        header, hops = self.listener.client_header
        peer = self.transport.get_extra_info("peername")
        told = shape.get(raw, header) if header else None
        if told is not None:
            address = client_of(told, hops)
            if address is not None:
                return address
        return peer[0] if isinstance(peer, tuple) else None

    def _other(self, method: bytes, path: bytes) -> Relay:
        page = relayed(path)
        if page is None:
            shown = path[:100].decode("latin-1")
            if path in ADMINISTRATION:
                raise RouterError("not_found", f"{shown} is not served here: ask the machine that is to have the model")
            raise RouterError("not_found", f"there is nothing at {method.decode()} {shown}")
        if method not in (b"GET", b"HEAD"):
            raise RouterError("method_not_allowed", f"{method.decode()} is not allowed here; use GET")
        return Relay(self, self.listener.relay_to, method.decode(), page)

    def exchange_done(self) -> None:
        """The answer is written, or there is nobody to write it to: on to the next request, or close."""
        self.exchange = None
        self._head_only = False
        self._since = self.listener.clock
        if self._closing_at is not None:
            return
        if not self.keep_alive or self.listener.draining:
            self._close_when_read()
        elif self._waiting and not self.write_paused:
            self._begin(*self._waiting.popleft())

    # Answers

    def answer_failure(
        self, failure: Failure, message: str, param: str | None = None, request_id: str | None = None
    ) -> None:
        """Writes an error in the client's dialect; nothing of an answer may have been written before."""
        body = self.dialect.error_body(failure, message, param)
        self.keep_alive = self.keep_alive and not failure.close
        head = b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-should-retry: %b\r\n%b%b%b\r\n" % (
            status_line(failure.status), self.listener.date_line, len(body),
            b"true" if failure.should_retry else b"false",
            b"retry-after: %d\r\n" % failure.retry_after if failure.retry_after else b"",
            b"x-request-id: %b\r\n" % request_id.encode() if request_id else b"",
            b"" if self.keep_alive else b"connection: close\r\n",
        )  # fmt: skip
        self.transport.write(head if self._head_only else head + body)

    def answer_error(self, error: OwnError, body: bytes, job: Job, retry_after: int) -> None:
        """Writes a worker's own error; nothing of an answer may have been written before. SDKs are told to try again
        only if they are told when: otherwise the router has done so for them."""
        ours = [("x-should-retry", "true" if retry_after else "false")]
        if retry_after:
            ours += [("retry-after", str(retry_after)), ("retry-after-ms", str(1000 * retry_after))]
        head = b"%b%b%bcontent-length: %d\r\nx-request-id: %b\r\nx-rbee-worker: %b\r\n" % (
            status_line(error.status), self.listener.date_line, with_headers(error.lines, ours), len(body),
            job.request.id.encode(), header_value(job.tried[-1]),
        )  # fmt: skip
        self.transport.write(b"%b%b\r\n%b" % (head, b"" if self.keep_alive else b"connection: close\r\n", body))

    def begin_stream(self, content_type: bytes, request_id: str) -> None:
        """Writes the head of a stream before any worker has given content."""
        if not self.speaks_chunked:
            self.keep_alive = False
        head = b"%b%bcontent-type: %b\r\ncache-control: no-cache\r\nx-accel-buffering: no\r\nx-request-id: %b\r\n" % (
            status_line(200), self.listener.date_line, content_type, request_id.encode(),
        )  # fmt: skip
        framing = b"transfer-encoding: chunked\r\n" if self.speaks_chunked else b""
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        self.transport.write(b"%b%b%b\r\n" % (head, framing, closing))

    def cut(self, gently: bool) -> None:
        """Ends the connection in the middle of an answer: gently lets what was written arrive, else a reset."""
        if gently:
            self._close_when_read()
        else:
            self._closing_at = 0.0
            self.transport.abort()

    def _close_when_read(self) -> None:
        """Closes once the client has taken what was written; one that reads nothing for too long is cut off."""
        self._closing_at = float("inf")
        self._unread_bytes, self._unread_since = self._count_unread(), self.listener.now()
        self.transport.close()

    def _refuse(
        self, code: str, message: str, param: str | None = None, request_id: bytes | None = None
    ) -> None:
        """Answers what is not a request we serve. Protocol errors also end the connection."""
        failure = FAILURES[code]
        self.listener.counts[f"refused_{code}"] += 1
        if failure.close and self.exchange is not None:
            self.cut(gently=False)                            # garbage after a request whose answer is under way
            return
        if request_id is None and self._url:                  # it got no further than the parser
            self.dialect = dialect_of(b"".join(self._url).partition(b"?")[0])
        self.answer_failure(failure, message, param, request_id.decode() if request_id else None)
        if failure.close:
            self._closing_at = self.listener.now() + _LINGER_S
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:
            self.exchange_done()

    def _too_large(self) -> RouterError:
        limit = self._most_body_bytes()
        return RouterError("request_too_large", f"the body is larger than the limit of {limit} bytes")

    def _most_body_bytes(self) -> int:
        """How long the body of the request that is coming in may be: its path is known by then."""
        surface = SURFACES.get(b"".join(self._url).partition(b"?")[0])
        limits = self.listener.limits
        return limits.upload_bytes if surface is not None and surface.uploads else limits.request_body_bytes

    def _check_sizes(self) -> None:
        """A large request is coming in, or a small one is in a large read: is it too large already?"""
        limits = self.listener.limits
        if not self._head_done:
            self._refuse("headers_too_large", f"the headers are larger than the limit of {limits.header_bytes} bytes")
            return
        new = self._body[self._body_parts :]
        self._body_parts += len(new)
        self._body_bytes += sum(map(len, new))
        too_long = self._body_bytes > limits.request_body_bytes and self._body_bytes > self._most_body_bytes()
        if too_long or self._fed > 8 * self._body_bytes + _MOST_FRAMING_BYTES:
            self._refuse("request_too_large", str(self._too_large()))
        elif len(self._raw) + self._repeated > 2 * limits.header_count:
            self._refuse("headers_too_large", f"at most {limits.header_count} trailer fields are accepted")

    # The clock

    def check(self, now: float) -> None:
        """Called about twice a second: has anything on this connection taken too long?"""
        limits = self.listener.limits
        if self._closing_at is not None:
            if now > self._closing_at or (self._closing_at == float("inf") and self._reads_nothing(now)):
                self.transport.abort()
        elif self.write_paused and self._reads_nothing(now):
            self._closing_at = 0.0
            if self.exchange is not None:
                self.exchange.client_gone("client_stalled")
            self.transport.abort()
        elif self.exchange is not None:
            self.exchange.check(now)
        elif self._fed or self._head_done:
            allowed = limits.body_s if self._head_done else limits.header_s
            if now - self._since > allowed:
                self._refuse("request_timeout", f"the request did not arrive within {allowed:g} s")
            elif self._head_done and now - self._read_at > limits.body_gap_s:
                self._refuse("request_timeout", f"no more of the request arrived for {limits.body_gap_s:g} s")
        elif now - self._since > limits.keep_alive_s and not self.write_paused:
            self._close_when_read()

    def _reads_nothing(self, now: float) -> bool:
        """Has the client read nothing for too long? A slow one that goes on reading is left in peace."""
        unread = self._count_unread()
        if unread < self._unread_bytes:
            self._unread_since = now
        self._unread_bytes = unread
        return now - self._unread_since > self.listener.limits.write_stall_s

    def _count_unread(self) -> int:
        """Bytes the client has not taken: ours, and the kernel's, which holds megabytes and tells only this way."""
        ours = self.transport.get_write_buffer_size()
        with contextlib.suppress(OSError, AttributeError):
            number = self.transport.get_extra_info("socket").fileno()
            ours += int.from_bytes(fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return ours

    def drain(self) -> None:
        self.keep_alive = False
        if self.exchange is None and not self._fed and not self._head_done:
            self.transport.close()

    def end_now(self) -> None:
        """The drain limit has passed: the request is ended with an error that says so."""
        if isinstance(self.exchange, Exchange):
            self.exchange.end("draining", "the router is shutting down")
        self.cut(gently=True)
