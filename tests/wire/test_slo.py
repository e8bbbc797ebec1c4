"""Requests that slo-least-load-pulling holds, over real connections: what a worker does shows how many it can have.

Run by pytest, with the router in the test's loop. A token takes as many times 3 ms as there are requests, so the law
that is learned is clear; what is held is decided by a target in its middle, and not by how fast this machine is.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.routing.strategies.speeds import Ask, Speeds
from rbeerouter.server.strategy import Change
from tests.support.aio import story
from tests.support.behaviours import CHUNKED, LAST_CHUNK, SSE_TYPE, chunk, head
from tests.support.daemon import until
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.support.raw_client import Answer
from tests.support.raw_client import Connection as Client
from tests.wire.answers import CHAT, STREAMED, error_shape
from tests.wire.router import Router, router

TOKENS = 11
TOKEN_S = 0.003
SETTINGS = {"least_answers": 5, "caution": 0.0, "explore": 0.0}


class Shared:
    """A worker whose requests share its speed. As long as it is stopped, answers end after the first token."""

    def __init__(self) -> None:
        self.there = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.worker = FaultWorker(self._answer, name="w1")

    async def _answer(self, connection: Connection, request: Request) -> None:
        self.there += 1
        try:
            await connection.write(head(200, SSE_TYPE, CHUNKED) + chunk(event(choices=[{"delta": {"content": "a"}}])))
            await self.goes_on.wait()
            for _ in range(TOKENS - 1):
                await asyncio.sleep(TOKEN_S * self.there)
                await connection.write(chunk(event(choices=[{"delta": {"content": "a"}}])))
            usage = {"prompt_tokens": 10, "completion_tokens": TOKENS, "total_tokens": 10 + TOKENS}
            await connection.write(chunk(event(choices=[], usage=usage)) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK)
        finally:
            self.there -= 1


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "model": "tiny", **fields}).encode() + b"\n\n"


async def asked(under_test: Router, *headers: tuple[str, str]) -> Answer:
    return await under_test.post(CHAT, STREAMED, headers)


async def learned(under_test: Router) -> tuple[str, str]:
    """Shows the router how fast the worker is with one request and with two. The header of a client that wants each
    token sooner than two would get theirs."""
    for _ in range(5):
        await asked(under_test)
        await asyncio.gather(asked(under_test), asked(under_test))
    (speeds,) = (one for one in under_test.daemon.decider.memories.all if isinstance(one, Speeds))
    (law,) = speeds.laws([under_test.worker("w1")], "tiny")
    alone, beside = (law.expected(Ask(0.0, TOKENS), 0.0, others).tpot_s for others in (0, 1))
    assert alone is not None and beside is not None and beside > 1.2 * alone
    return "x-slo-tpot-ms", f"{(alone + beside) * 500:.3f}"


async def one_is_there(under_test: Router, shared: Shared) -> tuple[tuple[str, str], int, asyncio.Task[Answer]]:
    """The wish of `learned`, how many requests the worker had until then, and the one with that wish that it has now,
    and does not answer yet."""
    wish = await learned(under_test)
    before = len(shared.worker.requests)
    shared.goes_on.clear()
    first = asyncio.create_task(asked(under_test, wish))
    await until(lambda: shared.there == 1, "the first to be there")
    return wish, before, first


def waiting(under_test: Router) -> int:
    return len(under_test.daemon.listener.dispatcher.waiting)


@story
async def test_a_request_that_would_be_too_slow_beside_another_is_held_until_that_has_ended(tmp_path: Path) -> None:
    shared = Shared()
    slo = {"routing.strategies.slo": SETTINGS}
    async with shared.worker, router(tmp_path, shared.worker, routing={"strategy": "slo"}, **slo) as under_test:
        wish, before, first = await one_is_there(under_test, shared)
        second = asyncio.create_task(asked(under_test, wish))
        await until(lambda: waiting(under_test) == 1, "the second to be held")
        assert len(shared.worker.requests) == before + 1
        shared.goes_on.set()
        assert [(await one).status for one in (first, second)] == [200, 200]
        lines = (await under_test.wait_requests(before + 2))[-2:]
        assert [line["queue_ms"] > 0 for line in lines] == [False, True]


@pytest.mark.parametrize(("late", "status"), [("reject", 503), ("send", 200)])
@story
async def test_when_it_was_held_for_long_enough_it_is_refused_or_sent(tmp_path: Path, late: str, status: int) -> None:
    shared = Shared()
    slo = {"routing.strategies.slo": {**SETTINGS, "late": late, "queue_timeout_s": 0.8}}
    async with shared.worker, router(tmp_path, shared.worker, routing={"strategy": "slo"}, **slo) as under_test:
        wish, before, first = await one_is_there(under_test, shared)
        second = asyncio.create_task(asked(under_test, wish))
        await until(lambda: waiting(under_test) == 1, "the second to be held")
        if late == "reject":
            answer = await second
            assert error_shape(answer.json())[1] == "queue_timeout"
        else:
            await until(lambda: len(shared.worker.requests) == before + 2, "the second to be sent all the same")
        shared.goes_on.set()
        assert [(await one).status for one in (first, second)] == [200, status]
        assert waiting(under_test) == 0


@story
async def test_who_leaves_while_held_is_sent_nowhere_and_another_strategy_sends_the_others(tmp_path: Path) -> None:
    shared = Shared()
    slo = {"routing.strategies.slo": SETTINGS}
    async with shared.worker, router(tmp_path, shared.worker, routing={"strategy": "slo"}, **slo) as under_test:
        wish, before, first = await one_is_there(under_test, shared)
        async with Client(under_test.port) as leaving:
            leaving.send_request("POST", CHAT, STREAMED, [wish])
            await until(lambda: waiting(under_test) == 1, "the second to be held")
        await until(lambda: waiting(under_test) == 0, "it to be forgotten")
        third = asyncio.create_task(asked(under_test, wish))
        await until(lambda: waiting(under_test) == 1, "the third to be held")
        assert len(shared.worker.requests) == before + 1
        await under_test.daemon.strategy.change(Change("least-request"), "test")
        await until(lambda: shared.there == 2, "the third to be sent")
        shared.goes_on.set()
        answers = [await first, await third]
        assert [one.headers["x-rbee-strategy"] for one in answers] == ["slo-least-load-pulling", "least-request"]
        lines = (await under_test.wait_requests(before + 3))[before:]
        assert sorted(line["outcome"] for line in lines) == ["client_gone", "ok", "ok"]
