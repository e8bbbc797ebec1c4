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

from math import inf

import msgspec

from rbeerouter.core.errors import FAILURES, FULL, Failure, RouterError, retry_after
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.poison import Poison
from rbeerouter.core.queue import Queue
from rbeerouter.core.retry import Retries
from rbeerouter.core.seen import Call, Seen
from rbeerouter.core.types import (
    BUSY,
    OFFLINE,
    READY,
    REJECT,
    SEND,
    WAIT,
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
_COOL_DOWN_S = 1.0
"""How long a worker that has no room is left alone when it does not say."""


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send the request to this worker.

    model: the name to write into the body, None to leave it untouched
    fresh: on a new connection
    headers: to be added to the client's, in place of those of the same names
    pause_s: after so long, so that many who fail at once do not come back at once
    """

    worker: Worker
    model: str | None
    fresh: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    pause_s: float = 0.0


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Do nothing yet: `on_tick` will say what becomes of the job."""


class Fail(msgspec.Struct, frozen=True, gc=False):
    """Answer the client with this failure; no worker is working on the job any more."""

    failure: Failure
    message: str
    param: str | None = None


class PassOn(msgspec.Struct, frozen=True, gc=False):
    """No other worker will be tried: the client gets the error that the last one answered with.

    retry_after: when it may try again, in seconds; 0 when that cannot help.
    """

    retry_after: int = 0


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The client has its answer, or has left: nothing more to do."""


Effect = Send | Wait | Fail | PassOn | Finish
FINISH = Finish()
_WAIT = Wait()


class Job(msgspec.Struct, eq=False):
    """One request being served. Times are `Env.now` seconds; None until they happen.

    `queue_s` is how long it has waited for a worker; `queued` is when it began to, while it does. `refusals` are status
    and Retry-After in seconds of the workers that had no room for it. `sent_model` is the name in the body that
    the last worker got, where it is not the client's. `continued`: another worker went on with its stream. `first`
    is what was decided at first, `seen` what that was made from, and `calls` are those of the script's hooks. `caller`
    tells one client from another; it is a credential and must never be shown.
    """

    request: Request
    arrived: float
    wall: float
    state: str = NEW
    decision: Decision | None = None
    decision_s: float = 0.0
    queued: float = 0.0
    queue_s: float = 0.0
    refusals: tuple[tuple[int, float], ...] = ()
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
    sent_model: str | None = None
    continued: bool = False
    caller: bytes = b""
    first: Decision | None = None
    seen: Seen | None = None
    calls: tuple[Call, ...] = ()

    def failed_on(self) -> frozenset[str]:
        """The ids of the workers that failed it. One that only had no room may serve it yet."""
        return frozenset(one.worker_id for one in self.attempts if one.result != "upstream_overloaded")


def refused_job(request: Request, refusal: RouterError, arrived: float, wall: float, now: float) -> Job:
    """A job that ended before anything was decided: its body could not be understood."""
    job = Job(request, arrived, wall)
    job.state, job.failure, job.status, job.finished = FAILED, refusal.failure, refusal.failure.status, now
    return job


class Dispatcher:
    """Moves jobs through their states.

    Attributes:
        queue: who waits; its `rules` may be replaced at any time, as may those of `retries`.
        poison: bodies that workers died over; `wire`, which has the bodies, asks and tells it.
        waiting: {job: ...} of those who wait: false when nobody does, and its length is their number.
        fault: what `Decide.completed` raised last, which it must not; whoever reports it sets this to None.
    """

    def __init__(self, fleet: Fleet, decider: Decide, env: Env) -> None:
        self.fleet = fleet
        self.decider = decider
        self.env = env
        self.retries = Retries()
        self.poison = Poison()
        self.queue = Queue()
        self.waiting = self.queue.waiters
        self.fault: Exception | None = None

    def deadline(self, job: Job) -> float:
        """Until when a job must have been answered."""
        return self.queue.rules.time_limit(job)

    def sweep(self, now: float) -> None:
        """Called twice a second: what changes by time alone."""
        self.retries.tick(now)
        self.poison.tick(now)
        self.fleet.tick(now)
        for memory in self.decider.memories.all:
            memory.tick(now, self.fleet.ordered)

    def on_request(self, job: Job) -> Effect:
        """Decides, and counts the job on its worker in the same step."""
        now, decider = self.env.now, self.decider
        started = now()
        self.retries.requests += 1
        try:
            job.first = decision = decider.decide(job.request, job.wall)
        except RouterError as refusal:
            job.decision_s, job.seen = now() - started, decider.seen
            return self._fail(job, refusal)
        ended = now()
        job.decision_s, job.seen = ended - started, decider.seen
        if decision.action == SEND:                            # what `_follow` would do, for nearly all requests
            job.decision = decision
            return self._send(job, decision, decision.worker, ended)
        return self._follow(job, decision, ended)

    def refuse(self, job: Job, refusal: RouterError) -> Fail:
        """Ends a new job about which nothing need be decided."""
        self.retries.requests += 1
        return self._fail(job, refusal)

    def on_content(self, job: Job, now: float) -> None:
        """The client gets the first content of its answer."""
        job.first_content = now
        worker = job.worker
        if worker is not None:
            for memory in self.decider.memories.all:
                memory.answering(job, worker, now)

    def on_outcome(self, job: Job, outcome: Outcome) -> Effect:
        """An attempt ended. Says whether the job is finished, has failed, or goes to a worker again.

        1. The client has the worker's whole answer, good or bad: finish.
        2. The worker had closed a reused connection before a byte came back: the same worker on a fresh connection,
           once (a fresh one cannot be stale); no blame. That is taken from the budget of retries, as workers that fall
           over each request look the same.
        3. The client has got some content, or the failure is not one to try again: fail.
        4. The retry law (core/retry.py) allows another try, and the decider names another worker: send there. Or it has
           words of its own for the client: fail with them. Or it lets the job wait for room.
        5. Otherwise the client gets the worker's own error, where it has one to show, or ours.
        """
        worker, decision = job.worker, job.decision
        assert worker is not None and decision is not None, "an outcome for a job that is on no worker"
        now = self.env.now()
        failure = outcome.failure
        if outcome.stale and not job.was_stale and self.retries.spend():
            job.was_stale = True
            return Send(worker, decision.model, True, decision.headers)
        self._release(job, worker, failure, now, outcome.status)
        if failure is None or outcome.delivered:
            job.state, job.status, job.finished = DONE, outcome.status, now
            self._completed(job)
            return FINISH
        if failure.retry == FULL:
            self._refused_by(job, worker, outcome, now)
        if not outcome.committed and not outcome.poisonous and self._may_retry(job, failure, now):
            another = self.decider.another(job, failure)
            if another is not None and not self._comes_too_late(job, another, now):
                pause_s = self.retries.pause_s(failure, len(job.tried), self.env.rng)
                return self._follow(job, _failover(decision, another), now, pause_s)
        return self._give_up(job, outcome, failure)

    def _may_retry(self, job: Job, failure: Failure, now: float) -> bool:
        return self.retries.allowed(failure, job.attempts, now, job.arrived, self.deadline(job))

    def _refused_by(self, job: Job, worker: Worker, outcome: Outcome, now: float) -> None:
        """The worker had no room: nobody else is sent there until it wants to be asked again."""
        wanted = outcome.retry_after_s
        job.refusals += ((outcome.status, _COOL_DOWN_S if wanted is None else wanted),)
        self.fleet.cool_down(worker, _COOL_DOWN_S if wanted is None else wanted, now)

    def _give_up(self, job: Job, outcome: Outcome, failure: Failure) -> Effect:
        """All that could be tried has been. The client gets the last worker's own error, or ours where it has none, or
        where workers without room did not all say the same."""
        if outcome.poisonous and not outcome.committed:
            return self._end(job, FAILED, FAILURES["poison_request"], "two workers have died over this request")
        shown, seconds = outcome.answered, 0
        if failure.retry == FULL:
            failure = _no_room(failure, job)
            seconds, shown = failure.retry_after, shown and len({status for status, _ in job.refusals}) == 1
        if shown:
            job.state, job.status, job.finished = DONE, outcome.status, self.env.now()
            self._completed(job)
            return PassOn(seconds)
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
        found: Decision | None = None                          # for the job that is let go next

        def find(job: Job, named: Worker | None) -> Worker | None:
            nonlocal found
            try:
                found = self._with_room(job, named)
            except RouterError as refusal:
                self._leave_queue(job, now)
                effects.append((job, self._fail(job, refusal)))
                return None
            return None if found is None else found.worker

        self.queue.share_by(self.decider.shares)
        for job, _ in self.queue.admit(find):
            job.queue_s += now - job.queued
            assert found is not None, "a job is let go that has nowhere to go"
            effects.append((job, self._send_waiting(job, found, now)))
        for job in self.queue.overdue(now):
            self._leave_queue(job, now)
            effects.append((job, self._fail(job, _waited_too_long(job))))
        return effects

    def _follow(self, job: Job, decision: Decision, now: float, pause_s: float = 0.0) -> Effect:
        """Does what was decided."""
        job.decision = decision
        if decision.action == SEND:
            return self._send(job, decision, decision.worker, now, pause_s)
        if decision.action == REJECT:
            refusal = decision.refusal
            assert refusal is not None, "a rejection without words"
            return self._end(job, FAILED, refusal.failure, refusal.message, refusal.param)
        return self._wait(job, decision, now)

    def _send(
        self, job: Job, decision: Decision, worker: Worker | None, now: float, pause_s: float = 0.0
    ) -> Send:
        assert worker is not None, "a decision to send that names no worker"
        job.state = SENDING
        job.was_stale = False
        job.worker = worker
        job.sent = now
        job.tried.append(worker.id)
        self.fleet.sent(worker, now)
        for memory in self.decider.memories.all:
            memory.sent(job, worker, now)
        return Send(worker, decision.model, False, decision.headers, pause_s)

    def _wait(self, job: Job, decision: Decision, now: float) -> Effect:
        """To the worker at once when it has room and nobody stands before this job; else into the queue, if it can be
        served in time from there."""
        queue, patience = self.queue, decision.patience or _PATIENCE
        queue.share_by(self.decider.shares)
        try:
            found = self._with_room(job, decision.worker)
        except RouterError as refusal:
            return self._fail(job, refusal)
        if found is not None and not self._is_awaited(found.worker, patience):
            return self._send_waiting(job, found, now)
        deadline = queue.deadline(job, patience, now)
        if deadline <= now:
            return self._fail(job, _waited_too_long(job))
        rests_until = self._rests_until(job, decision)
        if rests_until > deadline:
            what = "the workers that could serve this request want to be left alone for longer than it can wait"
            return self._fail(job, RouterError("queue_timeout", what, retry_after_s=rests_until - now))
        refusal = queue.refusal(job, decision.worker, patience, deadline - now, self._room_per_s(job))
        if refusal is not None:
            return self._fail(job, refusal)
        job.state, job.queued = WAITING, now
        queue.add(job, decision.worker, patience, deadline)
        return _WAIT

    def _could_have(self, job: Job, worker: Worker) -> bool:
        """May a job that waits for no one by name go to this worker?"""
        return worker in self.decider.serving(job)

    def _rests_until(self, job: Job, decision: Decision) -> float:
        """When the first of the workers that it would wait for may be asked again; in the past if one may be now."""
        workers = self.decider.serving(job) if decision.worker is None else [decision.worker]
        resting = [one.cooling_until for one in workers if one.status != OFFLINE]
        return min(resting) if resting else 0.0

    def _comes_too_late(self, job: Job, decision: Decision, now: float) -> bool:
        """Would a job that is to wait after a failure wait in vain?"""
        if decision.action != WAIT:
            return False
        return self._rests_until(job, decision) > self.queue.deadline(job, decision.patience or _PATIENCE, now)

    def _room_per_s(self, job: Job) -> float | None:
        """How many requests a second the workers that this job waits for finish when they are full; None while nothing
        is known of their speed."""
        decision = job.decision
        assert decision is not None, "a job waits that nothing was decided about"
        named = decision.worker
        workers = self.decider.serving(job) if named is None else [named]
        rates = [
            one.capacity / max(one.latency_ms / 1000, 1e-3)
            for one in workers
            if one.latency_ms is not None and one.status != OFFLINE
        ]
        return sum(rates) if rates else None

    def place(self, job: Job) -> tuple[int, float | None]:
        """Of a job that waits: (who goes before it in its line, seconds until its turn or None)."""
        before = self.queue.position(job)
        rate = self._room_per_s(job)
        return before, (before + 1) / rate if rate else None

    def _is_awaited(self, worker: Worker | None, patience: Patience) -> bool:
        """Does anybody wait for this worker who goes before a newcomer?"""
        if not self.waiting or worker is None:
            return False
        return self.queue.before(patience, worker, self._could_have)

    def _with_room(self, job: Job, named: Worker | None) -> Decision | None:
        """The decision by which a request that may wait goes to a worker that has room. Raises RouterError when waiting
        cannot help.

        A named worker that a reload has removed is replaced by any that serves the request.
        """
        if named is not None and named.index >= 0:
            has_room = named.status == READY or (named.status == BUSY and named.takes_more)
            return job.decision if has_room else None
        try:
            return self.decider.room_for(job)
        except RouterError as refusal:
            if refusal.failure.should_retry:                 # nobody can be reached now: that may pass
                return None
            raise

    def _send_waiting(self, job: Job, decision: Decision, now: float) -> Send:
        """Sends a job that waited, or might have had to. Another model's name goes only to whom it was chosen for."""
        before = job.decision
        assert before is not None, "a job waits that nothing was decided about"
        if before.worker is not None and decision.worker is not before.worker:
            decision = msgspec.structs.replace(decision, model=None)
        job.decision = decision
        return self._send(job, decision, decision.worker, now)

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
        for memory in self.decider.memories.all:
            memory.released(job, worker, failure, now)

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
        if (text := job.request.text) is not None:             # requests are kept for longer than their bodies may be
            text.forget()


def _failover(first: Decision, another: Decision) -> Decision:
    """The new decision with what the first one said that still holds, so that the log tells the whole story."""
    errors = [error for error in (first.error, another.error) if error is not None]
    return msgspec.structs.replace(
        another,                                               # with its strategy, and what that tells the client
        reason=f"{first.reason}; then {another.reason}",
        error="; ".join(errors) if errors else None,
        explanation=first.explanation,
        then=first.then if another.then is None else another.then,
        headers=another.headers or first.headers,
        wanted=another.wanted or first.wanted,
        log=first.log + another.log,
    )


def _no_room(failure: Failure, job: Job) -> Failure:
    """The failure with the smallest of the times after which workers wanted to be asked again; it is a 429 only if all
    of them said so."""
    failure = msgspec.structs.replace(failure, retry_after=retry_after(min(seconds for _, seconds in job.refusals)))
    if all(status == 429 for status, _ in job.refusals):
        return msgspec.structs.replace(failure, status=429, type="rate_limit_error")
    return failure


def _waited_too_long(job: Job) -> RouterError:
    patience = job.decision.patience if job.decision is not None else None
    if patience is not None and patience.due < inf:            # held for the sake of its target
        what = f"no worker would answer this request as soon as it has to be; it waited for {job.queue_s:.3g} s"
        return RouterError("queue_timeout", what)
    return RouterError("queue_timeout", f"no worker had room for this request within {job.queue_s:.3g} s")


def _upstream_message(failure: Failure, tried: int) -> str:
    what = {
        "upstream_connect_failed": "could not connect to a worker",
        "out_of_resources": "the router has no sockets or memory left for a connection to a worker",
        "upstream_disconnected": "the worker closed the connection before its answer was complete",
        "upstream_overloaded": "the worker has no room for more requests",
        "upstream_error_status": "the worker answered with an error that says nothing",
        "upstream_unusable": "the worker cannot be used for this request",
        "upstream_error_event": "the worker answered with an error in place of content",
        "upstream_protocol_error": "the worker gave no valid answer",
        "upstream_first_content_timeout": "the worker gave no content in time",
        "upstream_stalled": "the worker stopped sending",
        "upstream_deadline": "the request took longer than allowed",
    }.get(failure.code, failure.code)
    return f"{what} ({tried} tried)"
