"""Tests of the agent as a process of its own, with the daemon, a worker and a made-up GPU."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.agent.test_machine import tool
from tests.support.aio import story
from tests.support.daemon import REPOSITORY, DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.wire.answers import CHAT, PROMPT

TOKEN = "a-token-of-workers-1234"
REGISTRATION = {"token": TOKEN, "ttl_s": 5}


@contextmanager
def agent(folder: Path, router: DaemonProcess, worker: FaultWorker, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    (folder / "token").write_text(TOKEN + "\n")
    command = [
        sys.executable, "-m", "rbeerouter", "agent", "--router", f"http://127.0.0.1:{router.control_port}",
        "--token", f"@{folder / 'token'}", "--engine-url", worker.url, "--interval", "1", "--name", "pc", *more,
    ]  # fmt: skip
    with (folder / "agent.log").open("ab") as log:
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def until_state(router: DaemonProcess, expected: dict[str, str], timeout_s: float = 15.0) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            rows = await router.workers()
        except OSError:
            rows = {"away": {"status": ""}}
        if {name: row["status"] for name, row in rows.items()} == expected:
            return
        assert asyncio.get_running_loop().time() < deadline, (rows.keys(), expected)
        await asyncio.sleep(0.05)


@story(timeout_s=90)
async def test_a_machine_is_there_while_its_agent_is(tmp_path: Path) -> None:
    tool(tmp_path, "nvidia-smi", 'case "$1" in --query-gpu=*) echo "24564, 18230, 61, 287.45";; esac')
    tool(tmp_path, "xprintidle", "echo 9999999")
    async with FaultWorker() as worker, daemon(tmp_path, registration=REGISTRATION) as router:
        name = f"pc-{worker.url.rpartition(':')[2]}"
        with agent(tmp_path, router, worker, "--yield-to-owner") as process:
            await until_state(router, {name: "ready"})
            assert (await router.post(CHAT, PROMPT)).headers["x-rbee-worker"] == name
            await asyncio.sleep(1.5)
            row = (await router.workers())[name]
            shown = {key: row[key] for key in ("vram", "vram_used", "temperature_c", "watts", "owner_active", "backend")}
            assert shown == {
                "vram": 23.988, "vram_used": 17.803, "temperature_c": 61.0, "watts": 287.45, "owner_active": False,
                "backend": "cuda",
            }  # fmt: skip
            tool(tmp_path, "xprintidle", "echo 5")
            await until_state(router, {name: "draining"})
            tool(tmp_path, "xprintidle", "echo 9999999")
            await until_state(router, {name: "ready"})
            router.kill()
            await asyncio.sleep(1.5)
            router.start()
            await router.until_serving()
            await until_state(router, {name: "ready"})
            process.kill()
            await until_state(router, {})
            router.kill()
            router.start()
            await router.until_serving()
            assert await router.workers() == {}
        with agent(tmp_path, router, worker) as process:
            await until_state(router, {name: "ready"})
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert await router.workers() == {}
        router.kill()                                         # what it counted before is gone, so its books differ


@story(timeout_s=60)
async def test_an_agent_that_is_refused_says_why_once_and_goes_on(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        with agent(tmp_path, router, worker):
            log = tmp_path / "agent.log"
            deadline = asyncio.get_running_loop().time() + 15
            while "registration is off" not in log.read_text():
                assert asyncio.get_running_loop().time() < deadline, log.read_text()
                await asyncio.sleep(0.1)
            await asyncio.sleep(2.5)
            assert log.read_text().count("registration is off") == 1
