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

A stream that has been silent for `comment_s` gets its head and a comment, then and every so often again, so that no
client or proxy takes it for dead. That is no content: another worker may still be tried, though a failure must then be
told inside of the stream (`_begun` but not committed).
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec

from rbeerouter import tasks
from rbeerouter.core.dispatch import FINISH, WAITING, Effect, Fail, Job, PassOn, Send
from rbeerouter.core.errors import FAILURES, LOST, UNSENT, Failure, RouterError
from rbeerouter.core.models import name_to_send
from rbeerouter.core.types import OLLAMA, OPENAI, Outcome, Request, Worker
from rbeerouter.dialects import worker_errors
from rbeerouter.dialects.continuation import Continued, Transcript, may_continue, resume
from rbeerouter.dialects.surfaces import Rewriter, Surface, Translation
from rbeerouter.wire import refusals
from rbeerouter.wire.headers import Shape, chunk, header_value, status_line, strategy_line, with_headers
from rbeerouter.wire.upstream import Pool, UpstreamConnection

if TYPE_CHECKING:
    from rbeerouter.wire.listener import ClientConnection

_DISCONNECTED = FAILURES["upstream_disconnected"]
_ERROR_STATUS = FAILURES["upstream_error_status"]
_ERROR_EVENT = FAILURES["upstream_error_event"]
_OURS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
"""Reasons why a connection cannot be made that are this machine's, not the worker's."""
_USAGE_TAIL_BYTES = 2048
"""How much of an answer's end is kept to find the usage in."""
_JSON = (("content-type", "application/json"),)
_TOLD_TO_CONTINUE = frozenset({"vllm", "sglang", "openai"})
"""Engines that must be told that the last message is unfinished. Others continue it as it is, or refuse the fields."""


class Reader(Protocol):
    """Finds out the tokens of a prompt before it is decided who gets it."""

    def asks(self, request: Request) -> bool:
        """Is it worth waiting for?"""

    async def read(self, request: Request, body: bytes) -> None:
        """From now on its `text` has them, where they could be had in time. It must not fail."""


class Exchange:
    """One inference request on one client connection.

    Args:
        surface: what was asked for.
        target: the request's path with its query, as it came.
        forwarded: the client's headers that may go to the worker, as lines.
    """

    # What an exchange begins with; on the instance only once it changes.
    _upstream: UpstreamConnection | None = None
    _connecting: asyncio.Task[None] | None = None
    _reading: asyncio.Task[None] | None = None
    _pausing: asyncio.TimerHandle | None = None
    _shape: Shape | None = None
    _own_error: refusals.OwnError | None = None
    _translation: Translation | None = None
    _rewriter: Rewriter | None = None
    _transcript: Transcript | None = None
    _continued: Continued | None = None
    _filter: Callable[[bytes], bytes] | None = None
    _ending: Callable[[], bytes] | None = None
    _held = b""
    _tail = b""
    _begun = _committed = _relaying = _is_stream = _is_error = _is_remade = _chunked = _told = False
    _progress = _seen_progress = 0
    _seen_progress_at = _commented_at = 0.0

    def __init__(
        self, client: ClientConnection, job: Job, surface: Surface, target: bytes, forwarded: bytes, body: bytes
    ) -> None:
        self.client = client
        self.job = job
        self._surface = surface
        self._dialect = self._judge = surface.dialect
        self._target = target
        self._forwarded = forwarded
        self._body = body

    def start(self) -> None:
        dispatcher = self.client.listener.dispatcher
        if dispatcher.poison.seen and dispatcher.poison.refused(self._fingerprint(), self.client.listener.now()):
            self.perform(dispatcher.refuse(self.job, _poisonous()))
            return
        reader = self.client.listener.reader
        if reader is not None and reader.asks(self.job.request):
            self._reading = tasks.start("tokens of a prompt", self._read_prompt(reader))
        else:
            self.perform(dispatcher.on_request(self.job))

    async def _read_prompt(self, reader: Reader) -> None:
        """Decides when the tokens of the prompt are known, or cannot be had in time. Who leaves meanwhile cancels this,
        and nothing was decided."""
        await reader.read(self.job.request, self._body)
        self._reading = None
        self.perform(self.client.listener.dispatcher.on_request(self.job))

    # What the dispatcher decided

    def perform(self, effect: Effect) -> None:
        if type(effect) is Send:
            if effect.pause_s:
                self._pausing = asyncio.get_running_loop().call_later(effect.pause_s, self._attempt, effect)
            else:
                self._attempt(effect)
        elif effect is FINISH:
            self._close_story()
        elif type(effect) is Fail:
            self._refuse(effect)
        elif type(effect) is PassOn:
            self._pass_on(effect)
        else:
            self.client.listener.waiters.add(self)

    def _attempt(self, send: Send) -> None:
        """Sends the request to the worker that was chosen, on a warm connection if there is one."""
        self._pausing = None
        listener, worker = self.client.listener, send.worker
        pool = listener.pools.of(worker)
        if pool is None:                                     # removed by a reload since it was chosen
            self._attempt_ended(Outcome(FAILURES["upstream_connect_failed"]))
            return
        body, target, model = self._body, self._target, send.model
        if worker.spec.model_names or self.job.request.asked_model is not None:
            model = name_to_send(self.job.request, worker, model)
        self.job.sent_model = model
        translation = self._surface.translation(worker.speaks, worker.engine)
        if translation is not None or self._translation is not None or self._transcript is not None:
            try:
                body, target = self._put_otherwise(worker, translation, model)
            except RouterError as refusal:
                self._cannot_be_put(refusal)
                return
        elif model is not None:
            body = self._dialect.rename_model(body, model)
        forwarded = self._forwarded if not send.headers else with_headers(self._forwarded, send.headers)
        head = pool.head(target, forwarded, len(body))
        self._shape = None
        self._is_error = False
        self._held = self._tail = b""
        self._relaying = False
        connection = None if send.fresh else pool.take(listener.now())
        if connection is None:
            self._connecting = tasks.start(f"connect to {worker.id}", self._connect(pool, head, body))
        else:
            self._upstream = connection
            connection.send(self, head, body)

    def _put_otherwise(
        self, worker: Worker, translation: Translation | None, model: str | None
    ) -> tuple[bytes, bytes]:
        """Body and target for a worker that speaks another protocol, or that goes on with what another one began."""
        self._translation, self._rewriter, self._filter, self._ending = translation, None, None, None
        self._judge = self._dialect if translation is None else translation.source
        if translation is not None:
            return translation.body(self._body, model), translation.path
        body = self._body if model is None else self._dialect.rename_model(self._body, model)
        if self._transcript is not None and self._committed:
            self._transcript.drop_rest()
            resumed = resume(self.job.request.path, body, self._transcript, worker.engine in _TOLD_TO_CONTINUE)
            assert resumed is not None, "it could be resumed a moment ago"
            body, self._continued = resumed
            self._filter, self._ending = self._continued.feed, self._continued.finish
        return body, self._target

    def _cannot_be_put(self, refusal: RouterError) -> None:
        """The request says something that the worker's protocol has no words for. Nobody's fault but the client's,
        unless there is a worker that speaks its own."""
        unsent = msgspec.structs.replace(refusal.failure, retry=UNSENT)
        effect = self.client.listener.dispatcher.on_outcome(self.job, Outcome(unsent))
        if type(effect) is Fail and effect.failure is unsent:
            effect = Fail(refusal.failure, refusal.message, refusal.param)
        self.perform(effect)

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
        if self._committed or self._begun:
            self._break_off(fail.failure, fail.message)
        else:
            self.client.answer_failure(fail.failure, fail.message, fail.param, self.job.request.id)
        self._close_story()

    def _pass_on(self, effect: PassOn) -> None:
        """The client gets the error of the last worker."""
        error, job = self._own_error, self.job
        assert error is not None, "an error is passed on that no worker gave"
        body = error.body
        if self._dialect.error_from is not None:
            body = self._dialect.error_from(error.status, body)
            error = refusals.OwnError(error.status, with_headers(error.lines, _JSON), body)
        job.bytes_out = len(body)
        if self._begun:
            self._break_off(_ERROR_STATUS, worker_errors.in_body(error.body) or "the worker failed")
        else:
            self.client.answer_error(error, body, job, effect.retry_after)
        self._close_story()

    def _break_off(self, failure: Failure, message: str) -> None:
        """Ends an answer that has begun so that no client takes it for a whole one: an error event if it is a stream,
        then the connection is cut with no [DONE] and no final chunk."""
        if (self._is_stream or self._begun) and not self._told:
            event = self._dialect.error_event(failure, message)
            if self._filter is None and self._tail and not self._tail.endswith(b"\n"):
                event = (b"\n" if self._judge.protocol == OLLAMA else b"\n\n") + event   # the last one was cut off
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
        if self._relaying:
            self._relay(upstream)
        elif upstream.head_done:
            self._hold(upstream)

    def upstream_garbage(self, upstream: UpstreamConnection) -> None:
        """What came is not HTTP. None of it is passed on, and the connection is not used again."""
        self._drop_upstream()
        self._attempt_ended(Outcome(FAILURES["upstream_protocol_error"], committed=self._committed))

    def upstream_lost(self, upstream: UpstreamConnection, exc: Exception | None) -> None:
        """The worker's connection closed while it was ours: the end of an answer without length, of a stream that had
        said its last word, or a failure."""
        self._upstream = None
        said = self._tail or self._held
        finished = not self._is_stream or self._judge.is_finished(said)
        if finished and ((exc is None and upstream.ends_by_closing()) or self._has_said_all(said)):
            upstream.complete = upstream.broken = True
            self.upstream_data(upstream)
            return
        stale = upstream.reused and not upstream.spoke
        self._attempt_ended(Outcome(_DISCONNECTED, committed=self._is_final(), stale=stale))

    def _has_said_all(self, said: bytes) -> bool:
        """Has a finished stream nothing more to say? In OpenAI's words, more may follow the end of a choice."""
        return self._is_stream and (self._judge.protocol != OPENAI or said.rstrip().endswith(b"data: [DONE]"))

    def _is_final(self) -> bool:
        """Has the client got content that no other worker could go on with?"""
        if not self._committed or self._transcript is None or self._continued is not None:
            return self._committed
        transcript = self._transcript
        return not transcript.resumable or resume(self.job.request.path, self._body, transcript, False) is None

    def _hold(self, upstream: UpstreamConnection) -> None:
        """Keeps the answer back until it is certain that this worker will give one."""
        if self._shape is None and not self._accept_head(upstream):
            return
        parts = upstream.parts
        if parts:
            self._held += parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
        held, limits = self._held, self.client.listener.limits
        if self._is_error:
            if upstream.complete or len(held) > limits.hold_bytes:
                self._judge_error(upstream, held)
        elif self._is_stream and self._judge.has_content(held):
            self._stream_speaks(upstream, held)
        elif upstream.complete:
            self._commit_whole(upstream, held)
        elif self._translation is not None and not self._is_stream:
            if len(held) > limits.request_body_bytes:        # it can only be translated whole
                self.upstream_garbage(upstream)
        elif len(held) > limits.hold_bytes:
            self._commit(upstream)

    def _stream_speaks(self, upstream: UpstreamConnection, held: bytes) -> None:
        """A stream has said something. If that is an error of the worker's, another one may do better."""
        message = self._judge.error_in(held) if b"error" in held else None
        if message is not None and not refusals.is_clients_fault(held):
            self._failed_in_stream(upstream, message)
        elif upstream.complete:
            self._commit_whole(upstream, held)
        else:
            self._commit(upstream)

    def _commit_whole(self, upstream: UpstreamConnection, held: bytes) -> None:
        """An answer has come whole before any of it went on. A stream without an end is as good as none."""
        if self._is_stream and self._is_cut_short(held):
            self._let_go(upstream)
            self._attempt_ended(Outcome(_DISCONNECTED, committed=self._committed))
        else:
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
        is_stream = content_type is not None and content_type.lower().startswith(self._judge.stream_type)
        self._is_error = status >= 400 and refusals.is_held(status)
        if self._continued is not None:
            if status != 200 or not is_stream:               # this engine does not go on with what another one began
                self._drop_upstream()
                self._attempt_ended(Outcome(_DISCONNECTED, committed=True))
                return False
        else:
            self._is_stream = is_stream
            if self._translation is not None and is_stream:
                self._rewriter = rewriter = self._translation.stream()
                self._filter, self._ending = rewriter.feed, rewriter.finish
        return True

    def _judge_error(self, upstream: UpstreamConnection, body: bytes) -> None:
        """An error of the worker's own: the client's business, or another worker may do better. Then its words are kept
        in case none does."""
        listener, shape, worker = self.client.listener, self._shape, self.job.worker
        assert shape is not None and worker is not None, "an answer was read before its head"
        refusal = refusals.verdict(worker.engine, upstream.status, body)
        if refusal is None:
            self._commit(upstream)
            return
        wall = listener.env.wall()
        wait_s = refusals.retry_after_s(shape, upstream.raw, wall)
        shown = upstream.complete and refusals.is_shown(body)
        self._own_error = refusals.OwnError(upstream.status, refusals.shown_lines(shape, upstream.raw, wall), body)
        self._let_go(upstream)
        self._attempt_ended(Outcome(refusal, upstream.status, retry_after_s=wait_s, answered=shown))

    def _failed_in_stream(self, upstream: UpstreamConnection, message: str) -> None:
        """The first thing that a stream says is that it failed."""
        body = self._judge.error_body(_ERROR_EVENT, message, None)
        self._own_error = refusals.OwnError(_ERROR_EVENT.status, b"content-type: application/json\r\n", body)
        self._let_go(upstream)
        committed = self._committed                          # by the worker that this one was to go on for
        self._attempt_ended(Outcome(_ERROR_EVENT, _ERROR_EVENT.status, committed=committed, answered=not committed))

    def _let_go(self, upstream: UpstreamConnection) -> None:
        """Done with this connection: kept if its answer is whole, else closed."""
        if upstream.complete:
            self._upstream = None
            upstream.pool.give_back(upstream, self.client.listener.now())
        else:
            self._drop_upstream()

    def _commit(self, upstream: UpstreamConnection) -> None:
        """Writes the head and what was held; from here on this worker's answer is the client's."""
        client, job, shape, body = self.client, self.job, self._shape, self._held
        assert shape is not None, "an answer was read before its head"
        if self._is_stream and self._judge.tokens_read is not None:
            job.tokens_in = self._judge.tokens_read(body)
        self._tail, self._held = body, b""
        self._relaying = True
        if self._begun and not self._is_stream:
            self._commit_too_late(upstream, body)
            return
        listener = client.listener
        if upstream.status >= 400 and upstream.complete and self._dialect.error_from is not None:
            body, self._is_remade = self._dialect.error_from(upstream.status, body), True
        elif self._filter is not None or self._translation is not None:
            rewritten = self._rewritten(upstream, body)
            if rewritten is None:
                self.upstream_garbage(upstream)
                return
            body = rewritten
        elif listener.models is not None and self._is_stream and not upstream.complete:
            body = self._keep_transcript(body)
        if self._committed:                                   # by the worker that this one goes on for
            job.continued = True
            head = b""
        else:
            head = b"" if self._begun else self._head(upstream, shape, body)
            self._committed = True
            job.status = upstream.status
            listener.dispatcher.on_content(job, listener.now())
        job.bytes_out += len(body)
        client.transport.write(head + (chunk(body) if self._chunked and body else body))
        if upstream.complete:
            self._complete(upstream)
        elif client.write_paused:
            upstream.pause()

    def _commit_too_late(self, upstream: UpstreamConnection, body: bytes) -> None:
        """The client has the head of a stream, which was silent for long, and the worker's answer is none."""
        status = upstream.status
        self._let_go(upstream)
        if status < 400:
            self._attempt_ended(Outcome(FAILURES["upstream_protocol_error"], committed=True))
            return
        self.job.bytes_out += len(body)
        self._break_off(_ERROR_STATUS, worker_errors.in_body(body) or f"the worker answered with status {status}")
        self._attempt_ended(Outcome(None, status=status, committed=True, delivered=True))

    def _rewritten(self, upstream: UpstreamConnection, body: bytes) -> bytes | None:
        """What was held, in the client's words; None when it makes no sense."""
        if self._filter is None:
            assert self._translation is not None, "nothing to rewrite it by"
            self._is_remade = True
            return self._translation.answer(upstream.status, body)
        body = self._filter(body)
        if upstream.complete and self._ending is not None:
            body += self._ending()
            self._ending = None
        return body

    def _keep_transcript(self, body: bytes) -> bytes:
        """Of streams that another worker may have to go on with, the client gets whole events only."""
        listener, job = self.client.listener, self.job
        model = listener.models.resolve(job.request.model) if listener.models is not None else None
        if model is None or not model.continuation or not may_continue(job.request.path, self._body):
            return body
        self._transcript = transcript = Transcript(listener.limits.continuation_bytes)
        self._filter, self._ending = transcript.take, transcript.rest
        return transcript.take(body)

    def _head(self, upstream: UpstreamConnection, shape: Shape, body: bytes) -> bytes:
        client, job = self.client, self.job
        decision = job.decision
        assert decision is not None and decision.worker is not None
        if upstream.complete:
            framing = b"content-length: %d\r\n" % len(body)
        elif b"content-length" in shape.names and self._filter is None:
            framing = b"content-length: %b\r\n" % shape.get(upstream.raw, b"content-length")
        elif client.speaks_chunked:
            framing, self._chunked = b"transfer-encoding: chunked\r\n", True
        else:
            framing, client.keep_alive = b"", False
        if not client.keep_alive:
            framing += b"connection: close\r\n"
        if upstream.status < 400:
            lines = shape.lines(upstream.raw)
        else:
            lines = refusals.shown_lines(shape, upstream.raw, client.listener.env.wall())
        if self._is_remade:
            lines = with_headers(lines, _JSON)
        if decision.told:
            lines = with_headers(lines, decision.told)
        if decision.strategy is not None:
            framing += strategy_line(decision.strategy)
        if job.queue_s:
            framing += b"x-rbee-queue-ms: %d\r\n" % (job.queue_s * 1000)
        return b"%b%b%bx-request-id: %b\r\nx-rbee-worker: %b\r\nx-rbee-reason: %b\r\n%b\r\n" % (
            status_line(upstream.status), client.listener.date_line, lines, job.request.id.encode(),
            header_value(decision.worker.id), header_value(decision.reason), framing,
        )  # fmt: skip

    def _relay(self, upstream: UpstreamConnection) -> None:
        """Passes on what came. This runs once per read, so it does as little as it can."""
        parts = upstream.parts
        if parts:
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            parts.clear()
            self._tail = body if len(body) >= _USAGE_TAIL_BYTES else self._tail[-_USAGE_TAIL_BYTES:] + body
            if self._filter is not None:
                body = self._filter(body)
            if body:
                self.job.bytes_out += len(body)
                self.client.transport.write(b"%x\r\n%b\r\n" % (len(body), body) if self._chunked else body)
        if upstream.complete:
            self._complete(upstream)

    def _is_cut_short(self, tail: bytes) -> bool:
        """Has a stream come to its end without saying so? Of streams that nobody knows, the end is believed."""
        if self._judge.is_finished(tail):
            return False
        return self._judge.protocol != OPENAI or b'"choices"' in tail or not tail.strip()

    def _has_failed(self, tail: bytes) -> bool:
        """Has the worker ended its stream with an error, of which the client has read by now?"""
        failed = self._judge.is_failed(tail) or (self._rewriter is not None and self._rewriter.failed)
        return failed and not refusals.is_clients_fault(tail)

    def _complete(self, upstream: UpstreamConnection) -> None:
        """The worker gave its answer to the end."""
        client, job, tail = self.client, self.job, self._tail[-_USAGE_TAIL_BYTES:]
        self._upstream = None
        upstream.pool.give_back(upstream, client.listener.now())
        if self._is_stream and self._is_cut_short(tail):
            self._attempt_ended(Outcome(_DISCONNECTED, committed=self._is_final()))
            return
        if self._is_stream and self._has_failed(tail):
            self._told = self._continued is None
            self._attempt_ended(Outcome(_ERROR_EVENT, committed=True))
            return
        if self._ending is not None and (rest := self._ending()):
            job.bytes_out += len(rest)
            client.transport.write(chunk(rest) if self._chunked else rest)
        if self._chunked:
            client.transport.write(b"0\r\n\r\n")
        tokens_in, job.tokens_out = self._judge.usage(tail)
        if tokens_in is not None:
            job.tokens_in = tokens_in
        if self._continued is not None and job.tokens_in is not None and job.tokens_out is not None:
            job.tokens_in -= self._continued.tokens
            job.tokens_out += self._continued.tokens
        self._attempt_ended(Outcome(None, status=upstream.status, committed=True, delivered=True))

    def _attempt_ended(self, outcome: Outcome) -> None:
        listener = self.client.listener
        dispatcher = listener.dispatcher
        if dispatcher.poison.seen or outcome.failure is not None:
            outcome = self._judged(outcome)
        effect = dispatcher.on_outcome(self.job, outcome)
        if dispatcher.waiting:
            if self.job.state == WAITING:                    # it may be let go at once itself
                self.perform(effect)
                listener.waiters.admit()
                return
            listener.waiters.admit()                         # before a next request on this connection takes the slot
        self.perform(effect)

    def _judged(self, outcome: Outcome) -> Outcome:
        """The outcome with what it says of the body: did a worker die over it that may not have been the first?"""
        job, poison = self.job, self.client.listener.dispatcher.poison
        if outcome.failure is None:
            poison.forgive(self._fingerprint())
        elif (
            outcome.failure.retry == LOST and not outcome.stale and job.worker is not None
            and poison.strike(
                self._fingerprint(), job.worker.id, self.client.listener.now(), job.sent, job.worker.in_flight > 1
            )
        ):  # fmt: skip
            return msgspec.structs.replace(outcome, poisonous=True)
        return outcome

    def _fingerprint(self) -> bytes:
        return hashlib.blake2b(self._body, digest_size=16).digest()

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.abort()
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

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
        code = None if self.job.state == WAITING or self._reading is not None else self._overdue(now)
        if code is not None:
            self._drop_upstream()
            self._attempt_ended(Outcome(FAILURES[code], committed=self._committed))
        elif self.job.request.stream and (not self._relaying or self.job.state == WAITING):
            self._keep_alive(now)

    def _overdue(self, now: float) -> str | None:
        job, listener = self.job, self.client.listener
        limits, stream = listener.limits_of.get(job.request.model, listener.limits), job.request.stream
        if now > listener.dispatcher.deadline(job):
            return "upstream_deadline"
        if stream and not self._relaying:
            late = now - job.sent > limits.first_content_s
            return "upstream_first_content_timeout" if late else None
        if self._shape is None:
            return None
        if self._progress != self._seen_progress or self.client.write_paused:
            self._seen_progress, self._seen_progress_at = self._progress, now
        elif now - self._seen_progress_at > limits.gap_s:
            return "upstream_stalled"
        return None

    def _keep_alive(self, now: float) -> None:
        """Tells the client of a silent stream that it is being served, in words that every SSE parser skips. Events
        named ping, empty ones and those with only an id break clients; comments break none."""
        job, client = self.job, self.client
        comment = self._dialect.keep_alive
        if not comment or now - max(job.arrived, self._commented_at) < client.listener.limits.comment_s:
            return
        if client.write_paused:                               # it has more to read than it does
            return
        self._commented_at = now
        if job.state == WAITING:
            before, seconds = client.listener.dispatcher.place(job)
            eta = f" eta_s={seconds:.0f}" if seconds is not None else ""
            comment = b": queue position=%d%b\n\n" % (before + 1, eta.encode())
        if not self._begun and not self._committed:           # committed: between one worker's part and the next one's
            self._begun = True
            self._chunked = client.speaks_chunked
            client.begin_stream(self._dialect.stream_type, job.request.id)
        client.transport.write(chunk(comment) if self._chunked else comment)


def _poisonous() -> RouterError:
    return RouterError("poison_request", "two workers have died over this request a short while ago")
