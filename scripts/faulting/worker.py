"""A worker that does to a router whatever a test asks for: good answers, faults and plain nonsense, byte for byte.

Called by cli.py, and by tests in their own event loop: `async with FaultWorker() as worker`. What it does with a
request is `worker.behave`: a name that names.py finds, an async behaviour, a function from the request to either, or a
list of these that is consumed one per request, the last staying. A request for a model spelled `tiny:hang` picks `hang`
by itself. Every GET is a probe: it is answered as `worker.probe` says whatever the behaviour, and recorded apart. The
module must not use an HTTP library, because it has to be able to send what no library would.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Self, cast

from . import control
from .names import BEHAVIOURS, find, named_by
from .parts import Behaviour, head, whole
from .request_reader import MalformedRequest, Request, RequestReader

__all__ = ["BEHAVIOURS", "Behaviour", "Choice", "Connection", "FaultWorker", "MalformedRequest", "Request"]

Choice = str | Callable[[Request], "str | Behaviour"] | Behaviour
Behave = Choice | list[Choice]

Tell = Callable[[dict[str, Any]], None]
"""Who is told of everything that happens, as one flat table each."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
SETTLE_S = 0.02
HANDSHAKE_TIMEOUT_S = 5.0


class Connection(asyncio.Protocol):
    """One accepted connection and the task that answers its requests in turn."""

    def __init__(self, worker: FaultWorker, number: int) -> None:
        self.worker = worker
        self.number = number
        self.serving: Request | None = None
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(number)
        self._pending: deque[Request] = deque()
        self._next_request: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._ending = False
        self._transport: asyncio.Transport

    # What behaviours use.

    async def write(self, data: bytes) -> None:
        """Send bytes, and wait while the socket does not take more."""
        if self._transport.is_closing():
            raise ConnectionResetError(f"connection {self.number} has ended")
        self._transport.write(data)
        self.worker.bytes_sent += len(data)
        if self._writable is not None:
            await self._writable

    def close(self) -> None:
        """End the connection in order, after everything written so far."""
        self._ending = True
        self._transport.close()

    async def reset(self, settle_s: float = SETTLE_S) -> None:
        """End the connection with a TCP reset, after the peer has had `settle_s` to read what was written."""
        await asyncio.sleep(settle_s)
        self._ending = True
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._transport.abort()

    async def until_peer_leaves(self) -> None:
        """Wait for ever: when the peer closes the connection, the behaviour is cancelled."""
        await self._loop.create_future()

    # What the worker uses.

    def drop(self) -> None:
        self._ending = True
        self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self.worker.admit(self):
            self.drop()
            return
        self._task = self.worker.start(self._serve(), name=f"{self.worker.name} connection {self.number}")
        self._start_idle_timer()

    def data_received(self, data: bytes) -> None:
        self._stop_idle_timer()
        try:
            self._pending.extend(self._reader.feed(data, self._loop.time()))
        except MalformedRequest as error:
            self.worker.fail(error)
            self._transport.write(head(400, ("content-length", "0"), ("connection", "close")))
            self.close()
        if self._pending and self._next_request is not None and not self._next_request.done():
            self._next_request.set_result(None)

    def eof_received(self) -> None:
        # Like most engines, a worker takes the end of the peer's bytes for the end of its interest.
        self._note_peer_left()

    def connection_lost(self, error: Exception | None) -> None:
        self._note_peer_left()
        self._stop_idle_timer()
        if self._task is not None:
            self._task.cancel()
        self.worker.forget(self)

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # The life of the connection.

    async def _serve(self) -> None:
        while not self._transport.is_closing():
            if not self._pending:
                self._next_request = self._loop.create_future()
                await self._next_request
            self.serving = self._pending.popleft()
            try:
                await self.worker.answer(self, self.serving)
            except Exception as error:
                # A write to a connection that has just ended is the peer's doing, and noted as that.
                if not (isinstance(error, ConnectionError) and self._transport.is_closing()):
                    self.worker.fail(error)
                self.drop()
            self.serving = None
            self._start_idle_timer()

    def _note_peer_left(self) -> None:
        if (self.serving is not None or self._pending) and not self._ending:
            self.worker.note_closed_by_peer(self)
        self._ending = True

    def _start_idle_timer(self) -> None:
        idle_close_s = self.worker.idle_close_s
        if idle_close_s is not None and not (self._ending or self._pending or self._reader.holds_part):
            self._idle_timer = self._loop.call_later(idle_close_s, self.close)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


class FaultWorker:
    """A scriptable OpenAI-compatible worker on a port of its own, and the record of what reached it."""

    def __init__(
        self,
        behave: Behave = "ok",
        *,
        models: Iterable[str] = ("tiny",),
        name: str = "",
        tls: ssl.SSLContext | None = None,
        send_buffer_bytes: int | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tell: Tell | None = None,
    ) -> None:
        self.behave = behave
        self.models = list(models)
        self.name = name
        self.delay_s = 0.05
        self.idle_close_s: float | None = None
        self.probe = "ok"
        """What becomes of a GET: a good answer, a dropped connection, silence, or a refusal with this status."""
        self.pages: dict[str, bytes] = {}
        self.fails_at_exit = True
        """Whether what no router may send, or a fault in a behaviour, is raised when the worker ends."""
        self.redirect_url = "http://127.0.0.1:9"
        self.requests: list[Request] = []
        self.probes: list[Request] = []
        self.closed_by_peer: list[float] = []
        self.connections_accepted = 0
        self.bytes_sent = 0
        self.host = host
        self.port = port
        self._tell = tell
        self._tls = tls
        # The kernel takes megabytes for a peer that does not read; a small buffer makes back-pressure exact.
        self._send_buffer_bytes = send_buffer_bytes
        self._errors: list[Exception] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing: set[asyncio.Task[None]] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._server: asyncio.Server | None = None
        self._placeholder: socket.socket | None = None

    @property
    def behave(self) -> Behave:
        return self._behave

    @behave.setter
    def behave(self, behave: Behave) -> None:
        choices = behave if isinstance(behave, list) else [behave]
        unknown = [choice for choice in choices if isinstance(choice, str) and find(choice) is None]
        if unknown or not choices:
            raise ValueError(f"no such behaviour: {unknown}; there are {sorted(BEHAVIOURS)}, die@3 and the like")
        self._behave = behave

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> Self:
        # A second socket, bound and never listening, keeps the port ours while connections to it are refused.
        self._placeholder = bound_socket(self.host, self.port)
        self.port = self._placeholder.getsockname()[1]
        self.name = self.name or f"worker-{self.port}"
        await self.accept_again()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for task in self._refusing:
            task.cancel()
        await self.refuse()
        if self._placeholder is not None:
            self._placeholder.close()
        if self._errors and error is None and self.fails_at_exit:
            raise AssertionError(f"{self.name}: {self._errors[0]!r}") from self._errors[0]
        if self._errors and error is not None:
            error.add_note(f"{self.name} had failed before: {self._errors[0]!r}")

    async def refuse(self) -> None:
        """Stop listening and drop all connections, as a killed process does; from then on connects are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in self._connections:
            connection.drop()
        await self.wait_until(lambda: not self._connections, what="the end of every connection")
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def accept_again(self) -> None:
        """Listen again, on the same port."""
        loop = asyncio.get_running_loop()
        timeout_s = HANDSHAKE_TIMEOUT_S if self._tls else None
        listener = bound_socket(self.host, self.port)
        if self._send_buffer_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer_bytes)
        self._server = await loop.create_server(
            self._next_connection,
            sock=listener,
            backlog=1024,
            ssl=self._tls,
            ssl_handshake_timeout=timeout_s,
        )

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float = 5.0, what: str = "it") -> None:
        """Wait until `condition` holds; it is asked whenever a connection or a request came, or a peer left."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
        except TimeoutError:
            raise TimeoutError(f"{self.name} waited {timeout_s} s for {what}") from None

    async def wait_requests(self, count: int = 1, timeout_s: float = 5.0) -> Request:
        """Wait until that many requests have arrived since the start, and return the last of them."""
        await self.wait_until(lambda: len(self.requests) >= count, timeout_s, f"{count} requests")
        return self.requests[count - 1]

    async def wait_closed_by_peer(self, timeout_s: float = 5.0, count: int = 1) -> float:
        """Wait until that many requests have been left by the peer since the start; the loop time of the last."""
        await self.wait_until(lambda: len(self.closed_by_peer) >= count, timeout_s, f"the peer to leave {count} times")
        return self.closed_by_peer[count - 1]

    # What connections call.

    def _next_connection(self) -> Connection:
        self.connections_accepted += 1
        return Connection(self, self.connections_accepted)

    def admit(self, connection: Connection) -> bool:
        """Note a new connection; False for one that was accepted just before the worker began to refuse."""
        if self._server is None:
            return False
        self._connections.add(connection)
        self.tell("connected", connection=connection.number)
        self._wake_waiters()
        return True

    def start(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Start the task of a connection, and keep it until its end so that none outlives the worker."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self.tell("closed", connection=connection.number)
        self._connections.discard(connection)
        self._wake_waiters()

    def fail(self, error: Exception) -> None:
        """Keep an error for the end of the test: a fault of the test's own, or a request no router may send."""
        self._errors.append(error)
        self.tell("failed", error=repr(error))

    def note_closed_by_peer(self, connection: Connection) -> None:
        self.closed_by_peer.append(asyncio.get_running_loop().time())
        self.tell("left", connection=connection.number)
        self._wake_waiters()

    def tell(self, event: str, **fields: Any) -> None:
        if self._tell is not None:
            self._tell({"event": event, "worker": self.name, **fields})

    async def answer(self, connection: Connection, request: Request) -> None:
        if self._tell is not None and request.path == control.PATH:
            await connection.write(control.answer(self, request))
        elif request.method in ("GET", "HEAD"):
            self.probes.append(request)
            self.tell("probe", connection=connection.number, method=request.method, path=request.path)
            self._wake_waiters()
            await self._answer_probe(connection, request)
        else:
            self.requests.append(request)
            behave, name = self._pick(request)
            self.tell(
                "request", connection=connection.number, method=request.method, path=request.path, model=request.model,
                stream=request.stream, bytes=len(request.body), behaviour=name,
            )  # fmt: skip
            self._wake_waiters()
            await behave(connection, request)
            self.tell("done", connection=connection.number, behaviour=name)

    def refuse_for(self, seconds: float) -> None:
        """Refuse in a moment, when the answer to this wish has gone out, and accept again after so long."""

        async def refuse_a_while() -> None:
            await asyncio.sleep(SETTLE_S)
            await self.refuse()
            await asyncio.sleep(seconds)
            await self.accept_again()

        task = asyncio.get_running_loop().create_task(refuse_a_while(), name=f"{self.name} refusing")
        self._refusing.add(task)
        task.add_done_callback(self._refusing.discard)

    # Choices.

    def _pick(self, request: Request) -> tuple[Behaviour, str]:
        if named := named_by(request.model):
            return named, request.model
        choice = self._behave
        if isinstance(choice, list):
            choice = choice.pop(0) if len(choice) > 1 else choice[0]
        if callable(choice) and not inspect.iscoroutinefunction(choice):
            choice = cast("Callable[[Request], str | Behaviour]", choice)(request)
        if isinstance(choice, str):
            return cast(Behaviour, find(choice)), choice
        return cast(Behaviour, choice), getattr(choice, "__name__", "")

    async def _answer_probe(self, connection: Connection, request: Request) -> None:
        if self.probe == "refuse":
            connection.drop()
        elif self.probe == "hang":
            await connection.until_peer_leaves()
        else:
            answer = self._page(request.path)
            await connection.write(answer if request.method == "GET" else answer[: answer.index(b"\r\n\r\n") + 4])

    def _page(self, path: str) -> bytes:
        if self.probe != "ok":
            return whole(int(self.probe), {"error": {"message": "not ready", "code": "not_ready"}})
        if path == "/v1/models":
            cards = [{"id": model, "object": "model", "created": 1, "owned_by": self.name} for model in self.models]
            return whole(200, {"object": "list", "data": cards})
        if path == "/health":
            return whole(200, {"status": "ok"})
        page = self.pages.get(path)
        if page is None:
            return whole(404, {"error": {"message": f"no page {path}", "code": "not_found"}})
        return head(200, ("content-type", "text/plain"), ("content-length", str(len(page)))) + page

    def _wake_waiters(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to a port that another bound, not listening socket may share."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.setblocking(False)
    return bound
