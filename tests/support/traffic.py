"""Tells memories of jobs as the dispatcher does, for tests of strategies that go by what was measured."""

from __future__ import annotations

from rbeerouter.core.dispatch import Job
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Report, Worker
from tests.support.builders import job


class Traffic:
    """Jobs on the workers of a fleet, with their counts and times right."""

    def __init__(self, made: Fleet, *memories: Memory) -> None:
        self.made = made
        self.memories = memories

    def send(self, name: str, now: float, **changes: object) -> Job:
        one, sent = self.made.workers[name], job(**changes)
        self.made.sent(one, now)
        sent.worker, sent.sent = one, now
        for memory in self.memories:
            memory.sent(sent, one, now)
        return sent

    def content(self, sent: Job, now: float) -> None:
        assert sent.worker is not None
        sent.first_content, sent.status = now, 200
        for memory in self.memories:
            memory.answering(sent, sent.worker, now)

    def end(self, sent: Job, now: float, failure: str | None = None, **usage: int | None) -> None:
        one = sent.worker
        assert one is not None
        for name, value in usage.items():
            setattr(sent, name, value)
        why = FAILURES[failure] if failure is not None else None
        sent.worker = None
        self.made.finished(one, why, now, sent.sent)
        for memory in self.memories:
            memory.released(sent, one, why, now)

    def serve(self, name: str, begin: float, end: float, first: float | None = None, **told: int | None) -> None:
        """A whole request. told: tokens_in, tokens_out."""
        sent = self.send(name, begin, stream=first is not None)
        self.content(sent, end if first is None else first)
        self.end(sent, end, **told)

    def tick(self, now: float) -> None:
        for memory in self.memories:
            memory.tick(now, self.made.ordered)


def restart(made: Fleet, name: str) -> Worker:
    """Its engine is started anew."""
    for started in (1.0, 50.0):
        made.apply(Report(name, True, None, 0.0, started_at=started))
    return made.workers[name]
