"""The life of a job: what to do next, decided without doing it.

`wire.exchange` tells the dispatcher what happened (a request arrived, an attempt ended, the client left) and performs
the effect it gets back; `wire.listener` asks twice a second, and whenever a job frees a slot, what becomes of those who
wait. Nothing here waits or sends; the same code runs under a simulated clock.

    new -> sending -> done | failed | cancelled
     |       ^  |
     |       +--+  an attempt failed, another worker is tried
     |       |
     +-> waiting -> failed | cancelled

In-flight counts cannot drift: a worker's count is raised in `_send`, in the same step as the decision, and lowered in
`_release`, which every way out of `sending` passes exactly once because it empties `job.worker`.
"""

from __future__ import annotations

import msgspec

from rbeerouter.core.errors import FAILURES, Failure, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.queue import Queue
from rbeerouter.core.types import (
    READY,
    REJECT,
    SEND,
    Attempt,
    Decide,
    Decision,
    Env,
    Outcome,
    Patience,
    Request,
    Worker,
)

NEW, WAITING, SENDING, DONE, FAILED, CANCELLED = "new", "waiting", "sending", "done", "failed", "cancelled"
_PATIENCE = Patience()


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send the request to this worker.

    model: the name to write into the body, None to leave it untouched
    fresh: on a new connection
    headers: to be added to the client's, in place of those of the same names
    """

    worker: Worker
    model: str | None
    fresh: bool = False
    headers: tuple[tuple[str, str], ...] = ()


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Do nothing yet: `on_tick` will say what becomes of the job."""


class Fail(msgspec.Struct, frozen=True, gc=False):
    """Answer the client with this failure; no worker is working on the job any more."""

    failure: Failure
    message: str
    param: str | None = None


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The client has its answer, or has left: nothing more to do."""


Effect = Send | Wait | Fail | Finish
FINISH = Finish()
_WAIT = Wait()


class Job(msgspec.Struct, eq=False):
    """One request being served. Times are `Env.now` seconds; None until they happen.

    `queue_s` is how long it has waited for a worker; `queued` is when it began to, while it does. `caller` tells one
    client from another where the request names no user; it is a credential and must never be shown.
    """

    request: Request
    arrived: float
    wall: float
    state: str = NEW
    decision: Decision | None = None
    decision_s: float = 0.0
    queued: float = 0.0
    queue_s: float = 0.0
    worker: Worker | None = None
    sent: float = 0.0
    tried: list[str] = []
    attempts: list[Attempt] = []
    failure: Failure | None = None
    was_stale: bool = False
    status: int = 0
    first_content: float | None = None
    finished: float | None = None
    bytes_out: int = 0
    tokens_in: int | None = None
    tokens_out: int | None = None
    caller: bytes = b""


def refused_job(request: Request, refusal: RouterError, arrived: float, wall: float, now: float) -> Job:
    """A job that ended before anything was decided: its body could not be understood."""
    job = Job(request, arrived, wall)
    job.state, job.failure, job.status, job.finished = FAILED, refusal.failure, refusal.failure.status, now
    return job


class Dispatcher:
    """Moves jobs through their states.

    Args:
        attempts: how many workers may be tried for one request, the first included.

    Attributes:
        queue: who waits; its `rules` may be replaced at any time.
        waiting: {job: ...} of those who wait: false when nobody does, and its length is their number.
        fault: what `Decide.completed` raised last, which it must not; whoever reports it sets this to None.
    """

    def __init__(self, fleet: Fleet, decider: Decide, env: Env, attempts: int = 3) -> None:
        self.fleet = fleet
        self.decider = decider
        self.env = env
        self.attempts = attempts
        self.queue = Queue()
        self.waiting = self.queue.waiters
        self.fault: Exception | None = None

    def on_request(self, job: Job) -> Effect:
        """Decides, and counts the job on its worker in the same step."""
        now = self.env.now
        started = now()
        try:
            decision = self.decider.decide(job.request)
        except RouterError as refusal:
            job.decision_s = now() - started
            return self._fail(job, refusal)
        ended = now()
        job.decision_s = ended - started
        return self._follow(job, decision, ended)

    def on_outcome(self, job: Job, outcome: Outcome) -> Effect:
        """An attempt ended. Says whether the job is finished, has failed, or goes to a worker again.

        1. The client has the worker's whole answer, good or bad: finish.
        2. The worker had closed a reused connection before a byte came back: the same worker on a fresh connection,
           once (a fresh one cannot be stale); no blame.
        3. The client has got some content, or the failure is not one to try again: fail.
        4. Attempts are left and the decider names another worker: send there. Or it has words of its own for the
           client: fail with them. Otherwise fail.
        """
        worker, decision = job.worker, job.decision
        assert worker is not None and decision is not None, "an outcome for a job that is on no worker"
        now = self.env.now()
        failure = outcome.failure
        if outcome.stale and not job.was_stale:
            job.was_stale = True
            return Send(worker, decision.model, True, decision.headers)
        self._release(job, worker, failure, now, outcome.status)
        if failure is None or outcome.delivered:
            job.state, job.status, job.finished = DONE, outcome.status, now
            self._completed(job)
            return FINISH
        if failure.retry and not outcome.committed and len(job.tried) < self.attempts:
            another = self.decider.another(job, failure)
            if another is not None:
                return self._follow(job, _failover(decision, another), now)
        return self._end(job, FAILED, failure, _upstream_message(failure, len(job.tried)))

    def on_cancel(self, job: Job, code: str = "client_gone") -> Effect:
        """The client left or stopped reading. Not the worker's fault; nothing is tried again."""
        if job.state not in (NEW, WAITING, SENDING):
            return FINISH
        now = self.env.now()
        if job.worker is not None:
            self._release(job, job.worker, FAILURES[code], now)
        elif job.state == WAITING:
            self._leave_queue(job, now)
        self._end(job, CANCELLED, FAILURES[code], "")
        return FINISH

    def on_tick(self, now: float) -> list[tuple[Job, Effect]]:
        """What becomes of those who wait: who goes to a worker now, and who has waited too long.

        To be asked when a job has freed a slot, and twice a second, as workers also come back by themselves. Somebody
        whose time is over as a worker gets free still goes: the client is there and has no answer yet.
        """
        effects: list[tuple[Job, Effect]] = []

        def find(job: Job, named: Worker | None) -> Worker | None:
            try:
                return self._with_room(job.request, named)
            except RouterError as refusal:
                self._leave_queue(job, now)
                effects.append((job, self._fail(job, refusal)))
                return None

        for job, worker in self.queue.admit(find):
            job.queue_s += now - job.queued
            effects.append((job, self._send_waiting(job, worker, now)))
        for job in self.queue.overdue(now):
            self._leave_queue(job, now)
            effects.append((job, self._fail(job, _waited_too_long(job))))
        return effects

    def _follow(self, job: Job, decision: Decision, now: float) -> Effect:
        """Does what was decided."""
        job.decision = decision
        if decision.action == SEND:
            return self._send(job, decision, decision.worker, now)
        if decision.action == REJECT:
            refusal = decision.refusal
            assert refusal is not None, "a rejection without words"
            return self._end(job, FAILED, refusal.failure, refusal.message, refusal.param)
        return self._wait(job, decision, now)

    def _send(self, job: Job, decision: Decision, worker: Worker | None, now: float) -> Send:
        assert worker is not None, "a decision to send that names no worker"
        job.state = SENDING
        job.was_stale = False
        job.worker = worker
        job.sent = now
        job.tried.append(worker.id)
        self.fleet.sent(worker, now)
        return Send(worker, decision.model, False, decision.headers)

    def _wait(self, job: Job, decision: Decision, now: float) -> Effect:
        """To the worker at once when it has room and nobody stands before this job; else into the queue."""
        queue, patience = self.queue, decision.patience or _PATIENCE
        try:
            worker = self._with_room(job.request, decision.worker)
        except RouterError as refusal:
            return self._fail(job, refusal)
        if worker is not None and not (self.waiting and queue.before(patience.priority, worker)):
            return self._send_waiting(job, worker, now)
        deadline = queue.deadline(job, patience, now)
        if deadline <= now:
            return self._fail(job, _waited_too_long(job))
        if queue.full():
            return self._fail(job, _queue_full(queue.rules.length))
        job.state, job.queued = WAITING, now
        queue.add(job, decision.worker, patience.priority, deadline)
        return _WAIT

    def _with_room(self, request: Request, named: Worker | None) -> Worker | None:
        """The worker that has room for a request that may wait. Raises RouterError when waiting cannot help.

        A named worker that a reload has removed is replaced by any that serves the request.
        """
        if named is not None and named.index >= 0:
            return named if named.status == READY else None
        try:
            return self.decider.room_for(request)
        except RouterError as refusal:
            if refusal.failure.should_retry:                 # nobody can be reached now: that may pass
                return None
            raise

    def _send_waiting(self, job: Job, worker: Worker, now: float) -> Send:
        """Sends a job that waited, or might have had to. Another model's name goes only to whom it was chosen for."""
        decision = job.decision
        assert decision is not None, "a job waits that nothing was decided about"
        if worker is not decision.worker:
            model = decision.model if decision.worker is None else None
            job.decision = decision = msgspec.structs.replace(decision, worker=worker, model=model)
        return self._send(job, decision, worker, now)

    def _leave_queue(self, job: Job, now: float) -> None:
        self.queue.remove(job)
        job.queue_s += now - job.queued

    def _release(self, job: Job, worker: Worker, failure: Failure | None, now: float, status: int = 0) -> None:
        job.worker = None
        result = "ok" if failure is None else failure.code
        job.attempts.append(Attempt(worker.id, result, int((now - job.sent) * 1e6) / 1000))
        if failure is None and status < 400:
            first = job.first_content if job.request.stream else None
            self.fleet.finished(
                worker, None, now, job.sent, None if first is None else first - job.sent, job.tokens_out
            )
        elif failure is None:                                 # a refusal comes fast and tells nothing of the speed
            self.fleet.finished(worker, None, now)
        else:
            self.fleet.finished(worker, failure, now, job.sent)

    def _fail(self, job: Job, refusal: RouterError) -> Fail:
        return self._end(job, FAILED, refusal.failure, refusal.message, refusal.param)

    def _end(self, job: Job, state: str, failure: Failure, message: str, param: str | None = None) -> Fail:
        asked = job.state != NEW or state != CANCELLED      # a new job that is cancelled was not decided about
        job.state = state
        job.failure = failure
        job.status = failure.status
        job.finished = self.env.now()
        if asked:
            self._completed(job)
        return Fail(failure, message, param)

    def _completed(self, job: Job) -> None:
        """The last step of every job that was asked about. A defect in it must not cost the client its answer."""
        try:
            self.decider.completed(job)
        except Exception as error:
            self.fault = error


def _failover(first: Decision, another: Decision) -> Decision:
    """The new decision with what the first one said that still holds, so that the log tells the whole story."""
    errors = [error for error in (first.error, another.error) if error is not None]
    return msgspec.structs.replace(
        another,
        reason=f"{first.reason}; then {another.reason}",
        error="; ".join(errors) if errors else None,
        explanation=first.explanation,
        then=first.then if another.then is None else another.then,
        headers=another.headers or first.headers,
        wanted=another.wanted or first.wanted,
        log=first.log + another.log,
    )


def _queue_full(length: int) -> RouterError:
    return RouterError("queue_full", f"no worker has room for this request, and the queue of {length} is full")


def _waited_too_long(job: Job) -> RouterError:
    return RouterError("queue_timeout", f"no worker had room for this request within {job.queue_s:.3g} s")


def _upstream_message(failure: Failure, tried: int) -> str:
    what = {
        "upstream_connect_failed": "could not connect to a worker",
        "out_of_resources": "the router has no sockets or memory left for a connection to a worker",
        "upstream_disconnected": "the worker closed the connection before its answer was complete",
        "upstream_protocol_error": "the worker did not answer with valid HTTP",
        "upstream_first_content_timeout": "the worker gave no content in time",
        "upstream_stalled": "the worker stopped sending",
        "upstream_deadline": "the request took longer than allowed",
    }.get(failure.code, failure.code)
    return f"{what} ({tried} tried)"
