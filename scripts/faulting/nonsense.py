"""Answers that break, or strain, the rules of HTTP and of event streams.

Called by worker.py through the table BEHAVIOURS; GARBAGE has the heads and bodies of `garbage:KIND`.
"""

from __future__ import annotations

import asyncio
import functools
import gzip
import json
from typing import TYPE_CHECKING

from .behaviours import answer
from .parts import (
    ANSWER_TEXT,
    BEHAVIOURS,
    CHUNKED,
    JSON_TYPE,
    LAST_CHUNK,
    POISON,
    SSE_TYPE,
    Behaviour,
    behaviour,
    chunk,
    completion,
    envelope,
    events,
    head,
    sse,
    whole,
)
from .request_reader import Request

if TYPE_CHECKING:
    from .worker import Connection

BOMB_BYTES = 50_000_000
HUGE_EVENT_BYTES = 2 << 20
LONG_EVENT_BYTES = 300 << 10

OK, LENGTH_2 = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n", b"content-length: 2\r\n"
GARBAGE: dict[str, bytes] = {
    "bytes": b"\x00\x01\xffSSH-2.0-not-http\r\n\r\n",
    "dupcl": OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "listcl": OK + b"content-length: 2, 3\r\n\r\n{}",
    "badcl": OK + b"content-length: +2\r\n\r\n{}",
    "hugecl": OK + b"content-length: 99999999999999999999999\r\n\r\n{}",
    "clte": OK + LENGTH_2 + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "te": OK + b"transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "nul": OK + LENGTH_2 + b"x-nul: a\x00b\r\n\r\n{}",
    "cr": OK + LENGTH_2 + b"x-cr: a\rx-forged: b\r\n\r\n{}",
    "name": OK + LENGTH_2 + b"bad name: x\r\n\r\n{}",
    "http2": b"HTTP/2.0 200 OK\r\n" + LENGTH_2 + b"\r\n{}",
    "status": b"HTTP/1.1 999 Odd\r\n" + LENGTH_2 + b"\r\n{}",
    "nostatus": b"HTTP/1.1 OK\r\n" + LENGTH_2 + b"\r\n{}",
    "chunk": OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\n{}\r\n0\r\n\r\n",
    "longchunk": OK + b"transfer-encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n",
    "bighead": OK + LENGTH_2 + b"x-big: " + b"x" * 1_000_000 + b"\r\n\r\n{}",
    "manyheads": OK + LENGTH_2 + b"".join(b"x-%d: 1\r\n" % number for number in range(2500)) + b"\r\n{}",
}
"""{kind: what is sent}; the connection then stays open, so the peer has to notice by itself."""


def spew(data: bytes, what: str = "") -> Behaviour:
    async def send(connection: Connection, request: Request) -> None:
        await connection.write(data)
        await connection.until_peer_leaves()

    send.__doc__ = what
    return send



BEHAVIOURS["garbage"] = spew(GARBAGE["bytes"], "Bytes that are not HTTP; the connection stays open.")


@behaviour
async def bad_content_length(connection: Connection, request: Request) -> None:
    """Both content-length and transfer-encoding, which smugglers like."""
    body = json.dumps(completion(connection, request)).encode()
    await connection.write(head(200, JSON_TYPE, ("content-length", "5"), CHUNKED) + chunk(body) + LAST_CHUNK)


@behaviour
async def extra_data(connection: Connection, request: Request) -> None:
    """A good answer and, in the same write, another one that nobody asked for; the connection stays open."""
    await connection.write(whole(200, completion(connection, request)) + POISON)


@behaviour
async def late_data(connection: Connection, request: Request) -> None:
    """A good answer, and after `worker.delay_s`, when the peer has pooled the connection, one nobody asked for."""
    await connection.write(whole(200, completion(connection, request)))
    await asyncio.sleep(connection.worker.delay_s)
    await connection.write(POISON)


@behaviour
async def early_100(connection: Connection, request: Request) -> None:
    """100 Continue that nobody waited for, then a good answer."""
    await connection.write(head(100))
    await answer(connection, request)


@behaviour
async def flood_1xx(connection: Connection, request: Request) -> None:
    """Twenty interim answers, then a good one."""
    for _ in range(20):
        await connection.write(head(103, ("link", "</style.css>; rel=preload")))
    await answer(connection, request)


@behaviour
async def redirect(connection: Connection, request: Request) -> None:
    """307 to `worker.redirect_url`, which by default is a port where nobody listens."""
    location = connection.worker.redirect_url + request.path
    await connection.write(head(307, ("location", location), ("content-length", "0")))


@behaviour
async def switching_101(connection: Connection, request: Request) -> None:
    """101 Switching Protocols, and bytes of the other protocol; the connection stays open."""
    await connection.write(head(101, ("connection", "upgrade"), ("upgrade", "websocket")) + b"\x81\x02hi")
    await connection.until_peer_leaves()


@behaviour
async def bomb(connection: Connection, request: Request) -> None:
    """50 MB of spaces as 50 kB of gzip that nobody asked for."""
    body = packed_bomb()
    coding, length = ("content-encoding", "gzip"), ("content-length", str(len(body)))
    await connection.write(head(200, JSON_TYPE, coding, length) + body)


@functools.cache
def packed_bomb() -> bytes:
    return gzip.compress(b" " * BOMB_BYTES, compresslevel=6)


@behaviour
async def short_length(connection: Connection, request: Request) -> None:
    """A content-length that is 10 bytes less than the body."""
    body = json.dumps(completion(connection, request)).encode()
    await connection.write(head(200, JSON_TYPE, ("content-length", str(len(body) - 10))) + body)


@behaviour
async def huge_event(connection: Connection, request: Request) -> None:
    """A good stream but for one event of 2 MiB."""
    await with_event_of(connection, request, HUGE_EVENT_BYTES)


@behaviour
async def long_event(connection: Connection, request: Request) -> None:
    """A good stream with one event of 300 KiB, as a tool call or a picture makes it."""
    await with_event_of(connection, request, LONG_EVENT_BYTES)


async def with_event_of(connection: Connection, request: Request, size: int) -> None:
    opening, *rest = events(connection, request)
    delta = {"index": 0, "delta": {"content": "x" * size}, "finish_reason": None}
    large = sse({**envelope(connection, request, "chat.completion.chunk"), "choices": [delta]})
    await connection.write(head(200, SSE_TYPE, CHUNKED))
    for event in (opening, large, *rest):
        await connection.write(chunk(event))
    await connection.write(LAST_CHUNK)


@behaviour
async def line_ends(connection: Connection, request: Request) -> None:
    """A good stream with comments, `data` of several lines and every line end that the standard allows."""
    base = envelope(connection, request, "chat.completion.chunk")
    await connection.write(head(200, SSE_TYPE, CHUNKED) + chunk(b": hello\r\n\r\nretry: 1000\n\n"))
    for number, token in enumerate((ANSWER_TEXT[:3], ANSWER_TEXT[3:])):
        delta = {"index": 0, "delta": {"content": token}, "finish_reason": "stop" if number else None}
        lines = json.dumps({**base, "choices": [delta]}, indent=0).split("\n")
        end = (b"\r\n", b"\n")[number]
        await connection.write(chunk(b"".join(b"data: " + line.encode() + end for line in lines) + end))
    await connection.write(chunk(b"data:[DONE]\r\n\r\n") + LAST_CHUNK)
