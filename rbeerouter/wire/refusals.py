"""What a worker's answer with an error status means for the request: may another worker do better, and when?

`wire.exchange` asks when the head of such an answer has come, and again when it is whole. Answers with other statuses
never come here.
"""

from __future__ import annotations

import email.utils
import re

import msgspec

from rbeerouter.core.errors import FAILURES, Failure
from rbeerouter.wire.headers import RawHeaders, Shape

_FULL = frozenset({429, 503, 529})
"""No room at the moment (529 is Anthropic's): nothing was generated."""
_BROKEN = frozenset({424, 500, 502, 504})
"""The worker, or something behind it, failed (424 is TGI's for a generation that did)."""
_OVERLOADED, _ERROR_STATUS = FAILURES["upstream_overloaded"], FAILURES["upstream_error_status"]
_CLIENTS_FAULT = re.compile(rb'"(?:code|status)"\s*:\s*"?4(?!29)\d\d\b')
_MOST_DIGITS = 12


class OwnError(msgspec.Struct, frozen=True):
    """An error that a worker answered with, kept until it is certain that nobody does better."""

    status: int
    lines: bytes
    body: bytes


def verdict(status: int) -> Failure | None:
    """The failure that this status tells of; None when the answer is the client's business, good or bad."""
    if status < 400:
        return None
    return _OVERLOADED if status in _FULL else _ERROR_STATUS if status in _BROKEN else None


def is_clients_fault(events: bytes) -> bool:
    """Does an error in a stream say that the request is to blame, as a status from 400 to 499 would?"""
    return _CLIENTS_FAULT.search(events) is not None


def is_shown(body: bytes) -> bool:
    """Is this an error that a client can read? Anything but a JSON object is not: a page of HTML, nothing at all."""
    try:
        return bool(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except (msgspec.MsgspecError, UnicodeDecodeError):
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


def _number(given: bytes | None) -> float | None:
    given = given.strip() if given is not None else b""
    return float(given) if re.fullmatch(rb"\d{1,%d}(?:\.\d{1,6})?" % _MOST_DIGITS, given) else None
