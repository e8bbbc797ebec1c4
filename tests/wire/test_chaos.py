"""Tests that nothing is lost or left behind, whatever workers and clients do at the same time.

Run by pytest, with the router in the test's loop. A seed says which fault and which client meets which; the router's
books (tests/wire/router.py) are checked at the end of each run: one line for each request, nothing in flight, no
connection, no task, nothing that failed unheard.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.daemon import until
from tests.support.fault_worker import FaultWorker, Request
from tests.support.raw_client import Connection, NoAnswer, request_bytes
from tests.wire.answers import CHAT
from tests.wire.router import Router, router

REQUESTS = int(os.environ.get("RBEE_CHAOS_REQUESTS", "300"))
AT_ONCE = 24
FAULTS = (
    *("ok",) * 12, *("slow_tokens",) * 4, "slow_first", "close_before_head", "close_after_role", "close_mid_stream",
    "reset_mid_stream", "reset_before_head", "status_429", "429@0", "503@0", "500", "400", "404", "error_event",
    "hang", "hang_after_head", "hang_after_2", "only_comments", "garbage", "html", "ok_close", "late_data", "redirect",
    "eof_stream_no_done", "cut_event", "extra_data", "die@2", "error@2", "end@1",
)  # fmt: skip
LIMITS = {
    "gap_s": 0.3, "first_content_s": 0.3, "request_s": 1.0, "stream_s": 1.5, "comment_s": 0.05, "queue_s": 0.4,
    "queue_length": 12, "write_stall_s": 0.3, "connect_s": 0.5,
}  # fmt: skip
SCRIPT = """
function route_request(request, workers)
  if request.user_id == "1" then return queue() end
  if request.user_id == "2" then return queue(workers[1]) end
  if request.user_id == "3" then return {workers[2].id, workers[1].id} end
end
"""


def faulty(name: str, chance: random.Random) -> FaultWorker:
    def behave(request: Request) -> str:
        return chance.choice(FAULTS)

    worker = FaultWorker(behave, name=name)
    worker.delay_s = 0.02
    return worker


class Client:
    """Sends one request after the other, and does with each what chance says."""

    def __init__(self, under_test: Router, chance: random.Random) -> None:
        self._under_test = under_test
        self._chance = chance

    def _request(self) -> bytes:
        chance = self._chance
        body = {
            "model": chance.choice(("tiny", "tiny", "other")), "stream": chance.random() < 0.6,
            "user": str(chance.randrange(5)), "messages": [{"role": "user", "content": str(chance.random())}],
        }  # fmt: skip
        headers = [("authorization", f"Bearer {chance.randrange(3)}")]
        if chance.random() < 0.2:
            headers.append(("x-rbee-timeout-ms", str(chance.randrange(20, 400))))
        made = request_bytes("POST", CHAT, body, headers, host="router")
        return made.replace(b"HTTP/1.1", b"HTTP/1.0", 1) if chance.random() < 0.1 else made

    async def one(self) -> None:
        chance = self._chance
        async with Connection(self._under_test.port) as connection:
            ahead = chance.choice((1, 1, 1, 2, 3))
            for _ in range(ahead):
                connection.send(self._request())
            way = chance.choice(("read", "read", "read", "leave", "reset", "half", "stall"))
            if way == "stall":
                connection.pause()
            if way != "read":
                await asyncio.sleep(chance.random() * 0.3)
            if way == "half" and not connection.ended:
                connection.half_close()
            elif way == "reset":
                connection.abort()
            elif way == "read":
                with contextlib.suppress(NoAnswer):
                    for _ in range(ahead):
                        answer = await connection.receive(timeout_s=8.0)
                        self._judge(answer)

    def _judge(self, answer: Any) -> None:
        wait = answer.headers.get("retry-after")
        assert wait is None or 0 <= int(wait) <= 60, "nobody is sent away for more than a minute"
        if answer.status >= 400:
            assert answer.headers["x-should-retry"] in ("true", "false"), "each error says whether to try again"
        body = answer.body
        if answer.headers.get("content-type", "").startswith("text/event-stream") and answer.complete:
            whole = b"[DONE]" in body or b'"finish_reason": "' in body or b'"finish_reason":"' in body
            assert whole or b'"error"' in body, body
            assert body.count(b"HTTP/1.1") == 0, "one head for one answer"


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("continued", [False, True], ids=["plain", "continued"])
@story(timeout_s=600.0)
async def test_whatever_happens_each_request_has_one_line_and_leaves_nothing(
    continued: bool, seed: int, tmp_path: Path
) -> None:
    await chaos(tmp_path, seed, {"models": [{"name": "tiny", "continuation": True}]} if continued else {})


@story(timeout_s=600.0)
async def test_what_is_under_way_when_the_drain_ends_has_its_lines_too(tmp_path: Path) -> None:
    await chaos(tmp_path, 4, {"models": [{"name": "tiny", "continuation": True}]}, drained=True)


async def chaos(folder: Path, seed: int, models: dict[str, Any], drained: bool = False) -> None:
    chance = random.Random(seed)
    workers = [faulty(f"w{number}", chance) for number in range(1, 4)]
    async with contextlib.AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        entries = [
            {"id": one.name, "url": one.url, "models": ["tiny", "other"], "max_concurrency": 4} for one in workers
        ]
        under_test = await stack.enter_async_context(
            router(folder, *entries, script=SCRIPT, limits=LIMITS, **models)
        )
        left = iter(range(REQUESTS))

        async def go_on() -> None:
            for number in left:
                if number == REQUESTS // 2 and drained:
                    await under_test.daemon.listener.drain(0.1)
                elif number == REQUESTS // 2:
                    without_the_last(under_test)
                try:
                    await Client(under_test, chance).one()
                except ConnectionError:
                    assert under_test.daemon.listener.draining
                    return

        await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))
        await under_test.check_books()
        for worker in workers:
            idle = under_test.idle_connections(worker) if worker.name in under_test.daemon.fleet.workers else 0
            await until(lambda worker=worker, idle=idle: worker.open_connections <= idle, f"no more to {worker.name}")
        assert not under_test.daemon.listener.waiters._exchanges


def without_the_last(under_test: Router) -> None:
    """What a reload does that removes a worker with requests under way."""
    daemon = under_test.daemon
    left = daemon.config.workers[:-1]
    daemon.fleet.configure(left)
    daemon.listener.pools.swap(type(daemon.listener.pools).prepare(left, daemon.config.limits))
