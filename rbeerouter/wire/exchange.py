"""One request's story: decide, wait, attempt, hold, stream, outcome. It performs what `core.dispatch` returns.

    start -> perform(Send) -> [connect] -> send -> upstream_data ... -> _complete -> perform(Finish) -> _close_story
      |         ^  ^                                     |
      |         |  +---- _attempt_ended <- failed -------+          client_gone and check may end it at any point
      +-> perform(Wait) -> `wire.waiting` performs what becomes of it

It is driven by callbacks rather than by a task: a request on a warm connection runs in three synchronous steps (the
request is complete, the head arrived, the end arrived) and creates no task, no future and no queue.

The answer is *held* until content has come, so that a worker that fails before it can still be replaced: a stream
until its first event that says something, any other answer until it is whole or `hold_bytes` long. After that
(`committed`) bytes pass from transport to transport as they come.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from rbeerouter import tasks
from rbeerouter.core.dispatch import FINISH, WAITING, Effect, Fail, Job, Send
from rbeerouter.core.errors import FAILURES, Failure
from rbeerouter.core.models import name_to_send
from rbeerouter.core.types import Outcome
from rbeerouter.dialects.surfaces import Surface
from rbeerouter.wire.headers import Shape, chunk, header_value, status_line, with_headers
from rbeerouter.wire.upstream import Pool, UpstreamConnection

if TYPE_CHECKING:
    from rbeerouter.wire.listener import ClientConnection

_DISCONNECTED = FAILURES["upstream_disconnected"]
_ERROR_STATUS = FAILURES["upstream_error_status"]
_OURS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
"""Reasons why a connection cannot be made that are this machine's, not the worker's."""
_USAGE_TAIL_BYTES = 2048
"""How much of an answer's end is kept to find the usage in."""


class Exchange:
    """One inference request on one client connection.

    Args:
        target: the request's path with its query, as it came.
        forwarded: the client's headers that may go to the worker, as lines.
    """

    # What an exchange begins with; on the instance only once it changes.
    _upstream: UpstreamConnection | None = None
    _connecting: asyncio.Task[None] | None = None
    _shape: Shape | None = None
    _held = b""
    _tail = b""
    _committed = _is_stream = _chunked = False
    _progress = _seen_progress = 0
    _seen_progress_at = 0.0

    def __init__(
        self, client: ClientConnection, job: Job, surface: Surface, target: bytes, forwarded: bytes, body: bytes
    ) -> None:  # fmt: skip
        self.client = client
        self.job = job
        self._surface = surface
        self._dialect = surface.dialect
        self._target = target
        self._forwarded = forwarded
        self._body = body

    def start(self) -> None:
        self.perform(self.client.listener.dispatcher.on_request(self.job))

    # What the dispatcher decided

    def perform(self, effect: Effect) -> None:
        if type(effect) is Send:
            self._attempt(effect)
        elif effect is FINISH:
            self._close_story()
        elif type(effect) is Fail:
            self._refuse(effect)
        else:
            self.client.listener.waiters.add(self)

    def _attempt(self, send: Send) -> None:
        """Sends the request to the worker that was chosen, on a warm connection if there is one."""
        listener = self.client.listener
        pool = listener.pools.of(send.worker)
        if pool is None:                                     # removed by a reload since it was chosen
            self._attempt_ended(Outcome(FAILURES["upstream_connect_failed"]))
            return
        name, request = send.model, self.job.request
        if send.worker.spec.model_names or request.asked_model is not None:
            name = name_to_send(request, send.worker, name)
        body = self._body if name is None else self._dialect.rename_model(self._body, name)
        forwarded = self._forwarded if not send.headers else with_headers(self._forwarded, send.headers)
        head = pool.head(self._target, forwarded, len(body))
        self._shape = None
        self._held = b""
        connection = None if send.fresh else pool.take(listener.now())
        if connection is None:
            self._connecting = tasks.start(f"connect to {send.worker.id}", self._connect(pool, head, body))
        else:
            self._upstream = connection
            connection.send(self, head, body)

    async def _connect(self, pool: Pool, head: bytes, body: bytes) -> None:
        try:
            connection = await pool.connect()
        except OSError as error:
            self._connecting = None
            code = "out_of_resources" if error.errno in _OURS else "upstream_connect_failed"
            self._attempt_ended(Outcome(FAILURES[code]))
            return
        self._connecting = None
        self._upstream = connection
        connection.send(self, head, body)

    def _refuse(self, fail: Fail) -> None:
        """No worker will answer: the client gets an error, in the shape that what it has got so far allows."""
        if self._committed:
            self._break_off(fail.failure, fail.message)
        else:
            self.client.answer_failure(fail.failure, fail.message, fail.param, self.job.request.id)
        self._close_story()

    def _break_off(self, failure: Failure, message: str) -> None:
        """Ends an answer that has begun so that no client takes it for a whole one: an error event if it is a stream,
        then the connection is cut with no [DONE] and no final chunk."""
        if self._is_stream:
            event = self._dialect.error_event(failure, message)
            self.client.transport.write(chunk(event) if self._chunked else event)
        self.client.cut(gently=self._chunked)

    def _close_story(self) -> None:
        """The last step of every exchange, whatever happened: one record, then the connection is free again."""
        client, self._upstream = self.client, None
        client.listener.record(self.job)
        client.exchange_done()

    # What the worker sends

    def upstream_data(self, upstream: UpstreamConnection) -> None:
        self._progress += 1
        if self._committed:
            self._relay(upstream)
        elif upstream.head_done:
            self._hold(upstream)

    def upstream_garbage(self, upstream: UpstreamConnection) -> None:
        """What came is not HTTP. None of it is passed on, and the connection is not used again."""
        self._drop_upstream()
        self._attempt_ended(Outcome(FAILURES["upstream_protocol_error"], committed=self._committed))

    def upstream_lost(self, upstream: UpstreamConnection, exc: Exception | None) -> None:
        """The worker's connection closed while it was ours: the end of an answer without length, or a failure."""
        self._upstream = None
        finished = not self._is_stream or self._dialect.is_finished(self._tail or self._held)
        if exc is None and finished and upstream.ends_by_closing():
            upstream.complete = upstream.broken = True
            self.upstream_data(upstream)
            return
        stale = upstream.reused and not upstream.spoke
        self._attempt_ended(Outcome(_DISCONNECTED, committed=self._committed, stale=stale))

    def _hold(self, upstream: UpstreamConnection) -> None:
        """Keeps the answer back until it is certain that this worker will give one."""
        if self._shape is None and not self._accept_head(upstream):
            return
        parts = upstream.parts
        if parts:
            self._held += parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
        if (
            upstream.complete
            or len(self._held) > self.client.listener.limits.hold_bytes
            or (self._is_stream and self._dialect.has_content(self._held))
        ):
            self._commit(upstream)

    def _accept_head(self, upstream: UpstreamConnection) -> bool:
        status = upstream.status
        if 300 <= status < 400 or status > 599:
            self.upstream_garbage(upstream)                  # a redirect is never followed: it could lead anywhere
            return False
        raw = upstream.raw
        self._shape = shape = self.client.listener.response_shapes.of(raw)
        transfer, content = shape.get(raw, b"transfer-encoding"), shape.get(raw, b"content-encoding")
        if (transfer and transfer.lower() != b"chunked") or (content and content.lower() != b"identity"):
            self.upstream_garbage(upstream)                  # nobody asked for an encoding
            return False
        content_type = shape.get(raw, b"content-type")
        self._is_stream = content_type is not None and content_type.lower().startswith(self._dialect.stream_type)
        return True

    def _commit(self, upstream: UpstreamConnection) -> None:
        """Writes the head and what was held; from here on this worker's answer is the client's."""
        client, job, shape, body = self.client, self.job, self._shape, self._held
        listener, decision = client.listener, job.decision
        assert shape is not None and decision is not None and decision.worker is not None
        self._committed = True
        job.first_content = listener.now()
        job.status = upstream.status
        job.bytes_out = len(body)
        self._held, self._tail = b"", body
        if upstream.complete:
            framing = b"content-length: %d\r\n" % len(body)
        elif b"content-length" in shape.names:
            framing = b"content-length: %b\r\n" % shape.get(upstream.raw, b"content-length")
        elif client.speaks_chunked:
            framing, self._chunked = b"transfer-encoding: chunked\r\n", True
        else:
            framing, client.keep_alive = b"", False
        if not client.keep_alive:
            framing += b"connection: close\r\n"
        head = b"%b%b%bx-request-id: %b\r\nx-rbee-worker: %b\r\nx-rbee-reason: %b\r\n%b\r\n" % (
            status_line(upstream.status), listener.date_line, shape.lines(upstream.raw), job.request.id.encode(),
            header_value(decision.worker.id), header_value(decision.reason), framing,
        )  # fmt: skip
        client.transport.write(head + (chunk(body) if self._chunked and body else body))
        if upstream.complete:
            self._complete(upstream)
        elif client.write_paused:
            upstream.pause()

    def _relay(self, upstream: UpstreamConnection) -> None:
        """Passes on what came. This runs once per read, so it does as little as it can."""
        parts = upstream.parts
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self.job.bytes_out += len(body)
            self._tail = body if len(body) >= _USAGE_TAIL_BYTES else self._tail[-_USAGE_TAIL_BYTES:] + body
            self.client.transport.write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
        if upstream.complete:
            self._complete(upstream)

    def _complete(self, upstream: UpstreamConnection) -> None:
        """The worker gave its answer to the end."""
        listener, job = self.client.listener, self.job
        if self._chunked:
            self.client.transport.write(b"0\r\n\r\n")
        job.tokens_in, job.tokens_out = self._dialect.usage(self._tail[-_USAGE_TAIL_BYTES:])
        status = upstream.status
        upstream.pool.give_back(upstream, listener.now())
        self._upstream = None
        self._attempt_ended(
            Outcome(_ERROR_STATUS if status >= 500 else None, status=status, committed=True, delivered=True)
        )

    def _attempt_ended(self, outcome: Outcome) -> None:
        listener = self.client.listener
        dispatcher = listener.dispatcher
        effect = dispatcher.on_outcome(self.job, outcome)
        if dispatcher.waiting:
            listener.waiters.admit()                         # before a next request on this connection takes the slot
        self.perform(effect)

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None

    # What the client does, and the clock

    def client_gone(self, code: str = "client_gone") -> None:
        """The client closed its connection, or stopped reading for too long: the worker's is closed at once."""
        self._cancel(code)
        self._close_story()

    def end(self, code: str, message: str) -> None:
        """The daemon itself ends the request; the client is told why."""
        self._cancel(code)
        self._refuse(Fail(FAILURES[code], message))

    def _cancel(self, code: str) -> None:
        listener = self.client.listener
        self._drop_upstream()
        listener.waiters.remove(self)
        listener.dispatcher.on_cancel(self.job, code)
        if listener.dispatcher.waiting:
            listener.waiters.admit()

    def pause(self) -> None:
        """The client reads more slowly than the worker writes."""
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    def check(self, now: float) -> None:
        """Called about twice a second: has anything taken too long? The queue looks to those who wait."""
        code = None if self.job.state == WAITING else self._overdue(now)
        if code is not None:
            self._drop_upstream()
            self._attempt_ended(Outcome(FAILURES[code], committed=self._committed))

    def _overdue(self, now: float) -> str | None:
        job, listener = self.job, self.client.listener
        limits, stream = listener.limits_of.get(job.request.model, listener.limits), job.request.stream
        if now - job.arrived > (limits.stream_s if stream else limits.request_s):
            return "upstream_deadline"
        if not self._committed and stream and now - job.sent > limits.first_content_s:
            return "upstream_first_content_timeout"
        if self._shape is None or (stream and not self._committed):
            return None
        if self._progress != self._seen_progress or self.client.write_paused:
            self._seen_progress, self._seen_progress_at = self._progress, now
        elif now - self._seen_progress_at > limits.gap_s:
            return "upstream_stalled"
        return None
