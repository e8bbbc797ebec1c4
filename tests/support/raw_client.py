"""A small HTTP/1.1 client over a bare connection, which shows a test exactly what came back and how it ended.

Called by tests: `exchange` sends any bytes, `post` and `get` make one request, `stream` yields the events of a stream
as they come, and `Connection` keeps a connection for several requests, or leaves it in the middle. It must not hide
anything: it follows no redirect, retries nothing, and tells a truncated body from a whole one.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Self

Body = bytes | dict[str, Any]
HeaderPairs = Iterable[tuple[str, str]]

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
EVENT_END = re.compile(rb"\r?\n\r?\n")
TIMEOUT_S = 10.0
PIECE_BYTES = 65536


class NoAnswer(ConnectionError):
    """The connection ended before the head of an answer was complete; `received` is what came."""

    def __init__(self, received: bytes, error: Exception | None) -> None:
        super().__init__(f"no answer, {error!r}; received {received!r}")
        self.received = received


@dataclass(slots=True)
class Answer:
    """One answer, growing while it is read."""

    status: int
    headers: dict[str, str]
    """Names in lower case; repeated ones joined by ", "."""
    chunks: list[bytes] = field(default_factory=list)
    """The body as it was framed: the chunks of a chunked body, else the pieces read from the socket."""
    complete: bool = False
    """Whether the framing was honoured to its end. A close-delimited body is complete when it ends without a reset."""
    reset: bool = False
    interim: list[int] = field(default_factory=list)
    """The statuses of the 1xx answers that came before."""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Event]:
        """The whole events of a streamed answer, after the fact: all with `when` 0."""
        return [Event(raw, 0.0) for raw in EVENT_END.split(self.body)[:-1]]


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event, without the blank line that ends it, and the loop time at which it was whole."""

    raw: bytes
    when: float

    @property
    def data(self) -> str:
        return "\n".join(self._fields("data"))

    @property
    def name(self) -> str:
        return "".join(self._fields("event"))

    @property
    def is_comment(self) -> bool:
        return all(line.startswith(b":") for line in self.raw.splitlines())

    @property
    def content(self) -> str:
        """The text that an OpenAI chat or text completion event adds to the answer."""
        if self.data in ("", "[DONE]"):
            return ""
        choices = self.json().get("choices") or [{}]
        return choices[0].get("delta", {}).get("content") or choices[0].get("text") or ""

    def json(self) -> Any:
        return json.loads(self.data)

    def _fields(self, wanted: str) -> list[str]:
        pairs = [line.partition(":") for line in self.raw.decode().splitlines()]
        return [value.removeprefix(" ") for name, _, value in pairs if name == wanted]


class Receiver(asyncio.Protocol):
    """Keeps what arrives, also when the connection then breaks: asyncio's own StreamReader would withhold it."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self._arrived = asyncio.Event()
        self._lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._arrived.set()

    def eof_received(self) -> None:
        self.ended = True
        self._arrived.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended, self.error = True, error
        self._arrived.set()
        self._lost.set()

    async def more(self) -> bool:
        """Wait for more bytes; False when no more will come."""
        if self.ended:
            return False
        self._arrived.clear()
        await self._arrived.wait()
        return not self.ended

    async def take_until(self, mark: bytes) -> bytes | None:
        """What stands before `mark`, taken with it; None when the connection ends first."""
        while (at := self.buffer.find(mark)) < 0:
            if not await self.more() and mark not in self.buffer:
                return None
        taken = bytes(self.buffer[:at])
        del self.buffer[: at + len(mark)]
        return taken

    async def take(self, most: int) -> bytes:
        """At least one byte and at most so many; none when the connection has ended."""
        while not self.buffer and await self.more():
            pass
        taken = bytes(self.buffer[:most])
        del self.buffer[:most]
        return taken

    async def take_exactly(self, count: int) -> bytes:
        """So many bytes, fewer only when the connection ends first."""
        while len(self.buffer) < count and await self.more():
            pass
        return await self.take(count)

    async def lost(self) -> None:
        await self._lost.wait()


class Connection:
    """A keep-alive connection: `async with Connection(port) as connection`."""

    def __init__(
        self,
        port: int,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self.port = port
        self.answer: Answer | None = None
        """The answer being read or read last; inside a `stream` loop it already has status and headers."""
        self._host = host
        self._tls = tls
        self._receive_buffer_bytes = receive_buffer_bytes
        self._receiver: Receiver
        self._transport: asyncio.Transport

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        raw.setblocking(False)
        if self._receive_buffer_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        try:
            await loop.sock_connect(raw, (self._host, self.port))
            name = self._host if self._tls else None
            made = await loop.create_connection(Receiver, sock=raw, ssl=self._tls, server_hostname=name)
        except BaseException:
            raw.close()
            raise
        self._transport, self._receiver = made
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def ended(self) -> bool:
        """Whether the server has closed or reset the connection."""
        return self._receiver.ended

    @property
    def unread(self) -> bytes:
        """Bytes that came and belong to no answer read so far."""
        return bytes(self._receiver.buffer)

    @property
    def unsent(self) -> int:
        """Bytes that the server's side has not taken yet."""
        return self._transport.get_write_buffer_size()

    # Requests and answers.

    async def post(self, path: str, body: Body, headers: HeaderPairs = (), *, timeout_s: float = TIMEOUT_S) -> Answer:
        self.send_request("POST", path, body, headers)
        return await self.receive(timeout_s=timeout_s)

    async def get(self, path: str, headers: HeaderPairs = (), *, timeout_s: float = TIMEOUT_S) -> Answer:
        self.send_request("GET", path, b"", headers)
        return await self.receive(timeout_s=timeout_s)

    async def stream(
        self, path: str, body: Body, headers: HeaderPairs = (), *, timeout_s: float = TIMEOUT_S
    ) -> AsyncIterator[Event]:
        """The events of the answer as they come, each within `timeout_s`; `self.answer` tells the rest."""
        self.send_request("POST", path, body, headers)
        async with asyncio.timeout(timeout_s):
            answer = await self._read_head()
        unsplit = b""
        body_reader = BodyReader(self._receiver, answer)
        while True:
            async with asyncio.timeout(timeout_s):
                piece = await body_reader.next()
            if piece is None:
                return
            *whole, unsplit = EVENT_END.split(unsplit + piece)
            for raw in whole:
                yield Event(raw, asyncio.get_running_loop().time())

    async def receive(self, *, timeout_s: float = TIMEOUT_S, to_head: bool = False) -> Answer:
        """Read one answer; raises NoAnswer when the connection ends before its head is whole."""
        async with asyncio.timeout(timeout_s):
            answer = await self._read_head()
            body_reader = BodyReader(self._receiver, answer, bodiless=to_head)
            while await body_reader.next() is not None:
                pass
        return answer

    def send_request(self, method: str, path: str, body: Body = b"", headers: HeaderPairs = ()) -> None:
        self.send(request_bytes(method, path, body, headers, host=f"{self._host}:{self.port}"))

    def send(self, raw: bytes) -> None:
        """Send any bytes; they go out while the answer is awaited."""
        self._transport.write(raw)

    # Ways to behave badly, and to leave.

    def pause(self) -> None:
        """Stop reading from the socket, like a client that is stuck."""
        self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and stay to read."""
        self._transport.write_eof()

    def abort(self) -> None:
        """Leave with a TCP reset; unsent bytes are dropped."""
        if self._transport.is_closing():
            return
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    async def close(self) -> None:
        """Leave, whatever is still coming; bytes that the server does not take are dropped."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        else:
            self._transport.close()
        await self._receiver.lost()

    async def arrived(self) -> None:
        """Wait for more bytes, or the end; nothing is read."""
        await self._receiver.more()

    async def until_ended(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Read until the server closes or resets the connection; what came."""
        try:
            async with asyncio.timeout(timeout_s):
                while await self._receiver.more():
                    pass
        except TimeoutError:
            raise TimeoutError(f"still open after {timeout_s} s; received {self.unread!r}") from None
        return self.unread

    # Reading.

    async def _read_head(self) -> Answer:
        interim: list[int] = []
        while True:
            raw = await self._receiver.take_until(b"\r\n\r\n")
            if raw is None:
                raise NoAnswer(self.unread, self._receiver.error)
            answer = parse_head(raw)
            if answer.status >= 200 or answer.status == 101:
                break
            interim.append(answer.status)
        answer.interim = interim
        self.answer = answer
        return answer


class BodyReader:
    """Reads the body of one answer piece by piece into it."""

    def __init__(self, receiver: Receiver, answer: Answer, *, bodiless: bool = False) -> None:
        self._receiver = receiver
        self._answer = answer
        self._chunked = answer.headers.get("transfer-encoding", "").lower() == "chunked"
        self._left: int | None = None
        if bodiless or answer.status in (204, 304):
            self._chunked, self._left = False, 0
        elif not self._chunked and "content-length" in answer.headers:
            self._left = int(answer.headers["content-length"])

    async def next(self) -> bytes | None:
        """The next piece; None at the end, when the answer knows whether it is complete."""
        piece = await (self._next_chunk() if self._chunked else self._next_piece())
        if piece:
            self._answer.chunks.append(piece)
            return piece
        self._answer.reset = self._receiver.error is not None
        return None

    async def _next_chunk(self) -> bytes:
        size_line = await self._receiver.take_until(b"\r\n")
        if size_line is None:
            return b""
        size = int(size_line.partition(b";")[0], 16)
        if size > 0:
            data = await self._receiver.take_exactly(size + 2)
            return data[:size]
        while (trailer := await self._receiver.take_until(b"\r\n")) is not None:
            if not trailer:
                self._answer.complete = True
                break
        return b""

    async def _next_piece(self) -> bytes:
        if self._left is None:
            piece = await self._receiver.take(PIECE_BYTES)
            self._answer.complete = not piece and self._receiver.error is None
        else:
            piece = await self._receiver.take(self._left) if self._left else b""
            self._left -= len(piece)
            self._answer.complete = self._left == 0
        return piece


def parse_head(raw: bytes) -> Answer:
    first, *lines = raw.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    version, status = first.split(" ")[:2]
    if not version.startswith("HTTP/1."):
        raise ValueError(f"not an HTTP/1 answer: {raw!r}")
    return Answer(int(status), headers)


def request_bytes(method: str, path: str, body: Body, headers: HeaderPairs, *, host: str) -> bytes:
    """A request with host, content-type and content-length, unless `headers` has its own."""
    encoded = json.dumps(body).encode() if isinstance(body, dict) else body
    given = list(headers)
    named = {name.lower() for name, _ in given}
    usual = [("host", host)]
    if method != "GET":
        usual += [("content-type", "application/json"), ("content-length", str(len(encoded)))]
    if "transfer-encoding" in named:
        named.add("content-length")
    fields = [*(pair for pair in usual if pair[0] not in named), *given]
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + encoded


async def exchange(port: int, raw: bytes, *, half_close: bool = False, timeout_s: float = TIMEOUT_S) -> bytes:
    """Send bytes as they are and return everything that comes until the server closes or resets the connection."""
    async with Connection(port) as connection:
        connection.send(raw)
        if half_close:
            connection.half_close()
        return await connection.until_ended(timeout_s)


async def post(
    port: int,
    path: str,
    body: Body,
    headers: HeaderPairs = (),
    *,
    timeout_s: float = TIMEOUT_S,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    async with Connection(port, tls=tls) as connection:
        return await connection.post(path, body, headers, timeout_s=timeout_s)


async def get(
    port: int, path: str, headers: HeaderPairs = (), *, timeout_s: float = TIMEOUT_S, tls: ssl.SSLContext | None = None
) -> Answer:
    async with Connection(port, tls=tls) as connection:
        return await connection.get(path, headers, timeout_s=timeout_s)


async def stream(
    port: int, path: str, body: Body, headers: HeaderPairs = (), *, timeout_s: float = TIMEOUT_S
) -> AsyncIterator[Event]:
    """The events of a streamed answer on a connection of its own; to leave in the middle, use a Connection."""
    async with Connection(port) as connection:
        async for event in connection.stream(path, body, headers, timeout_s=timeout_s):
            yield event
