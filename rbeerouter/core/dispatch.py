"""The life of a job: what to do next, decided without doing it.

`wire.exchange` tells the dispatcher what happened (a request arrived, an attempt ended, the client left) and performs
the effect it gets back. Nothing here waits or sends; the same code runs under a simulated clock.

    new -> sending -> done | failed | cancelled
             ^  |
             +--+  an attempt failed, another worker is tried

In-flight counts cannot drift: a worker's count is raised in `_send`, in the same step as the decision, and lowered in
`_release`, which every way out of `sending` passes exactly once because it empties `job.worker`.
"""

from __future__ import annotations

import msgspec

from rbeerouter.core.errors import FAILURES, Failure, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Attempt, Decide, Decision, Env, Outcome, Request, Worker

NEW, SENDING, DONE, FAILED, CANCELLED = "new", "sending", "done", "failed", "cancelled"


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send the request to this worker; `model` is the name to write into the body, None to leave it untouched."""

    worker: Worker
    model: str | None
    fresh: bool = False


class Fail(msgspec.Struct, frozen=True, gc=False):
    """Answer the client with this failure; no worker is working on the job any more."""

    failure: Failure
    message: str
    param: str | None = None


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The client has its answer, or has left: nothing more to do."""


Effect = Send | Fail | Finish
FINISH = Finish()


class Job(msgspec.Struct, eq=False):
    """One request being served. Times are `Env.now` seconds; None until they happen."""

    request: Request
    arrived: float
    wall: float
    state: str = NEW
    decision: Decision | None = None
    decision_s: float = 0.0
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


def refused_job(request: Request, refusal: RouterError, arrived: float, wall: float, now: float) -> Job:
    """A job that ended before anything was decided: its body could not be understood."""
    job = Job(request, arrived, wall)
    job.state, job.failure, job.status, job.finished = FAILED, refusal.failure, refusal.failure.status, now
    return job


class Dispatcher:
    """Moves jobs through their states.

    Args:
        attempts: how many workers may be tried for one request, the first included.
    """

    def __init__(self, fleet: Fleet, decider: Decide, env: Env, attempts: int = 3) -> None:
        self.fleet = fleet
        self.decider = decider
        self.env = env
        self.attempts = attempts

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
        return self._send(job, decision, ended)

    def on_outcome(self, job: Job, outcome: Outcome) -> Effect:
        """An attempt ended. Says whether the job is finished, has failed, or goes to a worker again.

        1. The client has the worker's whole answer, good or bad: finish.
        2. The worker had closed a reused connection before a byte came back: the same worker on a fresh connection,
           once (a fresh one cannot be stale); no blame.
        3. The client has got some content, or the failure is not one to try again: fail.
        4. Attempts are left and another worker can serve it: send there. Otherwise fail.
        """
        worker, decision = job.worker, job.decision
        assert worker is not None and decision is not None, "an outcome for a job that is on no worker"
        now = self.env.now()
        failure = outcome.failure
        if outcome.stale and not job.was_stale:
            job.was_stale = True
            return Send(worker, decision.model, fresh=True)
        self._release(job, worker, failure, now)
        if failure is None or outcome.delivered:
            job.state, job.status, job.finished = DONE, outcome.status, now
            return FINISH
        if failure.retry and not outcome.committed and len(job.tried) < self.attempts:
            another = self.decider.another(job.request, job.tried, decision.model or job.request.model)
            if another is not None:
                return self._send(job, another, now)
        return self._end(job, FAILED, failure, _upstream_message(failure, len(job.tried)))

    def on_cancel(self, job: Job, code: str = "client_gone") -> Effect:
        """The client left or stopped reading. Not the worker's fault; nothing is tried again."""
        if job.state not in (NEW, SENDING):
            return FINISH
        if job.worker is not None:
            self._release(job, job.worker, FAILURES[code], self.env.now())
        self._end(job, CANCELLED, FAILURES[code], "")
        return FINISH

    def _send(self, job: Job, decision: Decision, now: float) -> Send:
        worker = decision.worker
        job.decision = decision if job.decision is None else _failover(job.decision, decision)
        job.state = SENDING
        job.was_stale = False
        job.worker = worker
        job.sent = now
        job.tried.append(worker.id)
        self.fleet.sent(worker, now)
        return Send(worker, decision.model)

    def _release(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        job.worker = None
        result = "ok" if failure is None else failure.code
        job.attempts.append(Attempt(worker.id, result, int((now - job.sent) * 1e6) / 1000))
        self.fleet.finished(worker, failure, now, job.sent)

    def _fail(self, job: Job, refusal: RouterError) -> Fail:
        return self._end(job, FAILED, refusal.failure, refusal.message, refusal.param)

    def _end(self, job: Job, state: str, failure: Failure, message: str, param: str | None = None) -> Fail:
        job.state = state
        job.failure = failure
        job.status = failure.status
        job.finished = self.env.now()
        return Fail(failure, message, param)


def _failover(first: Decision, another: Decision) -> Decision:
    """The new worker with the first decision's reason kept, so that the log tells the whole story."""
    return Decision(
        another.worker, another.by, f"{first.reason}; then {another.reason}", another.model, first.error, first.excluded
    )


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
