"""The few public paths that the control plane answers: everything else of it stays off the public listener.

`listener` starts a `Relay` where it would start an `Exchange` for an inference request. The control plane is called
inside the process, as the ASGI application it is, so this works whatever address it is bound to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from rbeerouter import tasks
from rbeerouter.core.errors import FAILURES
from rbeerouter.wire.headers import status_line

if TYPE_CHECKING:
    from rbeerouter.wire.listener import ClientConnection

PUBLIC_PATHS = {
    b"/health": b"/health",
    b"/api/v1/health": b"/api/v1/health",
    b"/v1/models": b"/v1/models",
    b"/api/tags": b"/api/tags",
    b"/api/ps": b"/api/ps",
    b"/api/version": b"/api/version",
    b"/": b"/api/alive",
}
"""{public path: the control plane's}: read-only, and the same for every caller. `/v1/models/NAME` is one, too."""
_MODEL = b"/v1/models/"


def relayed(path: bytes) -> bytes | None:
    """The path at the control plane for a public one; None when it is not public."""
    found = PUBLIC_PATHS.get(path)
    return path if found is None and path.startswith(_MODEL) and len(path) > len(_MODEL) else found


Asgi = Callable[..., Awaitable[None]]


class Relay:
    """One GET or HEAD handed to the control plane."""

    def __init__(self, client: ClientConnection, app: Asgi, method: str, path: bytes) -> None:
        self.client = client
        self._app = app
        self._method = method
        self._path = path
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = tasks.start(f"relay {self._path[:100].decode('latin-1')}", self._run())

    async def _run(self) -> None:
        status, headers, body = 500, [], b""
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        path = unquote_to_bytes(self._path).decode("utf-8", "replace")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": self._method,
            "scheme": "http", "path": path, "raw_path": self._path, "query_string": b"",
            "headers": [(b"host", b"public")], "client": None, "server": None, "root_path": "",
        }  # fmt: skip
        try:
            await self._app(scope, receive, send)
        except Exception:
            self.client.answer_failure(FAILURES["internal_error"], "the control plane failed to answer")
            self.client.exchange_done()
            raise
        for message in sent:
            if message["type"] == "http.response.start":
                status, headers = message["status"], message["headers"]
            else:
                body += message.get("body", b"")
        lines = b"".join(b"%b: %b\r\n" % (name, value) for name, value in headers if name != b"content-length")
        closing = b"" if self.client.keep_alive else b"connection: close\r\n"
        head = b"%b%bcontent-length: %d\r\n%b\r\n" % (status_line(status), lines, len(body), closing)
        self.client.transport.write(head if self._method == "HEAD" else head + body)
        self.client.exchange_done()

    def client_gone(self, code: str = "client_gone") -> None:
        if self._task is not None:
            self._task.cancel()
        self.client.exchange_done()

    def pause(self) -> None:
        """Its answers are small; there is nothing to slow down."""

    def resume(self) -> None:
        pass

    def check(self, now: float) -> None:
        """The control plane answers from memory; it has no deadline of its own."""
