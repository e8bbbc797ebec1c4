"""Ollama's native surface: our failures as its errors, and what the lines of its streams mean.

Called by `wire` through `surfaces`. Its streams are JSON objects, one a line; the last has "done": true. Source of the
shapes: Ollama's API reference and its api/types.go.
"""

from __future__ import annotations

import re

import msgspec

from rbeerouter.core.errors import Failure
from rbeerouter.dialects import worker_errors

_encode = msgspec.json.Encoder().encode


def error_body(failure: Failure, message: str, param: str | None = None) -> bytes:
    """Its error is a text: clients print what stands there as it is, and an object would be shown raw. For a model that
    is not there it has words that they look for."""
    return _encode({"error": f"model not found: {message}" if failure.code == "model_not_found" else message})


class _Told(msgspec.Struct):
    error: str


_decode_told = msgspec.json.Decoder(_Told).decode


def error_from(status: int, body: bytes) -> bytes:
    """A worker's error as it is, if it is a text, else put into one: a proxy before the worker answers as it likes."""
    try:
        _decode_told(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _encode({"error": worker_errors.in_body(body) or f"the worker answered {status}"})
    return body


def error_event(failure: Failure, message: str) -> bytes:
    """The same as a line of a stream."""
    return error_body(failure, message) + b"\n"


_UNDONE = re.compile(rb'"done"\s*:\s*false')
_SAID = re.compile(rb'"(?:response|content|thinking)"\s*:\s*"[^"]|"tool_calls"\s*:\s*\[\s*\{|"error"\s*:')
_ENDED = re.compile(rb'"done"\s*:\s*true|"total_duration"\s*:|(?:^|\n)\s*\{\s*"error"\s*:')
"""/api/generate ends with all tokens of the context between "done" and the durations."""


def has_content(lines: bytes) -> bool:
    """Has a stream begun to say anything? Lines that are not the last one and have no text do not."""
    return _first_said(lines) is not None


def error_in(lines: bytes) -> str | None:
    """What went wrong, if the first line that says something tells of an error: its status is 200 all the same."""
    line = _first_said(lines)
    return None if line is None or b'"error"' not in line else worker_errors.in_line(line)


def _first_said(lines: bytes) -> bytes | None:
    whole, _, _ = lines.rpartition(b"\n")
    if whole:
        for line in whole.split(b"\n"):
            if line.strip() and (_SAID.search(line) or not _UNDONE.search(line)):
                return line
    return None


def is_finished(tail: bytes) -> bool:
    """The last line of every whole stream says that it is done."""
    return _ENDED.search(tail) is not None


_FAILED = re.compile(rb'(?:^|\n)\s*\{\s*"error"\s*:')


def is_failed(tail: bytes) -> bool:
    """Is the last that a stream says an error?"""
    return b'"error"' in tail and _FAILED.search(tail) is not None


_READ = re.compile(rb'"prompt_eval_count"\s*:\s*(\d{1,15})')
_WRITTEN = re.compile(rb'"eval_count"\s*:\s*(\d{1,15})')


def usage(tail: bytes) -> tuple[int | None, int | None]:
    """(tokens in, tokens out) as the end of an answer states them, None where it does not."""
    start = max(tail.rfind(b"\n", 0, -1), 0)
    tokens_in, tokens_out = _READ.search(tail, start), _WRITTEN.search(tail, start)
    return (int(tokens_in[1]) if tokens_in else None), (int(tokens_out[1]) if tokens_out else None)
