"""Tests of requests whose prompt is read before it is decided who gets them: nothing is counted, sent or lost meanwhile.

Run by pytest, with the router in the test's loop. The reader is the test's own; the true one is in
tests/control/test_tokenizers.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rbeerouter.core.types import Request
from tests.support.aio import story
from tests.support.daemon import until
from tests.support.fault_worker import FaultWorker
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape
from tests.wire.router import SWEEP_S, Router, router
from tests.wire.test_leaving import leave


class SlowReader:
    """Reads for as long as a test wants.

    Attributes:
        reading: bodies that are being read. left: those of which the reading was given up.
    """

    def __init__(self, under_test: Router, wanted: bool = True) -> None:
        self.wanted = wanted
        self.reading: list[bytes] = []
        self.left: list[bytes] = []
        self.may_end = asyncio.Event()
        under_test.daemon.listener.reader = self

    def asks(self, request: Request) -> bool:
        return self.wanted

    async def read(self, request: Request, body: bytes) -> None:
        self.reading.append(body)
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.left.append(body)
            raise

    async def begun(self, count: int = 1) -> None:
        await until(lambda: len(self.reading) >= count, f"{count} prompts are being read")


@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@story
async def test_it_is_decided_when_the_prompt_is_read(body: dict[str, object], tmp_path: Path) -> None:
    limits = {"first_content_s": 0.1, "gap_s": 0.1}
    async with FaultWorker() as worker, router(tmp_path, worker, limits=limits) as under_test:
        reader = SlowReader(under_test)
        async with under_test.connect() as client:
            answer = asyncio.ensure_future(client.post(CHAT, body))
            await reader.begun()
            await asyncio.sleep(10 * SWEEP_S)                  # reading is no part of what a worker may take
            assert (under_test.worker(worker).in_flight, worker.requests) == (0, [])
            reader.may_end.set()
            assert (await answer).status == 200
        assert (await under_test.wait_request())["outcome"] == "ok"


@story
async def test_what_need_not_be_read_is_decided_at_once(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        reader = SlowReader(under_test, wanted=False)
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert reader.reading == []


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@story
async def test_a_client_that_leaves_meanwhile_ends_the_reading_and_has_one_line(how: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        reader = SlowReader(under_test)
        client = under_test.connect()
        async with client:
            client.send_request("POST", CHAT, PROMPT)
            await reader.begun()
            await leave(client, how)
            line = await under_test.wait_request()
        assert {name: line.get(name) for name in ("outcome", "status", "error", "worker", "attempts")} == {
            "outcome": "client_gone", "status": 499, "error": "client_gone", "worker": None, "attempts": None,
        }  # fmt: skip
        await until(lambda: len(reader.left) == 1, "the reading was given up")
        assert worker.requests == []


@story
async def test_the_end_of_the_daemon_ends_the_reading(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        reader = SlowReader(under_test)
        async with under_test.connect() as client:
            client.send_request("POST", CHAT, PROMPT)
            await reader.begun()
            await under_test.daemon.listener.drain(0)
            answer = await client.receive()
        assert (answer.status, error_shape(answer.json())[1]) == (503, "draining")
        assert (len(reader.left), worker.requests) == (1, [])


@story
async def test_who_is_behind_it_on_the_same_connection_waits(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        reader = SlowReader(under_test)
        async with under_test.connect() as client:
            for _ in range(2):
                client.send_request("POST", CHAT, PROMPT)
            await reader.begun()
            reader.may_end.set()
            assert [(await client.receive()).status for _ in range(2)] == [200, 200]
        assert len(reader.reading) == 2


@story
async def test_where_nobody_can_serve_it_the_client_is_told_after_the_reading(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker, offline=[worker]) as under_test:
        reader = SlowReader(under_test)
        reader.may_end.set()
        assert (await under_test.post(CHAT, PROMPT)).status == 503
        assert (await under_test.wait_request())["outcome"] == "rejected"
