"""What a worker's answer with an error status means for the request: may another worker do better, and when?

`wire.exchange` asks when the head of such an answer has come, and again when it is whole. Answers with other statuses
never come here.
"""

from __future__ import annotations

import email.utils
import re

import msgspec

from rbeerouter.core.errors import FAILURES, Failure, retry_after
from rbeerouter.dialects.engines import errors
from rbeerouter.wire.headers import RawHeaders, Shape, with_headers

_HELD = frozenset({401, 404, 424, 425, 429})
"""Besides those from 500 on, statuses that may be the worker's fault: our key, a model it lost, a generation that
failed (TGI's 424), no room. All others are the client's business."""
_ANONYMOUS = frozenset({"openai", "auto"})
"""Of these engines nothing more is known than that they speak OpenAI's protocol."""
_FAILURES = {
    errors.FULL: FAILURES["upstream_overloaded"], errors.LOADING: FAILURES["upstream_overloaded"],
    errors.BROKEN: FAILURES["upstream_error_status"], errors.MISSING: FAILURES["upstream_unusable"],
    errors.UNAUTHORIZED: FAILURES["upstream_unusable"],
}  # fmt: skip
_CLIENTS_FAULT = re.compile(rb'"(?:code|status)"\s*:\s*"?4(?!29)\d\d\b')
_MOST_DIGITS = 12


class OwnError(msgspec.Struct, frozen=True):
    """An error that a worker answered with, kept until it is certain that nobody does better."""

    status: int
    lines: bytes
    body: bytes


def is_held(status: int) -> bool:
    """Must an answer be read whole before it is known whose business it is?"""
    return status >= 500 or status in _HELD


def verdict(engine: str, status: int, body: bytes) -> Failure | None:
    """The failure that an answer tells of; None when it is the client's business."""
    meaning = errors.meaning(engine, status, body)
    if status == 503 and meaning == errors.BROKEN and engine in _ANONYMOUS:
        meaning = errors.FULL                                  # what HTTP says of 503, where no engine says otherwise
    return _FAILURES.get(meaning)


def is_clients_fault(events: bytes) -> bool:
    """Does an error in a stream say that the request is to blame, as a status from 400 to 499 would?"""
    return _CLIENTS_FAULT.search(events) is not None


def is_shown(body: bytes) -> bool:
    """Is this an error that a client can read? Anything but a JSON object is not: a page of HTML, nothing at all."""
    try:
        return bool(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def retry_after_s(shape: Shape, raw: RawHeaders, wall: float) -> float | None:
    """When the worker wants to be asked again, in seconds from now; None when it does not say.

    `retry-after-ms` (milliseconds, as the OpenAI SDKs know it) goes before `retry-after`, which is seconds or a date
    (RFC 9110 section 10.2.3).
    """
    milliseconds = _number(shape.get(raw, b"retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    given = shape.get(raw, b"retry-after")
    seconds = _number(given)
    if seconds is not None or given is None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given.decode("latin-1")).timestamp() - wall)
    except (ValueError, OverflowError):
        return None


def shown_lines(shape: Shape, raw: RawHeaders, wall: float) -> bytes:
    """The header lines of a worker's error as a client may see them: nobody is sent away for longer than the router
    itself would, and SDKs do not try again what the router did not.
    """
    lines = shape.lines(raw)
    ours = [("x-should-retry", "false")]
    if b"\nretry-after" in lines or lines.startswith(b"retry-after"):
        seconds = retry_after(retry_after_s(shape, raw, wall) or 0.0)
        ours += [("retry-after", str(seconds)), ("retry-after-ms", str(1000 * seconds))]
    return with_headers(lines, ours)


def _number(given: bytes | None) -> float | None:
    given = given.strip() if given is not None else b""
    return float(given) if re.fullmatch(rb"\d{1,%d}(?:\.\d{1,6})?" % _MOST_DIGITS, given) else None
