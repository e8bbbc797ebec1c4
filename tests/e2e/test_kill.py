"""One of three workers is killed under 200 requests a second, and comes back: who notices.

Run by pytest; takes some 20 s. Workers and daemon are processes of their own.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.aio import story
from tests.support.behaviours import ANSWER_TEXT
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_process import fault_process
from tests.support.raw_client import Answer, Connection, NoAnswer
from tests.wire.answers import CHAT

REQUESTS_PER_S = 200
BEFORE_S, DEAD_S, AFTER_S = 3.0, 3.0, 7.0
SLOW_START_S = 3.0
WINDOW_S = 1.0
MIX = ["stream"] * 5 + ["plain"] * 3 + ["embedding"] * 2


@dataclass(frozen=True)
class Told:
    """What one client was told, and when it had asked."""

    asked_at: float
    kind: str
    answer: Answer | None
    content: str

    @property
    def good(self) -> bool:
        if self.answer is None or self.answer.status != 200 or not self.answer.complete:
            return False
        return self.content == ANSWER_TEXT if self.kind != "embedding" else b"0.1" in self.answer.body

    @property
    def worker(self) -> str | None:
        return None if self.answer is None else self.answer.headers.get("x-rbee-worker")


class Load:
    """So many requests a second, whatever becomes of them: half of them streams, some embeddings."""

    def __init__(self, router: DaemonProcess) -> None:
        self.router = router
        self.told: list[Told] = []
        self._chance = random.Random(20261126)
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for number in range(int(seconds * REQUESTS_PER_S)):
            await asyncio.sleep(max(0.0, began + number / REQUESTS_PER_S - loop.time()))
            task = loop.create_task(self._ask(self._chance.choice(MIX), len(self.told) + number))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def finished(self) -> None:
        if self._running:
            await asyncio.wait(self._running)

    async def _ask(self, kind: str, number: int) -> None:
        asked_at = asyncio.get_running_loop().time()
        if kind == "embedding":
            path, body = "/v1/embeddings", {"model": "tiny", "input": [f"text {number}"]}
        else:
            path = CHAT
            messages = [{"role": "user", "content": f"question {number}"}]
            body = {"model": "tiny", "messages": messages, "stream": kind == "stream"}
        async with Connection(self.router.port) as client:
            try:
                answer = self.router.books.note(await client.post(path, body))
            except NoAnswer:
                self.told.append(Told(asked_at, kind, None, ""))
                return
        self.told.append(Told(asked_at, kind, answer, text_of(answer, kind)))

    def share(self, worker: str, since: float, until: float) -> float:
        """Of what was asked in that time, how much this worker answered."""
        asked = [told.worker for told in self.told if since <= told.asked_at < until]
        return asked.count(worker) / len(asked)


def text_of(answer: Answer, kind: str) -> str:
    if answer.status != 200 or kind == "embedding":
        return ""
    if kind == "plain":
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text
    return "".join(event.content for event in answer.events())


def check_broken(told: Told) -> None:
    """Only a stream that had said something may fail, and its client hears of it."""
    assert told.kind == "stream", f"a {told.kind} request failed: {told.answer}"
    assert told.answer is not None, "a stream without an answer"
    assert told.content, f"a stream without content failed: {told.answer}"
    assert ANSWER_TEXT.startswith(told.content)
    assert not told.answer.complete
    assert b"[DONE]" not in told.answer.body
    assert told.answer.events()[-1].json()["error"]["type"] == "upstream_error"


@story(timeout_s=60.0)
async def test_a_worker_that_is_killed_costs_no_request_without_content_and_gets_its_share_again(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(fault_process(tmp_path, name, "slow_tokens", "--delay-s", "0.01"))
            for name in ("a", "b", "c")
        ]
        router = await stack.enter_async_context(daemon(
            tmp_path, *(worker.entry for worker in workers), probes={"interval_s": 0.3},
            health={"slow_start_s": SLOW_START_S},
        ))  # fmt: skip
        load, killed = Load(router), workers[1]
        began = loop.time()
        await load.run(BEFORE_S)
        killed_at = loop.time()
        killed.kill()
        await load.run(DEAD_S)
        assert (await router.workers())["b"]["status"] == "offline"
        await killed.start()
        back_at = loop.time()
        await load.run(AFTER_S)
        ended = loop.time()
        await load.finished()

        assert len(load.told) == int(BEFORE_S * REQUESTS_PER_S) + int(DEAD_S * REQUESTS_PER_S) + int(AFTER_S * REQUESTS_PER_S)
        broken = [told for told in load.told if not told.good]
        for told in broken:
            check_broken(told)
            assert killed_at - 1.0 < told.asked_at < killed_at + 0.1
        assert len(broken) < 0.05 * REQUESTS_PER_S * BEFORE_S

        steady = load.share("b", began + 0.5, killed_at - 0.2)
        assert 0.25 < steady < 0.42
        assert load.share("b", killed_at + 0.1, back_at) == 0.0
        shares = [load.share("b", back_at + WINDOW_S * number, back_at + WINDOW_S * (number + 1)) for number in range(6)]
        assert max(shares[:2]) < 0.75 * steady, f"it got its whole share at once: {shares}"
        assert load.share("b", ended - 2.0, ended) > 0.75 * steady, f"its share does not return: {shares}"

        lines = await router.wait_requests(len(load.told))
        outcomes = Counter(line["outcome"] for line in lines)
        assert outcomes == Counter(ok=len(load.told) - len(broken)) + Counter(upstream_failed=len(broken))
        assert killed.events("probe")[-1]["time"] > killed.events("listening")[1]["time"]
