"""Turns the bytes of a keep-alive connection into whole HTTP/1.1 requests, for the fault worker.

Called by worker.py. It must not be lenient: what it refuses, a router must never send to a worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Headers = list[tuple[bytes, bytes]]

REQUEST_LINE = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]")
HEADER_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")


class MalformedRequest(ValueError):
    """A request that no careful server would accept."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived: header names in their original spelling, the body without its framing."""

    method: str
    path: str
    headers: Headers
    body: bytes
    connection: int
    when: float
    model: str = ""
    stream: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> bytes | None:
        """The first value under that name in any spelling, or None."""
        return find(self.headers, name.lower().encode())


class RequestReader:
    """Collects bytes and gives out each request once its last byte is there."""

    def __init__(self, connection: int) -> None:
        self._connection = connection
        self._buffer = bytearray()
        self._body = bytearray()
        self._head: tuple[str, str, Headers] | None = None
        self._body_left: int | None = None

    @property
    def holds_part(self) -> bool:
        """Whether a request has begun and not ended."""
        return bool(self._buffer) or self._head is not None

    def feed(self, data: bytes, when: float) -> Iterator[Request]:
        self._buffer += data
        while self._head is not None or self._take_head():
            if not self._take_body():
                return
            assert self._head is not None
            method, path, headers = self._head
            body = bytes(self._body)
            model, stream = peek(body)
            yield Request(method, path, headers, body, self._connection, when, model, stream)
            self._head = None
            self._body.clear()

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        request_line = REQUEST_LINE.fullmatch(first)
        if request_line is None:
            raise MalformedRequest(f"request line {first!r}")
        headers = []
        for line in lines:
            header = HEADER_LINE.fullmatch(line)
            if header is None:
                raise MalformedRequest(f"header line {line!r}")
            headers.append((header[1], header[2].rstrip(b" \t")))
        self._body_left = framing(headers)
        self._head = (request_line[1].decode(), request_line[2].decode("latin-1"), headers)
        return True

    def _take_body(self) -> bool:
        if self._body_left is None:
            return self._take_chunks()
        taken = self._buffer[: self._body_left]
        del self._buffer[: self._body_left]
        self._body += taken
        self._body_left -= len(taken)
        return self._body_left == 0

    def _take_chunks(self) -> bool:
        """Move whole chunks from the buffer to the body; True after the last one and its trailers."""
        while (line_end := self._buffer.find(b"\r\n")) >= 0:
            size_field = bytes(self._buffer[:line_end]).partition(b";")[0]
            if re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size_field) is None:
                raise MalformedRequest(f"chunk size {size_field!r}")
            size = int(size_field, 16)
            if size == 0:
                end = self._buffer.find(b"\r\n\r\n", line_end)
                if end < 0:
                    return False
                del self._buffer[: end + 4]
                return True
            end = line_end + 2 + size
            if len(self._buffer) < end + 2:
                return False
            if self._buffer[end : end + 2] != b"\r\n":
                raise MalformedRequest("a chunk longer than its size")
            self._body += self._buffer[line_end + 2 : end]
            del self._buffer[: end + 2]
        return False


def find(headers: Headers, name: bytes) -> bytes | None:
    return next((value for key, value in headers if key.lower() == name), None)


def framing(headers: Headers) -> int | None:
    """The length of the body, or None when it comes in chunks."""
    names = [key.lower() for key, _ in headers]
    if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
        raise MalformedRequest("more than one of content-length and transfer-encoding")
    coding, length = find(headers, b"transfer-encoding"), find(headers, b"content-length")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise MalformedRequest(f"transfer-encoding {coding!r}")
        return None
    if length is None:
        return 0
    if not length.isdigit():
        raise MalformedRequest(f"content-length {length!r}")
    return int(length)


def peek(body: bytes) -> tuple[str, bool]:
    """The `model` and `stream` of a JSON body; a body that is anything else has neither."""
    try:
        payload = json.loads(body) if body else None
    except ValueError:
        return "", False
    if not isinstance(payload, dict):
        return "", False
    model = payload.get("model")
    return model if isinstance(model, str) else "", payload.get("stream") is True
