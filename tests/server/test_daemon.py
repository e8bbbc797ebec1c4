"""Tests of the daemon's life: it starts, it drains when told to stop, and it hurries when told twice.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.behaviours import ANSWER_TEXT
from tests.support.daemon import DaemonProcess, daemon, until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Answer, get, request_bytes
from tests.support.raw_client import Connection as Client
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape

SOON_S = 2.0


def text_of(answer: Answer) -> str:
    return "".join(event.content for event in answer.events())


async def refused_soon(port: int) -> None:
    """Wait until a connect is refused."""

    async def is_refused() -> bool:
        try:
            await get(port, "/health", timeout_s=1.0)
        except OSError:
            return True
        return False

    deadline = asyncio.get_running_loop().time() + SOON_S
    while not await is_refused():
        assert asyncio.get_running_loop().time() < deadline, "still accepting"


async def begin(client: Client, worker: FaultWorker, body: dict[str, Any]) -> None:
    """Send a request and wait until the worker has it."""
    count = len(worker.requests)
    client.send_request("POST", CHAT, body)
    await worker.wait_requests(count + 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@story
async def test_requests_under_way_are_finished_and_no_new_ones_taken(number: signal.Signals, tmp_path: Path) -> None:
    async with (
        FaultWorker("slow_tokens") as worker,
        daemon(tmp_path, worker) as router,
        Client(router.port) as stream,
        Client(router.port) as whole,
        Client(router.port) as idle,
    ):
        worker.delay_s = 0.1
        assert (await idle.get("/health")).status == 200
        await begin(stream, worker, STREAMED)
        worker.behave = "slow_first"
        await begin(whole, worker, PROMPT)
        router.signal(number)
        await idle.until_ended(SOON_S)
        await refused_soon(router.port)
        health = await router.page("/health")
        assert (health.status, health.json()["status"]) == (503, "draining")
        answers = await asyncio.gather(stream.receive(), whole.receive())
        assert [(answer.status, answer.complete) for answer in answers] == [(200, True)] * 2
        assert (text_of(answers[0]), answers[1].headers["connection"]) == (ANSWER_TEXT, "close")
        assert await router.ended(SOON_S) == 0
        assert [line["outcome"] for line in router.requests()] == ["ok", "ok"]
        assert router.log_lines("draining")[0]["in_flight"] == 2
        assert router.log_lines("stopped")[0]["requests"] == 2


@story
async def test_a_request_that_is_half_sent_is_still_served(tmp_path: Path) -> None:
    asked = request_bytes("POST", CHAT, PROMPT, [], host="x")
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.port) as client:
        client.send(asked[:-10])
        await until_seen(router, connections=1)
        router.signal(signal.SIGTERM)
        await refused_soon(router.port)
        client.send(asked[-10:])
        answer = await client.receive()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await router.ended(SOON_S) == 0


async def until_seen(router: DaemonProcess, connections: int) -> None:
    """Wait until the daemon has accepted that many client connections."""
    deadline = asyncio.get_running_loop().time() + SOON_S
    while (await router.metrics())["rbeerouter_connections", ()] != connections:
        assert asyncio.get_running_loop().time() < deadline


@story
async def test_what_is_not_finished_at_the_drain_limit_is_ended_with_an_error(tmp_path: Path) -> None:
    async with (
        FaultWorker("hang_after_2") as worker,
        daemon(tmp_path, worker, server={"drain_s": 0.3}) as router,
        Client(router.port) as stream,
        Client(router.port) as whole,
    ):
        await begin(stream, worker, STREAMED)
        worker.behave = "hang"
        await begin(whole, worker, PROMPT)
        began = asyncio.get_running_loop().time()
        router.signal(signal.SIGTERM)
        cut, refused = await asyncio.gather(stream.receive(), whole.receive())
        assert asyncio.get_running_loop().time() - began > 0.25
        assert (cut.status, cut.complete, text_of(cut)) == (200, False, "one two")
        assert error_shape(cut.events()[-1].json()) == ("service_unavailable_error", "draining", None)
        assert b"[DONE]" not in cut.body
        assert (refused.status, error_shape(refused.json())[1]) == (503, "draining")
        assert refused.headers["retry-after"].isdigit()
        await worker.wait_closed_by_peer(SOON_S, count=2)
        assert await router.ended(SOON_S) == 0
        assert [(line["outcome"], line["error"]) for line in router.requests()] == [("drained", "draining")] * 2


@story
async def test_a_second_signal_ends_the_drain_after_five_seconds(tmp_path: Path) -> None:
    async with (
        FaultWorker("hang_after_2") as worker,
        daemon(tmp_path, worker) as router,
        Client(router.port) as stream,
    ):
        await begin(stream, worker, STREAMED)
        router.signal(signal.SIGTERM)
        await router.wait_event("draining")
        began = asyncio.get_running_loop().time()
        router.signal(signal.SIGTERM)
        cut = await stream.receive()
        assert error_shape(cut.events()[-1].json())[1] == "draining"
        assert await router.ended() == 0
        assert 4.0 < asyncio.get_running_loop().time() - began < 6.0


@story
async def test_after_a_kill_it_serves_again_at_once_on_the_same_ports(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.port) as client:
        await begin(client, worker, PROMPT)
        await router.wait_requests(1)
        router.kill()
        began = asyncio.get_running_loop().time()
        router.start()
        await router.until_serving()
        assert asyncio.get_running_loop().time() - began < 3.0
        assert (await router.post(CHAT, PROMPT)).status == 200
        await router.wait_requests(2)
        assert await router.stop() == 0
        assert [line["event"] for line in router.log_lines()].count("serving") == 2


@story
async def test_it_starts_without_any_worker_in_reach_and_takes_them_when_they_come(tmp_path: Path) -> None:
    async with FaultWorker() as worker:
        await worker.refuse()
        async with daemon(tmp_path, worker, probes={"interval_s": 0.1}) as router:
            assert (await router.post(CHAT, PROMPT)).status == 503
            assert (await get(router.port, "/health")).status == 503
            await worker.accept_again()
            await router.wait_event("worker_status")
            assert (await router.post(CHAT, PROMPT)).status == 200
            await router.wait_requests(2)


@story
async def test_running_out_of_files_ends_no_stream_and_writes_few_lines(tmp_path: Path) -> None:
    import resource

    async with FaultWorker("slow_tokens") as worker, daemon(tmp_path, worker) as router, Client(router.port) as stream:
        worker.delay_s = 0.1
        await begin(stream, worker, STREAMED)
        soft, hard = resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE, (router.open_files() + 2, hard))
        crowd = [Client(router.port) for _ in range(30)]
        for client in crowd:
            await client.__aenter__()
        answer = await stream.receive()
        assert (answer.complete, text_of(answer)) == (True, ANSWER_TEXT)
        resource.prlimit(router.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        for client in crowd:
            await client.close()
        assert (await router.post(CHAT, PROMPT)).status == 200
        await until(lambda: len(router.requests()) == 2, "both requests in the log")
        assert len(router.stderr().splitlines()) < 60
