"""What is asked of every router, and whether what came back is right.

Called by run.py: the bodies go to wrk, and check_answer() asks once in Python before and
after each measured run, because wrk counts statuses but does not look into the answers.
"""

from __future__ import annotations

import io
import json
import socket
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse

from . import workers
from .processes import Failed

_WORDS = (
    "Please read the following note and answer in one sentence.\n"
    'The author wrote: "a request is routed by its model, its user and the load of each '
    'worker", and added that a queue forms when nobody is free. '
)


@dataclass(frozen=True)
class Case:
    """One kind of request."""

    name: str
    title: str
    prompt_bytes: int
    stream: bool
    paced: bool = False

    def body(self) -> bytes:
        prompt = _WORDS * (self.prompt_bytes // len(_WORDS) + 1)
        prompt = ((workers.PACED_MARK if self.paced else "") + prompt)[: self.prompt_bytes]
        request = {
            "model": "tiny",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 128,
            "temperature": 0.7,
            "stream": self.stream,
            "user": "alice",
        }
        return json.dumps(request, separators=(",", ":")).encode()


CASES = {
    case.name: case
    for case in (
        Case("short", "1 KB prompt, no stream", 1024, stream=False),
        Case("long", "16 KB prompt, no stream", 16 * 1024, stream=False),
        Case("stream", "1 KB prompt, SSE stream of 100 events, at full speed", 1024, stream=True),
        Case(
            "paced",
            f"1 KB prompt, SSE stream of 100 events, {workers.PAUSE_MS} ms apart",
            1024,
            stream=True,
            paced=True,
        ),
    )
}


@dataclass(frozen=True)
class Answer:
    """A right answer, and how it arrived: its size, and in how many pieces it was read."""

    byte_count: int  # head and body, as on the wire
    read_count: int


def check_answer(port: int, case: Case, timeout_seconds: float = 5.0) -> Answer:
    """Ask once; raise Failed unless the status is 200 and the content is the worker's."""
    try:
        raw, read_count = _exchange(port, case.body(), timeout_seconds)
        response = HTTPResponse(_Received(raw))  # type: ignore[arg-type]
        response.begin()
        body = response.read()
    except (OSError, HTTPException) as error:
        raise Failed(f"{case.name}: {type(error).__name__}: {error}") from error
    if response.status != 200:
        raise Failed(f"{case.name}: status {response.status}: {body[:200]!r}")
    try:
        _check_stream(body) if case.stream else _check_completion(body)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Failed(f"{case.name}: wrong answer ({error!r}): {body[:200]!r}") from error
    return Answer(len(raw), read_count)


def wait_for_health(port: int, path: str, deadline: float) -> bool:
    """Whether GET PATH answered 200 before DEADLINE (in time.monotonic() seconds)."""
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
    while time.monotonic() < deadline:
        try:
            raw, _ = _send(port, request, timeout_seconds=2.0)
        except OSError:
            raw = b""
        if raw.split(b" ", 2)[1:2] == [b"200"]:
            return True
        time.sleep(0.1)
    return False


def _exchange(port: int, body: bytes, timeout_seconds: float) -> tuple[bytes, int]:
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return _send(port, head.encode() + body, timeout_seconds)


def _send(port: int, request: bytes, timeout_seconds: float) -> tuple[bytes, int]:
    """Send REQUEST, read until the connection closes: the bytes and the number of reads."""
    pieces = []
    with socket.create_connection(("127.0.0.1", port), timeout_seconds) as connection:
        connection.sendall(request)
        while piece := connection.recv(1 << 20):
            pieces.append(piece)
    return b"".join(pieces), len(pieces)


class _Received:
    """Bytes already read, in the shape of the socket that HTTPResponse wants."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _check_completion(body: bytes) -> None:
    answer = json.loads(body)
    if answer["choices"][0]["message"]["content"] != workers.CONTENT:
        raise ValueError("content differs")
    if answer["usage"]["total_tokens"] != 288:
        raise ValueError("usage differs")


def _check_stream(body: bytes) -> None:
    lines = [line for line in body.decode().splitlines() if line.startswith("data: ")]
    if lines[-1] != "data: [DONE]":
        raise ValueError("no [DONE] at the end")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    content = "".join(choice["delta"].get("content") or "" for choice in choices)
    if content != workers.stream_content():
        raise ValueError("content differs")
    if choices[-1]["finish_reason"] != "stop":
        raise ValueError("no finish_reason at the end")
