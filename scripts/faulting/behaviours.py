"""What a worker can do with a request that is still HTTP: good answers, slow ones, cut ones, and refusals.

Called by worker.py through the table BEHAVIOURS. A behaviour must answer through the connection it is given only and
start no task; when the peer leaves, it is cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .parts import (
    BEHAVIOURS,
    BIG_ANSWER_BYTES,
    CHUNKED,
    CLOSE,
    ENDLESS_BURST_EVENTS,
    JSON_TYPE,
    LAST_CHUNK,
    SSE_TYPE,
    Behaviour,
    Header,
    behaviour,
    chunk,
    completion,
    error_object,
    events,
    head,
    is_embedding,
    sse,
    stream_part,
    whole,
)
from .request_reader import Request

if TYPE_CHECKING:
    from .worker import Connection

# Good answers in every framing.


async def answer(
    connection: Connection, request: Request, headers: Iterable[Header] = (), delay_s: float = 0.0
) -> None:
    if is_embedding(request):
        await embed(connection, request)
        return
    if not request.stream:
        await connection.write(whole(200, completion(connection, request), *headers))
        return
    await connection.write(head(200, SSE_TYPE, CHUNKED, *headers))
    for event in events(connection, request):
        await connection.write(chunk(event))
        if delay_s:
            await asyncio.sleep(delay_s)
    await connection.write(LAST_CHUNK)


@behaviour
async def ok(connection: Connection, request: Request) -> None:
    """JSON with a content-length, or a chunked event stream when the body says `"stream": true`."""
    await answer(connection, request)


@behaviour
async def ok_chunked(connection: Connection, request: Request) -> None:
    """JSON in two chunks."""
    body = json.dumps(completion(connection, request)).encode()
    await connection.write(head(200, JSON_TYPE, CHUNKED) + chunk(body[:20]) + chunk(body[20:]) + LAST_CHUNK)


@behaviour
async def ok_close(connection: Connection, request: Request) -> None:
    """An answer, JSON or stream, that ends with the connection."""
    await close_delimited(connection, request, "1.1", CLOSE)


@behaviour
async def ok_http10(connection: Connection, request: Request) -> None:
    """The same from an HTTP/1.0 server, which does not say that it will close."""
    await close_delimited(connection, request, "1.0")


async def close_delimited(connection: Connection, request: Request, version: str, *headers: Header) -> None:
    if request.stream:
        parts = events(connection, request)
    else:
        parts = [json.dumps(completion(connection, request)).encode()]
    await connection.write(head(200, SSE_TYPE if request.stream else JSON_TYPE, *headers, version=version))
    for part in parts:
        await connection.write(part)
    connection.close()


@behaviour
async def split_bytes(connection: Connection, request: Request) -> None:
    """A good event stream, head included, written one byte at a time."""
    stream = b"".join(map(chunk, events(connection, request)))
    for byte in head(200, SSE_TYPE, CHUNKED) + stream + LAST_CHUNK:
        await connection.write(bytes((byte,)))
        # Lets the reader run in between, where it shares the loop.
        await asyncio.sleep(0)


@behaviour
async def trailers(connection: Connection, request: Request) -> None:
    """JSON in one chunk, with a trailer after the last."""
    body = json.dumps(completion(connection, request)).encode()
    start = head(200, JSON_TYPE, CHUNKED, ("trailer", "x-checksum"))
    await connection.write(start + chunk(body) + b"0\r\nx-checksum: 1234\r\n\r\n")


@behaviour
async def set_cookie(connection: Connection, request: Request) -> None:
    """A good answer with headers that a client must never see."""
    headers = [
        ("Set-Cookie", "session=of-somebody-else; Path=/"),
        ("Server", "secret-engine/1.2.3"),
        ("Location", "http://10.0.0.1/internal"),
        ("access-control-allow-origin", "*"),
    ]
    await answer(connection, request, headers)


@behaviour
async def embed(connection: Connection, request: Request) -> None:
    """An embeddings answer with one short vector per input."""
    given = request.json().get("input", "")
    count = len(given) if isinstance(given, list) else 1
    rows = [{"object": "embedding", "index": index, "embedding": [0.1, 0.2, 0.3]} for index in range(count)]
    usage = {"prompt_tokens": count, "total_tokens": count}
    await connection.write(whole(200, {"object": "list", "model": request.model, "data": rows, "usage": usage}))


@behaviour
async def big_json(connection: Connection, request: Request) -> None:
    """A JSON answer of 2 MB."""
    await connection.write(whole(200, completion(connection, request, "x" * BIG_ANSWER_BYTES)))


@behaviour
async def endless_stream(connection: Connection, request: Request) -> None:
    """Events as fast as the socket takes them, until the peer leaves."""
    await stream_part(connection, request, 1)
    burst = chunk(events(connection, request)[1]) * ENDLESS_BURST_EVENTS
    while True:
        await connection.write(burst)
        await asyncio.sleep(0)


# Slow, and silent.


@behaviour
async def slow_first(connection: Connection, request: Request) -> None:
    """A good answer whose head comes after `worker.delay_s`."""
    await asyncio.sleep(connection.worker.delay_s)
    await answer(connection, request)


@behaviour
async def drip(connection: Connection, request: Request) -> None:
    """A head that comes one byte every `worker.delay_s`, and never ends."""
    await connection.write(b"HTTP/1.1 200 OK\r\nx-drip: ")
    while True:
        await connection.write(b"x")
        await asyncio.sleep(connection.worker.delay_s)


@behaviour
async def drip_body(connection: Connection, request: Request) -> None:
    """A good answer whose bytes come one every `worker.delay_s`."""
    length = ("content-length", str(len(body := json.dumps(completion(connection, request)).encode())))
    if request.stream:
        body, length = b"".join(map(chunk, events(connection, request))) + LAST_CHUNK, CHUNKED
    await connection.write(head(200, SSE_TYPE if request.stream else JSON_TYPE, length))
    for byte in body:
        await connection.write(bytes((byte,)))
        await asyncio.sleep(connection.worker.delay_s)


@behaviour
async def slow_tokens(connection: Connection, request: Request) -> None:
    """A good answer with `worker.delay_s` after every event of a stream."""
    await answer(connection, request, delay_s=connection.worker.delay_s)


@behaviour
async def hang(connection: Connection, request: Request) -> None:
    """Never answers."""
    await connection.until_peer_leaves()


@behaviour
async def hang_after_head(connection: Connection, request: Request) -> None:
    """A head, then silence."""
    framing = (SSE_TYPE, CHUNKED) if request.stream else (JSON_TYPE, ("content-length", "1000"))
    await connection.write(head(200, *framing))
    await connection.until_peer_leaves()


@behaviour
async def only_comments(connection: Connection, request: Request) -> None:
    """A stream that says nothing but `: keep-alive`, every `worker.delay_s`, for ever."""
    await stream_part(connection, request, 0)
    while True:
        await connection.write(chunk(b": keep-alive\n\n"))
        await asyncio.sleep(connection.worker.delay_s)


@behaviour
async def hang_after_2(connection: Connection, request: Request) -> None:
    """A stream that falls silent after two events with content."""
    await stream_part(connection, request, 3)
    await connection.until_peer_leaves()


# Closed and reset connections.


@behaviour
async def close_before_head(connection: Connection, request: Request) -> None:
    """Reads the request, then ends the connection without a byte."""
    connection.close()


@behaviour
async def reset_before_head(connection: Connection, request: Request) -> None:
    """Reads the request, then resets the connection."""
    await connection.reset(settle_s=0)


@behaviour
async def close_after_head(connection: Connection, request: Request) -> None:
    """The head of a stream, then the end of the connection."""
    await stream_part(connection, request, 0)
    connection.close()


@behaviour
async def close_after_role(connection: Connection, request: Request) -> None:
    """The head and the opening event, which carries no content, then the end of the connection."""
    await stream_part(connection, request, 1)
    connection.close()


@behaviour
async def close_mid_body(connection: Connection, request: Request) -> None:
    """100 bytes of the 1,000 that content-length promised."""
    await connection.write(head(200, JSON_TYPE, ("content-length", "1000")) + b'{"cut":"'.ljust(100, b"x"))
    connection.close()


@behaviour
async def close_mid_stream(connection: Connection, request: Request) -> None:
    """Three events with content, then the end of the connection without a last chunk."""
    await stream_part(connection, request, 4)
    connection.close()


@behaviour
async def reset_mid_stream(connection: Connection, request: Request) -> None:
    """Three events with content, then a reset."""
    await stream_part(connection, request, 4)
    await connection.reset()


@behaviour
async def eof_stream_no_done(connection: Connection, request: Request) -> None:
    """A close-delimited stream that ends cleanly after three events with content, without [DONE]."""
    await connection.write(head(200, SSE_TYPE, CLOSE))
    for event in events(connection, request)[:4]:
        await connection.write(event)
    connection.close()


@behaviour
async def cut_event(connection: Connection, request: Request) -> None:
    """A stream whose framing ends well, `worker.delay_s` later, in the middle of its third event with content."""
    await stream_part(connection, request, 3)
    await asyncio.sleep(connection.worker.delay_s)
    await connection.write(chunk(events(connection, request)[3][:30]) + LAST_CHUNK)


# Refusals.


def refusal(status: int, message: str, kind: str, code: str, *headers: Header) -> Behaviour:
    async def refuse(connection: Connection, request: Request) -> None:
        await connection.write(whole(status, error_object(message, kind, code), *headers))

    refuse.__doc__ = f"{status} with an error object, {code}"
    refuse.__doc__ += "".join(f", and {name}: {value}" for name, value in headers) + "."
    return refuse


BEHAVIOURS |= {
    "status_400": refusal(400, "The prompt is too long.", "invalid_request_error", "context_length_exceeded"),
    "status_429": refusal(429, "Slow down.", "rate_limit_error", "rate_limited", ("retry-after", "7")),
    "status_500": refusal(500, "The engine failed.", "server_error", "engine_failed"),
    "status_503": refusal(503, "The engine is loading.", "server_error", "engine_loading"),
}


@behaviour
async def status_500_html(connection: Connection, request: Request) -> None:
    """500 with a page for people in place of an error object."""
    page = b"<html><body><h1>Internal Server Error</h1></body></html>"
    await connection.write(head(500, ("content-type", "text/html"), ("content-length", str(len(page)))) + page)


# Lies: status 200, and yet no good answer.


@behaviour
async def error_event(connection: Connection, request: Request) -> None:
    """200, and in place of the answer an error: as the first event of a stream, as the whole body else."""
    failed = error_object("The engine failed.", "server_error", "engine_failed")
    if request.stream:
        await stream_part(connection, request, 0)
        await connection.write(chunk(sse(failed)) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK)
    else:
        await connection.write(whole(200, failed))


@behaviour
async def wrong_usage(connection: Connection, request: Request) -> None:
    """A good answer whose usage is nonsense: negative, fractions, text, and far too large."""
    usage = {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": 1e300, "prompt_tokens_details": [None]}
    if request.stream:
        await connection.write(head(200, SSE_TYPE, CHUNKED))
        *said, done = events(connection, request)
        for event in [*said, sse({"id": "x", "object": "chat.completion.chunk", "choices": [], "usage": usage}), done]:
            await connection.write(chunk(event))
        await connection.write(LAST_CHUNK)
    else:
        await connection.write(whole(200, {**completion(connection, request), "usage": usage}))


@behaviour
async def html(connection: Connection, request: Request) -> None:
    """200 with a page for people, as a portal between router and engine gives."""
    page = b"<html><body>Please log in.</body></html>"
    await connection.write(head(200, ("content-type", "text/html"), ("content-length", str(len(page)))) + page)


@behaviour
async def not_json(connection: Connection, request: Request) -> None:
    """200 that says it is JSON, and is not."""
    await connection.write(head(200, JSON_TYPE, ("content-length", "9")) + b'{"cut": [')
