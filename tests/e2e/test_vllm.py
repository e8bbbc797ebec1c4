"""Tests with a genuine vLLM behind the daemon, on the CPU with made-up weights.

Run by pytest where RBEEROUTER_VLLM names a `vllm` executable; skipped elsewhere, as it takes 3.5 GB to install and half
a minute to start. scripts/vllm-cpu installs one. One server is shared by the tests; those that kill one start their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import get
from tests.support.vllm import Vllm, free_port, kill, vllm_server, write_lora, write_model
from tests.wire.answers import CHAT

EXECUTABLE = os.environ.get("RBEEROUTER_VLLM", "")
pytestmark = pytest.mark.skipif(
    not EXECUTABLE, reason="RBEEROUTER_VLLM names no vllm executable; scripts/vllm-cpu installs one"
)

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "seed": 1}
LONG: dict[str, Any] = {**ASK, "max_tokens": 1900, "ignore_eos": True}
SOON_S = 2.0


@pytest.fixture(name="folder", scope="module")
def write_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_model(tmp_path_factory.mktemp("vllm"))
    write_lora(folder / "poet")
    return folder


@pytest.fixture(name="vllm", scope="module")
def start_vllm(folder: Path) -> Iterator[Vllm]:
    with vllm_server(EXECUTABLE, folder, "--lora-modules", f"poet={folder / 'poet'}") as server:
        yield server


def client(router: DaemonProcess) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{router.port}/v1", api_key="unused", max_retries=0, timeout=60)


def entry(server: Vllm) -> dict[str, Any]:
    return {"id": "gpu", "url": server.url}


def port_of(server: Vllm) -> int:
    return int(server.url.rpartition(":")[2])


async def gauge(server: Vllm, name: str) -> float:
    page = (await get(port_of(server), "/metrics")).body.decode()
    return sum(float(value) for value in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE))


async def until_running(server: Vllm, count: int, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while await gauge(server, "num_requests_running") != count:
        assert asyncio.get_running_loop().time() < deadline, f"not {count} requests running after {timeout_s} s"
        await asyncio.sleep(0.05)


@story(timeout_s=90)
async def test_answers_whole_and_streamed_and_those_of_an_adapter(vllm: Vllm, tmp_path: Path) -> None:
    async with daemon(tmp_path, entry(vllm)) as router, client(router) as ai:
        assert {card.id async for card in ai.models.list()} == {"tiny", "poet"}
        whole = await ai.chat.completions.create(**ASK, max_tokens=20)
        chunks = [
            chunk
            async for chunk in await ai.chat.completions.create(
                **ASK, max_tokens=20, stream=True, stream_options={"include_usage": True}
            )
        ]
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert streamed == whole.choices[0].message.content
        completion = await ai.completions.create(model="tiny", prompt="hello", max_tokens=5)
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 5
        poem = await ai.chat.completions.create(**{**ASK, "model": "poet"}, max_tokens=20)
        assert poem.model == "poet"
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            await ai.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": "x" * 3000}]})
        lines = await router.wait_requests(5)
        assert [line.get("tokens_out") for line in lines] == [20, 20, 5, 20, None]


@story(timeout_s=90)
async def test_clients_that_leave_free_the_engine_whole_and_streamed(vllm: Vllm, tmp_path: Path) -> None:
    async with daemon(tmp_path, entry(vllm)) as router:
        for stream in (False, True):
            async with Client(router.port) as leaving:
                leaving.send_request("POST", CHAT, {**LONG, "stream": stream})
                await until_running(vllm, 1, 10.0)
                leaving.abort()
                await until_running(vllm, 0, SOON_S)
        lines = await router.wait_requests(2)
        assert [(line["outcome"], line["status"]) for line in lines] == [("client_gone", 499)] * 2


@story(timeout_s=90)
async def test_the_daemon_knows_what_the_engine_tells(vllm: Vllm, tmp_path: Path) -> None:
    async with daemon(tmp_path, entry(vllm), probes={"metrics_s": 0.5}) as router:

        async def seen() -> dict[str, Any]:
            return (await router.workers())["gpu"]

        async def until_seen(**expected: Any) -> dict[str, Any]:
            deadline = asyncio.get_running_loop().time() + 15
            while True:
                worker = await seen()
                if expected.items() <= worker.items():
                    return worker
                assert asyncio.get_running_loop().time() < deadline, worker
                await asyncio.sleep(0.1)

        idle = await until_seen(engine="vllm", running=0, waiting=0, kv_usage=0.0)
        assert (idle["models"], idle["loras"]) == (["tiny", "poet"], ["poet"])
        assert (idle["block_size"], idle["restarts"], idle["problem"]) == (32, 0, None)
        assert idle["kv_blocks"] > 1000
        before = idle["generated_tokens"]
        others = [Client(port_of(vllm)) for _ in range(2)]
        ours = [Client(router.port) for _ in range(4)]
        for leaving in (*ours, *others):
            await leaving.__aenter__()
            leaving.send_request("POST", CHAT, {**LONG, "stream": True})
        # It works on four at once; six were sent, two of them past the daemon.
        busy = await until_seen(running=4, waiting=2, foreign=2, in_flight=4)
        assert 0 < busy["kv_usage"] < 1
        for leaving in (*ours, *others):
            leaving.abort()
        after = await until_seen(running=0, waiting=0, foreign=0, in_flight=0)
        assert after["generated_tokens"] > before
        await router.wait_requests(4)


@story(timeout_s=400)
async def test_when_it_is_killed_another_serves_and_when_it_is_back_that_is_known(
    folder: Path, tmp_path: Path, vllm: Vllm
) -> None:
    port = free_port()
    workers = [{"id": "doomed", "url": f"http://127.0.0.1:{port}"}, entry(vllm)]
    script = "function route_request(request, workers) return request.metadata.worker end"
    to_doomed = [("x-rbee-meta-worker", "doomed")]
    async with running(folder, port) as server, daemon(tmp_path, *workers, script=script) as router, client(router) as ai:
        seen = []
        with pytest.raises(openai.APIError):
            async for chunk in await ai.chat.completions.create(
                **ASK, max_tokens=1900, stream=True, extra_body={"ignore_eos": True}, extra_headers=dict(to_doomed)
            ):
                seen.append(chunk)
                if len(seen) == 20:
                    kill(server)
        assert len(seen) >= 20
        for _ in range(5):
            answer = await router.post(CHAT, {**ASK, "max_tokens": 3}, to_doomed, timeout_s=30)
            assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "gpu")
        await router.wait_requests(6)
        async with running(folder, port):
            deadline = asyncio.get_running_loop().time() + 60
            while (doomed := (await router.workers())["doomed"])["status"] != "ready" or not doomed["restarts"]:
                assert asyncio.get_running_loop().time() < deadline, doomed
                await asyncio.sleep(0.5)
            assert doomed["restarts"] == 1
            answer = await router.post(CHAT, {**ASK, "max_tokens": 3}, to_doomed, timeout_s=30)
            assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "doomed")
            await router.wait_requests(7)


@contextlib.asynccontextmanager
async def running(folder: Path, port: int) -> AsyncIterator[Vllm]:
    """A second server, started and stopped beside the event loop."""
    manager = vllm_server(EXECUTABLE, folder, port=port)
    server = await asyncio.to_thread(manager.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
