"""Everything a fault worker can do with a request, good and bad: the table BEHAVIOURS, name -> async function.

Called by tests/support/fault_worker.py, and by tests that build a behaviour of their own from these parts. A behaviour
must answer through the connection it is given only and start no task; when the peer leaves, it is cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from tests.support.request_reader import Request

if TYPE_CHECKING:
    from tests.support.fault_worker import Connection

Behaviour = Callable[["Connection", Request], Awaitable[None]]
Header = tuple[str, str]

BEHAVIOURS: dict[str, Behaviour] = {}

ANSWER_TOKENS = ("one", " two", " three", " four", " five")
ANSWER_TEXT = "".join(ANSWER_TOKENS)
USAGE = {"prompt_tokens": 3, "completion_tokens": len(ANSWER_TOKENS), "total_tokens": 3 + len(ANSWER_TOKENS)}
POISON = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 17\r\n\r\n{"poisoned":true}'
BIG_ANSWER_BYTES = 2_000_000
ENDLESS_BURST_EVENTS = 16

JSON_TYPE: Header = ("content-type", "application/json")
SSE_TYPE: Header = ("content-type", "text/event-stream")
CHUNKED: Header = ("transfer-encoding", "chunked")
CLOSE: Header = ("connection", "close")
LAST_CHUNK = b"0\r\n\r\n"
REASONS = {200: "OK", 400: "Bad Request", 429: "Too Many Requests", 500: "Internal Server Error"}


def behaviour(function: Behaviour) -> Behaviour:
    """Put a function into BEHAVIOURS under its own name."""
    BEHAVIOURS[function.__name__] = function
    return function


# Parts of answers.


def head(status: int, *headers: Header, version: str = "1.1") -> bytes:
    fields = (f"{name}: {value}" for name, value in headers)
    return "\r\n".join([f"HTTP/{version} {status} {REASONS.get(status, 'Whatever')}", *fields, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(status: int, payload: object, *headers: Header, version: str = "1.1") -> bytes:
    """A JSON answer with its content-length."""
    body = json.dumps(payload).encode()
    return head(status, JSON_TYPE, ("content-length", str(len(body))), *headers, version=version) + body


def completion(connection: Connection, request: Request, text: str = ANSWER_TEXT) -> dict[str, Any]:
    chat = is_chat(request)
    said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        **envelope(connection, request, "chat.completion" if chat else "text_completion"),
        "choices": [{"index": 0, **said, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def events(connection: Connection, request: Request) -> list[bytes]:
    """A streamed answer: an opening without content, five events with content, the finish, usage if asked, [DONE]."""
    chat = is_chat(request)
    base = envelope(connection, request, "chat.completion.chunk" if chat else "text_completion")

    def event(said: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return sse({**base, "choices": [{"index": 0, **said, "finish_reason": finish_reason}]})

    made = [event({"delta": {"role": "assistant", "content": ""}} if chat else {"text": ""})]
    made += [event({"delta": {"content": token}} if chat else {"text": token}) for token in ANSWER_TOKENS]
    made.append(event({"delta": {}} if chat else {"text": ""}, "stop"))
    if wants_usage(request):
        made.append(sse({**base, "choices": [], "usage": USAGE}))
    return [*made, b"data: [DONE]\n\n"]


def sse(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def envelope(connection: Connection, request: Request, kind: str) -> dict[str, Any]:
    """What every piece of an answer carries; the fingerprint is the worker's name, to tell who answered."""
    identity = f"answer-{connection.worker.name}-{len(connection.worker.requests)}"
    fingerprint = connection.worker.name
    return {"id": identity, "object": kind, "created": 1, "model": request.model, "system_fingerprint": fingerprint}


def is_chat(request: Request) -> bool:
    return not request.path.partition("?")[0].endswith("/v1/completions")


def wants_usage(request: Request) -> bool:
    if b'"include_usage"' not in request.body:
        return False
    options = request.json().get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def error_object(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def stream_part(connection: Connection, request: Request, count: int) -> None:
    """The head of a chunked stream and its first `count` events, however the request asked to be answered."""
    await connection.write(head(200, SSE_TYPE, CHUNKED))
    for event in events(connection, request)[:count]:
        await connection.write(chunk(event))


# Good answers in every framing.


async def answer(
    connection: Connection, request: Request, headers: Iterable[Header] = (), delay_s: float = 0.0
) -> None:
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
async def hang_after_2(connection: Connection, request: Request) -> None:
    """A stream that falls silent after two events with content."""
    await stream_part(connection, request, 3)
    await connection.until_peer_leaves()


# Closed and reset connections.


@behaviour
async def close_before_head(connection: Connection, request: Request) -> None:
    connection.close()


@behaviour
async def reset_before_head(connection: Connection, request: Request) -> None:
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


# Refusals.


def refusal(status: int, message: str, kind: str, code: str, *headers: Header) -> Behaviour:
    async def refuse(connection: Connection, request: Request) -> None:
        await connection.write(whole(status, error_object(message, kind, code), *headers))

    return refuse


BEHAVIOURS |= {
    "status_400": refusal(400, "The prompt is too long.", "invalid_request_error", "context_length_exceeded"),
    "status_429": refusal(429, "Slow down.", "rate_limit_error", "rate_limited", ("retry-after", "7")),
    "status_500": refusal(500, "The engine failed.", "server_error", "engine_failed"),
    "status_503": refusal(503, "The engine is loading.", "server_error", "engine_loading"),
}


# Answers that break, or strain, the rules of HTTP.


@behaviour
async def garbage(connection: Connection, request: Request) -> None:
    """Bytes that are not HTTP; the connection stays open, so the peer has to notice by itself."""
    await connection.write(b"\x00\x01\xffSSH-2.0-not-http\r\n\r\n")
    await connection.until_peer_leaves()


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
