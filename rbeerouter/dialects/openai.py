"""OpenAI's surface: our failures as its error object, and what the events of its streams mean.

Called by `wire` through `surfaces`. Source of the shapes: OpenAI's API reference; the traps are those seen in the
streams of vLLM and llama.cpp.
"""

from __future__ import annotations

import re

import msgspec

from rbeerouter.core.errors import Failure
from rbeerouter.dialects import worker_errors

_encode = msgspec.json.Encoder().encode


def error_body(failure: Failure, message: str, param: str | None = None) -> bytes:
    """OpenAI's error object."""
    error = {"message": message, "type": failure.type, "param": param, "code": failure.code}
    return _encode({"error": error})


def error_event(failure: Failure, message: str) -> bytes:
    """The same inside a stream. No [DONE] may follow it: SDKs take a clean end for success."""
    return b"data: " + error_body(failure, message) + b"\n\n"


_DELTA = re.compile(rb'"delta"\s*:\s*\{([^{}]*)\}')
_SOMETHING = re.compile(rb'"(?!role")\w+"\s*+:\s*+(?!null|""|\[\s*\])')
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_REASON = re.compile(rb'"finish_reason"\s*:\s*(.)')
_OPENING = re.compile(rb"event: ?response\.(?:created|queued|in_progress)\n")
_COMMENTS = re.compile(rb"^:.*\n?", re.MULTILINE)
_DONE = (b"\ndata: [DONE]\n\n", b"\ndata: [DONE]\r\n\r\n")
"""How nearly every stream ends."""
_ENDED = re.compile(rb"(?:^|[\r\n])(?:data: ?\[DONE\]|event: ?(?:error|response\.(?:completed|incomplete|failed))\b)")
_RESPONDED = re.compile(
    rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"|"usage"\s*:\s*\{\s*"input_tokens"'
)
"""The last event of the Responses API. Only its end may be at hand, as it repeats the whole answer."""


def has_content(events: bytes) -> bool:
    """Has a stream begun to say anything? False while it holds only comments and openings without content.

    Only events known to be empty count as such (an opening chunk with a role alone, response.created and its like, a
    part of an event): of a shape nobody knows, the first event is content.
    """
    return _first_said(events) is not None


def error_in(events: bytes) -> str | None:
    """What went wrong, if the first event that says something tells of an error: its status is 200 all the same."""
    event = _first_said(events)
    if event is None or (b"error" not in event and b"failed" not in event):
        return None
    return worker_errors.in_event(event)


def _first_said(events: bytes) -> bytes | None:
    whole, _, _ = events.replace(b"\r\n", b"\n").rpartition(b"\n\n")
    if whole:
        for event in whole.split(b"\n\n"):
            if event.strip() and not _is_opening(event):
                return event
    return None


def _is_opening(event: bytes) -> bool:
    event = _COMMENTS.sub(b"", event).strip()
    if not event or _OPENING.match(event + b"\n"):
        return True
    deltas = _DELTA.findall(event)
    return bool(deltas) and not _FINISHED.search(event) and not any(_SOMETHING.search(delta) for delta in deltas)


def is_finished(tail: bytes) -> bool:
    """Does the end of a stream say that it is the end? By its last event, or by the last choice that was told of."""
    if tail.endswith(_DONE):
        return True
    if (b"[DONE]" in tail or b"event:" in tail) and _ENDED.search(tail) is not None:
        return True
    if (b'"response.' in tail or b'"input_tokens"' in tail) and _RESPONDED.search(tail) is not None:
        return True
    at = tail.rfind(b'"finish_reason"')
    while at >= 0:
        told = _REASON.match(tail, at)
        if told is not None:                                  # else it is cut off
            return told[1] == b'"'
        at = tail.rfind(b'"finish_reason"', 0, at)
    return False


_FAILED = re.compile(
    rb'(?:^|\n)(?:data: ?\{\s*"(?:error"\s*:\s*[{"]|object"\s*:\s*"error")|event: ?(?:error|response\.failed)\b)'
)


def is_failed(tail: bytes) -> bool:
    """Is the last that a stream says an error? Some send [DONE] behind it."""
    start = tail.rfind(b"\n\n", 0, -2)
    if tail.startswith(b"data: [DONE]", start + 2):
        start = tail.rfind(b"\n\n", 0, max(start, 0))
    return (_FAILED.search(tail) if start < 0 else _FAILED.match(tail, start + 1)) is not None


_PROMPT, _COMPLETION, _INPUT, _OUTPUT = (
    re.compile(rb'"%b_tokens"\s*:\s*(\d{1,15})' % name) for name in (b"prompt", b"completion", b"input", b"output")
)


def usage(tail: bytes) -> tuple[int | None, int | None]:
    """(tokens in, tokens out) as the end of an answer states them, None where it does not."""
    start = tail.rfind(b'"usage"')
    if start < 0:
        return None, None
    tokens_in = _PROMPT.search(tail, start) or _INPUT.search(tail, start)
    tokens_out = _COMPLETION.search(tail, start) or _OUTPUT.search(tail, start)
    return (int(tokens_in[1]) if tokens_in else None), (int(tokens_out[1]) if tokens_out else None)
