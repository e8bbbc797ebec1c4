"""A constant load: so many requests a second, however fast the answers come.

Called by probes.py; wrk cannot do it. Answers must have a content-length.
"""

from __future__ import annotations

import asyncio
import re
import time

from .processes import Failed

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


class _Connection(asyncio.Protocol):
    """One keep-alive connection, which answers one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.sent_at = 0.0
        self.problem = ""
        self.answered: asyncio.Future[float] | None = None
        self._received = bytearray()

    def ask(self, request: bytes) -> asyncio.Future[float]:
        """Milliseconds until the last byte of the answer."""
        self.answered = asyncio.get_running_loop().create_future()
        self._received.clear()
        self.sent_at = time.perf_counter()
        self.transport.write(request)
        return self.answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received[: end + 2]) if end >= 0 else None
        if length is None or len(self._received) < end + 4 + int(length[1]) or self.answered is None:
            return
        if not self._received.startswith(b"HTTP/1.1 200 "):
            self._fail(f"an answer that is no 200: {bytes(self._received[:200])!r}")
        elif not self.answered.done():
            self.answered.set_result((time.perf_counter() - self.sent_at) * 1000)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(f"a connection was lost: {error!r}")

    def _fail(self, problem: str) -> None:
        if self.answered is not None and not self.answered.done():
            self.answered.set_exception(Failed(problem))


async def constant_load(
    port: int, body: bytes, requests_per_s: int, connection_count: int, seconds: float
) -> list[float]:
    """Ask at that pace for so long; how many milliseconds each answer took.

    Raises:
        Failed: when an answer is no 200, or no connection is free for a request whose time has come.
    """
    loop = asyncio.get_running_loop()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    made = [await loop.create_connection(_Connection, "127.0.0.1", port) for _ in range(connection_count)]
    free = [connection for _, connection in made]
    took: list[float] = []

    def answered(connection: _Connection, answer: asyncio.Future[float]) -> None:
        took.append(answer.result())
        free.append(connection)

    running: set[asyncio.Future[float]] = set()
    began = loop.time()
    for number in range(int(seconds * requests_per_s)):
        await asyncio.sleep(max(0.0, began + number / requests_per_s - loop.time()))
        if not free:
            raise Failed(f"{connection_count} requests at once are not answered at {requests_per_s} requests/s")
        connection = free.pop()
        answer = connection.ask(request)
        running.add(answer)
        answer.add_done_callback(running.discard)
        answer.add_done_callback(lambda done, connection=connection: answered(connection, done))  # type: ignore[misc]
    if running:
        await asyncio.wait(running, timeout=5.0)
    if len(took) != int(seconds * requests_per_s):
        raise Failed(f"{int(seconds * requests_per_s) - len(took)} requests were not answered")
    for transport, _ in made:
        transport.close()
    return took
