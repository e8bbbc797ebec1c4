"""Anthropic's Messages surface: our failures as its errors, and what the events of its streams mean.

Called by `wire` through `surfaces`. Source of the shapes: Anthropic's API reference, and the streams of llama.cpp and
vLLM, which speak it, too. `translation` turns its requests into OpenAI's for workers that do not.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from rbeerouter.core.errors import Failure
from rbeerouter.dialects import worker_errors

_encode = msgspec.json.Encoder().encode

_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 503: "overloaded_error", 504: "timeout_error",
    529: "overloaded_error",
}  # fmt: skip
"""Its error types by status. 503 is how we say that no worker has room, which it says with 529."""


def error_type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_text(status: int, message: str) -> bytes:
    return _encode({"type": "error", "error": {"type": error_type(status), "message": message}})


def error_body(failure: Failure, message: str, param: str | None = None) -> bytes:
    """Its error object, which has no place for the field that it is about: the message names it."""
    return error_text(failure.status, message)


class _Error(msgspec.Struct):
    type: str
    message: str


class _Told(msgspec.Struct):
    type: Literal["error"]
    error: _Error


_decode_told = msgspec.json.Decoder(_Told).decode


def error_from(status: int, body: bytes) -> bytes:
    """A worker's error as it is, if it has the shape of the protocol, else put into it: llama.cpp's has OpenAI's."""
    try:
        _decode_told(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return error_text(status, worker_errors.in_body(body) or f"the worker answered {status}")
    return body


def error_event(failure: Failure, message: str) -> bytes:
    """The same inside a stream: its SDKs see it only by the name of the event."""
    return b"event: error\ndata: " + error_body(failure, message) + b"\n\n"


_OPENING = re.compile(rb'"type"\s*:\s*"(?:message_start|ping)"')
_BLOCK_START = re.compile(rb'"type"\s*:\s*"content_block_start"')
_EMPTY_BLOCK = re.compile(rb'"type"\s*:\s*"(?:text|thinking)"')
_TEXT = re.compile(rb'"(?:text|thinking)"\s*:\s*"[^"]')
_EMPTY_DELTA = re.compile(rb'"(?:text|thinking|partial_json)"\s*:\s*""')
_ENDED = re.compile(rb'(?:^|\n)event: ?(?:message_stop|error)\b|"type"\s*:\s*"message_stop"')


def has_content(events: bytes) -> bool:
    """Has a stream begun to say anything? message_start, ping and the start of an empty block say nothing yet."""
    return _first_said(events) is not None


def error_in(events: bytes) -> str | None:
    """What went wrong, if the first event that says something tells of an error."""
    event = _first_said(events)
    return None if event is None or b"error" not in event else worker_errors.in_event(event)


def _first_said(events: bytes) -> bytes | None:
    whole, _, _ = events.replace(b"\r\n", b"\n").rpartition(b"\n\n")
    if whole:
        for event in whole.split(b"\n\n"):
            if not _is_opening(event):
                return event
    return None


def _is_opening(event: bytes) -> bool:
    if b"data:" not in event or _OPENING.search(event):
        return b"event: error" not in event
    if _BLOCK_START.search(event):
        return _EMPTY_BLOCK.search(event) is not None and not _TEXT.search(event)
    return b"content_block_delta" in event and _EMPTY_DELTA.search(event) is not None


def is_finished(tail: bytes) -> bool:
    """message_stop is the last event of every whole stream."""
    return _ENDED.search(tail) is not None


_FAILED = re.compile(rb"(?:^|\n)event: ?error\b")


def is_failed(tail: bytes) -> bool:
    """Is the last that a stream says an error?"""
    return b"error" in tail and _FAILED.search(tail) is not None


_INPUT, _CREATED, _READ, _OUTPUT = (
    re.compile(rb'"%b"\s*:\s*(\d{1,15})' % name)
    for name in (b"input_tokens", b"cache_creation_input_tokens", b"cache_read_input_tokens", b"output_tokens")
)


def usage(tail: bytes) -> tuple[int | None, int | None]:
    """(tokens in, tokens out) as the end of an answer states them, None where it does not.

    Tokens that came out of the worker's cache, or went into it, are counted apart there, and are in all the same.
    """
    start = tail.rfind(b'"usage"')
    if start < 0:
        return None, None
    written = _OUTPUT.search(tail, start)
    return _tokens_in(tail, start, len(tail)), (int(written[1]) if written else None)


def tokens_read(held: bytes) -> int | None:
    """Tokens in as message_start states them: many engines leave them out at the end of a stream."""
    start = held.find(b'"usage"')
    return None if start < 0 else _tokens_in(held, start, held.find(b"\n", start))


def _tokens_in(text: bytes, start: int, end: int) -> int | None:
    read = _INPUT.search(text, start, end)
    cached = [found for pattern in (_CREATED, _READ) if (found := pattern.search(text, start, end))]
    return int(read[1]) + sum(int(found[1]) for found in cached) if read else None
