"""Prompts of named blocks, and traffic told to memories by hand, for the tests of the prefix strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbeerouter.core.dispatch import Job
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.memory import Memories
from rbeerouter.core.types import Request, Worker
from rbeerouter.sim.types import BlockNames
from tests.support.builders import request

TOKENS = 10
"""Of a block, unless a test says otherwise."""
DIED = FAILURES["upstream_disconnected"]


def prompt(blocks: Sequence[int], tokens: int | None = None, block_tokens: int = TOKENS, **more: Any) -> Request:
    """A request that says these blocks. tokens: of all of it; None: as many as the blocks have."""
    text = BlockNames(tuple(blocks), block_tokens)
    return request(text=text, prompt_tokens=len(blocks) * block_tokens if tokens is None else tokens, **more)


class Traffic:
    """Sends jobs to the workers of a fleet and tells the memories of it, as the dispatcher does."""

    def __init__(self, fleet: Fleet, memories: Memories) -> None:
        self.fleet, self.memories, self.now = fleet, memories, 100.0

    def send(self, asked: Request, name: str) -> Job:
        worker = self.worker(name)
        job = Job(asked, self.now, self.now, worker=worker)
        self.fleet.sent(worker, self.now)
        for memory in self.memories.all:
            memory.sent(job, worker, self.now)
        return job

    def answer(self, job: Job, status: int = 200) -> Job:
        job.status, job.first_content = status, self.now
        for memory in self.memories.all:
            memory.answering(job, self.worker(job), self.now)
        return job

    def end(self, job: Job, failure: Any = None) -> Job:
        worker, job.worker = self.worker(job), None
        self.fleet.finished(worker, failure, self.now)
        for memory in self.memories.all:
            memory.released(job, worker, failure, self.now)
        return job

    def serve(self, asked: Request, name: str) -> None:
        self.end(self.answer(self.send(asked, name)))

    def tick(self, seconds: float = 0.5) -> None:
        self.now += seconds
        for memory in self.memories.all:
            memory.tick(self.now, self.fleet.ordered)

    def worker(self, which: str | Job) -> Worker:
        if isinstance(which, str):
            return self.fleet.workers[which]
        assert which.worker is not None
        return which.worker
