"""`scripts/fault-worker` as a command: what it offers, does and tells. tests/support/test_support.py tests each behaviour."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from scripts.faulting.control import CHECKS
from scripts.faulting.names import listed
from scripts.faulting.nonsense import GARBAGE
from tests.support.aio import story
from tests.support.daemon import free_port, read_log, until
from tests.support.fault_process import COMMAND
from tests.support.raw_client import Answer, Connection, NoAnswer, get, post
from tests.wire.answers import CHAT, PROMPT, STREAMED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fault-worker.md").read_text()


def fault_worker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=30, check=False)


class Running:
    def __init__(self, ports: list[int], log_path: Path) -> None:
        self.ports = ports
        self.log_path = log_path

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in read_log(self.log_path) if line["event"] == name]

    async def control(self, wish: Any) -> Answer:
        return await post(self.ports[0], "/_fault", json.dumps(wish).encode())


@asynccontextmanager
async def running(folder: Path, *behaviours: str, options: tuple[str, ...] = ()) -> AsyncIterator[Running]:
    ports = [free_port() for _ in behaviours]
    made = Running(ports, folder / "log")
    arguments = [f"{port}={name}" for port, name in zip(ports, behaviours, strict=True)]
    process = subprocess.Popen([*COMMAND, *arguments, "--log", str(made.log_path), *options])
    try:
        await until(lambda: len(made.events("listening")) == len(ports), "the workers to listen", 10.0)
        yield made
        process.terminate()
        await until(lambda: process.poll() is not None, "its end")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_its_help_has_examples_and_names_every_option_of_the_page() -> None:
    done = fault_worker("--help")
    assert done.returncode == 0
    assert "9002=die@3" in done.stdout
    options = set(re.findall(r"--[a-z-]+", done.stdout))
    assert options == set(re.findall(r"^\| `(--[a-z-]+)`", PAGE, re.MULTILINE))


def test_every_behaviour_is_listed_with_what_it_does_and_stands_on_the_page() -> None:
    done = fault_worker("--list")
    assert (done.returncode, done.stderr) == (0, "")
    missing = [name for name, what in listed() if name not in done.stdout or len(what) < 10 or f"`{name}`" not in PAGE]
    assert missing == []
    assert [kind for kind in GARBAGE if f"`{kind}`" not in PAGE] == []
    assert [key for key in CHECKS if f"`{key}`" not in PAGE] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name at least one port"),
        (["9001=die@3,okay"], "no such behaviour: 'okay'"),
        (["http"], "expected PORT or PORT=BEHAVIOUR"),
        (["70000"], "expected PORT or PORT=BEHAVIOUR"),
        (["9001", "9001=429"], "port 9001 stands twice"),
        (["9001", "--probe", "sometimes"], "expected ok, refuse, hang, 503 or a status"),
        (["1", "--host", "192.0.2.1"], "scripts/fault-worker: "),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(arguments: list[str], told: str) -> None:
    done = fault_worker(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@story
async def test_each_port_behaves_as_it_was_told_and_a_model_may_ask_for_something_else(tmp_path: Path) -> None:
    async with running(tmp_path, "ok", "503,429@9,ok", options=("--models", "all")) as workers:
        good, list_ = workers.ports
        statuses = [await post(list_, CHAT, PROMPT) for _ in range(3)]
        assert [answer.status for answer in statuses] == [503, 429, 200]
        assert statuses[1].headers["retry-after"] == "9"
        assert (await post(good, CHAT, {**STREAMED, "model": "die@2"})).complete is False
        with pytest.raises(NoAnswer):
            await post(good, CHAT, {**PROMPT, "model": "reset-before-head"})
        models = (await get(good, "/v1/models")).json()["data"]
        assert {"ok", "bomb", "flood_1xx"} <= {card["id"] for card in models}


@story
async def test_requests_and_the_ends_of_their_connections_are_told_as_json_lines(tmp_path: Path) -> None:
    async with running(tmp_path, "hang@1") as workers:
        async with Connection(workers.ports[0]) as client:
            async for event in client.stream(CHAT, STREAMED):
                if event.content:
                    break
        await until(lambda: len(workers.events("closed")) == 1, "the end of the connection")
        (asked,), (left,) = workers.events("request"), workers.events("left")
        told = {key: asked[key] for key in ("method", "path", "model", "stream", "behaviour", "bytes")}
        assert told == {
            "method": "POST", "path": CHAT, "model": "tiny", "stream": True, "behaviour": "hang@1",
            "bytes": len(json.dumps(STREAMED)),
        }  # fmt: skip
        assert asked["connection"] == left["connection"]
        assert asked["time"] <= left["time"]
        await get(workers.ports[0], "/health")
        async with Connection(workers.ports[0]) as client:
            client.send(b"POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n")
            assert (await client.receive()).status == 400
        assert [line["path"] for line in workers.events("probe")] == ["/health"]
        assert "content-length" in workers.events("failed")[0]["error"]


@story
async def test_a_worker_changes_while_it_runs(tmp_path: Path) -> None:
    async with running(tmp_path, "ok", options=("--probe", "hang")) as workers:
        port = workers.ports[0]
        with pytest.raises(TimeoutError):
            await get(port, "/health", timeout_s=0.1)
        state = (await workers.control({"behaviour": ["503", "ok"], "probe": "401", "delay_s": 0.5})).json()
        assert (state["behaviour"], state["probe"], state["delay_s"]) == (["503", "ok"], "401", 0.5)
        assert (await get(port, "/health")).status == 401
        assert [(await post(port, CHAT, PROMPT)).status for _ in range(2)] == [503, 200]
        state = (await get(port, "/_fault")).json()
        assert (state["requests"], state["probes"], state["behaviour"]) == (2, 2, ["ok"])


@pytest.mark.parametrize(
    "wish", [{"behaviour": "okay"}, {"behaviour": []}, {"probe": "503", "behavior": "ok"}, {"delay_s": -1}, [], 7]
)
def test_a_wish_that_makes_no_sense_changes_nothing(wish: Any, tmp_path: Path) -> None:
    @story
    async def told() -> None:
        async with running(tmp_path, "ok") as workers:
            answer = await workers.control(wish)
            assert answer.status == 400
            assert answer.json()["error"]["code"] == "invalid_fault"
            state = (await get(workers.ports[0], "/_fault")).json()
            assert (state["behaviour"], state["probe"]) == (["ok"], "ok")

    told()


@story
async def test_a_worker_can_refuse_connections_for_a_while(tmp_path: Path) -> None:
    async with running(tmp_path, "ok") as workers:
        assert (await workers.control({"refuse_s": 0.5})).status == 200
        await asyncio.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            await post(workers.ports[0], CHAT, PROMPT)
        await asyncio.sleep(0.6)
        assert (await post(workers.ports[0], CHAT, PROMPT)).status == 200
