"""What answers are made of, good and bad: heads, chunks, events, completions, and the table that behaviours go into.

Called by the modules of behaviours, and by tests that build a behaviour of their own. It must not decide anything.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from .request_reader import Request

if TYPE_CHECKING:
    from .worker import Connection

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


def is_embedding(request: Request) -> bool:
    return request.path.partition("?")[0].endswith("/v1/embeddings")


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


async def begin(connection: Connection, request: Request, count: int) -> None:
    """The head, and then `count` events with content, or as many tenths of a plain body; -1 for the head alone."""
    await connection.write(head(200, SSE_TYPE if request.stream else JSON_TYPE, CHUNKED))
    if count < 0:
        return
    if request.stream:
        opening, *said = events(connection, request)
        await connection.write(chunk(opening))
        for number in range(count):
            await connection.write(chunk(said[number % len(ANSWER_TOKENS)]))
    elif count:
        body = json.dumps(completion(connection, request)).encode()
        await connection.write(chunk(body[: len(body) * count // 10]))


async def end_well(connection: Connection, request: Request, last: bytes) -> None:
    """The end of what `begin` began, as its framing has it."""
    await connection.write((chunk(last) if last and request.stream else b"") + LAST_CHUNK)
