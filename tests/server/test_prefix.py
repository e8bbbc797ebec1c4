"""Tests of prefix-cache with the real daemon: conversations stay where their beginning is, also over a reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbeerouter.routing.strategies.prefix import PrefixIndex
from tests.support.aio import story
from tests.support.daemon import daemon
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import post
from tests.wire import router as in_process
from tests.wire.answers import CHAT

ROUTING = {"strategy": "prefix-cache"}
TURNS = 3


def turns(talk: int, count: int) -> dict[str, Any]:
    """So many turns of a conversation that begins like no other."""
    messages = []
    for turn in range(count):
        messages.append({"role": "user", "content": f"Conversation {talk}, question {turn}. " * 30})
        messages.append({"role": "assistant", "content": f"Answer {turn}. " * 30})
    return {"model": "tiny", "messages": messages[:-1]}


@story
async def test_conversations_are_spread_and_stay_where_they_began_also_over_a_reload(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, FaultWorker(name="c") as c:
        async with daemon(tmp_path, a, b, c, routing=ROUTING) as router:
            went: dict[int, list[str]] = {talk: [] for talk in range(6)}
            for count in range(1, TURNS + 1):
                for talk, workers in went.items():
                    answer = await router.post(CHAT, turns(talk, count))
                    workers.append(answer.headers["x-rbee-worker"])
                    assert (answer.status, answer.headers["x-rbee-strategy"]) == (200, "prefix-cache")
                assert (await router.reload())["ok"]
    assert all(len(set(workers)) == 1 for workers in went.values()), went
    assert sorted(workers[0] for workers in went.values()) == ["a", "a", "b", "b", "c", "c"]


@story
async def test_a_request_that_has_ended_keeps_nothing_of_its_body(tmp_path: Path) -> None:
    async with FaultWorker() as worker, in_process.router(tmp_path, worker, routing=ROUTING) as under_test:
        jobs = []
        record = under_test.daemon.listener.record
        under_test.daemon.listener.record = lambda job: (jobs.append(job), record(job))
        asked = turns(0, 3)
        assert (await post(under_test.port, CHAT, asked)).status == 200
        assert (await post(under_test.port, CHAT, {**asked, "model": 5})).status == 400
        index = under_test.daemon.decider.memories.of(PrefixIndex, under_test.daemon.config.routing.strategies.prefix)
        assert (len(index.blocks) > 8, index._flights, sum(index.queued.values())) == (True, {}, 0)
        texts = [job.request.text for job in jobs]
        assert [None if text is None else (text.body, list(text.blocks())) for text in texts] == [(b"", []), None]


@story
async def test_what_has_no_prompt_goes_by_the_next_strategy(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, routing=ROUTING) as router:
        answer = await router.post("/v1/embeddings", {"model": "tiny", "input": "words"})
        assert (answer.status, answer.headers["x-rbee-strategy"]) == (200, "least-request")
