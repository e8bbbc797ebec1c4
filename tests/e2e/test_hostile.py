"""Every hostile script through the real daemon: four requests each, then a good script, which must still pick right.

One daemon takes them all, one reload after the other; tests/routing/test_hostile.py plays them without it. The workers
are those of ../shared/hostile/README.md, as near as real ones come to it: what makes them busy are requests that they
hold, so w4 and w8 are full instead of busy at a load of 0.1 and 0.3.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import corpus
from tests.hostile.corpus import OURS, SHARED, Hostile
from tests.support import behaviours
from tests.support.aio import run
from tests.support.daemon import DaemonProcess, free_port
from tests.support.fault_worker import FaultWorker, Request
from tests.support.raw_client import Connection
from tests.wire.answers import CHAT

HOLD = b"function route_request(request) return request.user_id ~= 'self-test' and request.user_id or nil end"
BEHIND_THE_TRIAL = b"""
for _, name in ipairs({ "route_request", "on_complete", "on_failure" }) do
  local meant = _ENV[name]
  if type(meant) == "function" then
    _ENV[name] = function(request, ...)
      if request.user_id == "self-test" then return nil end
      return meant(request, ...)
    end
  end
end
"""
"""Put behind a script that the daemon's own trial of it has refused: it behaves until a client asks."""
HELD = {"w1": 5, "w2": 2, "w3": 9, "w4": 1, "w5": 2, "w6": 7, "w8": 1}
CAPACITY = 10
DECISION_LIMIT_US = 100_000
MOST_GROWTH_BYTES = 48 << 20
"""A Lua state may hold 8 MiB, and the one before is there until Python collects it."""
BODY = {
    "model": "m-small", "user": "u@example.com", "metadata": {"tier": "premium", "region": "eu"},
    "messages": [{"role": "user", "content": "hello"}],
}  # fmt: skip
HERE = {"deep_self_reference": {"pick:w1"}}


def behave(request: Request) -> Any:
    return behaviours.BEHAVIOURS["hang" if b"hold me" in request.body else "ok"]


def outcome(line: dict[str, Any]) -> str:
    """The corpus' word for what the log says of a request."""
    error = line.get("script_error") or ""
    if line.get("by") == "fallback" or (line.get("by") is None and error):
        if "which is offline" in error:
            return "pick:" + error.partition("the script chose ")[2].partition(",")[0]
        words = {"route_request returned": "bad-return", "budget exceeded": "timeout", "not enough memory": "memory"}
        return next((word for text, word in words.items() if text in error), "error")
    if line.get("error") == "script_rejected":
        return "reject"
    if line.get("error") == "queue_timeout" and line.get("by") == "script":
        return "waits"
    if line.get("by") == "strategy":
        return "none"
    return f"pick:{line['worker']}" if line.get("worker") else f"? {line}"


class Play:
    """One daemon and what it is asked."""

    def __init__(self, router: DaemonProcess) -> None:
        self.router = router
        self.rejected_at_load: set[str] = set()
        self.wrong: list[str] = []

    async def load(self, source: bytes) -> bool:
        self.router.script_path.write_bytes(source)
        return bool((await self.router.reload())["ok"])

    async def ask(self, client: Connection, name: str) -> str | None:
        answer = await client.post(CHAT, json.dumps(BODY).encode(), [("x-request-id", name)], timeout_s=5.0)
        return answer.headers.get("x-rbee-worker")

    async def play(self, hostile: Hostile) -> None:
        async with Connection(self.router.port) as client:
            source = hostile.path.read_bytes()
            if await self.load(source) or await self.load(source + BEHIND_THE_TRIAL):
                for turn in range(4):
                    await self.ask(client, f"{hostile.name}-{turn}")
            else:
                self.rejected_at_load.add(hostile.name)
        async with Connection(self.router.port) as client:
            assert await self.load(corpus.GOOD), f"after {hostile.name} a good script is refused"
            chosen = await self.ask(client, f"{hostile.name}-good")
        if chosen != "w2":
            self.wrong.append(f"after {hostile.name} the good script chose {chosen}")

    def check(self, hostile: Hostile, lines: dict[str, dict[str, Any]]) -> None:
        may = hostile.may["expect"] | HERE.get(hostile.name, set())
        mine = [lines[f"{hostile.name}-{turn}"] for turn in range(4) if f"{hostile.name}-{turn}" in lines]
        found = {outcome(line) for line in mine}
        if any(f"pick:{name}" in may for name in corpus.BUSY_WORKERS):
            found.discard("waits")                            # for the busy worker that it picked
        if hostile.name in self.rejected_at_load:
            found = {"load-error"}
        elif len(mine) != 4:
            self.wrong.append(f"{hostile.name}: {len(mine)} lines for 4 requests")
        if "any" not in may and not found <= may:
            told = {line.get("script_error") for line in mine}
            self.wrong.append(f"{hostile.name}: {found}, not {may}: {told}")
        slow = sorted(line.get("decision_us") or 0.0 for line in mine)
        if slow and slow[len(slow) // 2 - 1] > DECISION_LIMIT_US:
            self.wrong.append(f"{hostile.name}: decisions took {slow} us")


@asynccontextmanager
async def running(folder: Path, entries: list[Any], **sections: Any) -> AsyncIterator[DaemonProcess]:
    """As `daemon`, which takes what Lua says of a wrong script ("unexpected symbol") for the daemon's own trouble."""
    router = DaemonProcess(folder, tuple(entries), HOLD.decode(), sections)
    router.start()
    try:
        await router.until_serving()
        yield router
        await router.check_books()
        assert await router.stop() == 0
        trouble = [line for line in router.stderr().splitlines() if "Traceback" in line or "] unexpected" in line]
        assert trouble == []
    finally:
        router.kill()


async def until_known(router: DaemonProcess) -> None:
    """Until every worker but the unreachable one has been probed."""
    deadline = asyncio.get_running_loop().time() + 10.0
    while True:
        rows = await router.workers()
        known = [name for name, row in rows.items() if row["status"] == "ready" and row["models"]]
        if len(known) == 7:
            return
        assert asyncio.get_running_loop().time() < deadline, rows
        await asyncio.sleep(0.05)


async def hold(router: DaemonProcess, stack: AsyncExitStack) -> None:
    """Fills the workers with requests that they never answer."""
    for name, count in HELD.items():
        for _ in range(count):
            client = await stack.enter_async_context(Connection(router.port))
            body = {**BODY, "user": name, "messages": [{"role": "user", "content": "hold me"}]}
            client.send_request("POST", CHAT, json.dumps(body).encode())
    deadline = asyncio.get_running_loop().time() + 10.0
    while {name: row["in_flight"] for name, row in (await router.workers()).items() if row["in_flight"]} != HELD:
        assert asyncio.get_running_loop().time() < deadline, await router.workers()
        await asyncio.sleep(0.05)


async def play_all(folder: Path, scripts: list[Hostile]) -> list[str]:
    """What went wrong."""
    async with AsyncExitStack() as workers:
        entries = []
        for number in range(1, 9):
            name = f"w{number}"
            models = ["m-small", "m-big"] if name in corpus.BIG_WORKERS else ["m-small"]
            url = f"http://127.0.0.1:{free_port()}"
            if name != corpus.OFFLINE_WORKER:
                url = (await workers.enter_async_context(FaultWorker(behave, models=models, name=name))).url
            entries.append({
                "id": name, "url": url, "metadata": {"region": "us" if number % 2 else "eu"},
                "max_concurrency": 1 if name in corpus.BUSY_WORKERS else CAPACITY,
            })  # fmt: skip
        routing = {"reload_gate": "off", "script_faults": 0, "strategy": "least-request", "set_headers": ["x-route"]}
        timeouts = {"connect_s": 5, "first_content_s": 300, "gap_s": 300, "request_s": 600, "queue_s": 0.3}
        async with running(folder, entries, routing=routing, limits=limits_known(timeouts)) as router:
            await until_known(router)
            async with AsyncExitStack() as held:
                await hold(router, held)
                play = Play(router)
                await play.load(corpus.GOOD)
                before = router.rss_bytes()
                for one in scripts:
                    await play.play(one)
                    assert router.process.poll() is None, f"{one.name} ended the daemon: {router.stderr()[-2000:]}"
                growth = router.rss_bytes() - before
            if growth > MOST_GROWTH_BYTES:
                play.wrong.append(f"memory grew by {growth >> 20} MiB")
            await router.check_books()
            lines = {line["request_id"]: line for line in router.requests()}
            for one in scripts:
                play.check(one, lines)
        for place in (folder, Path.cwd()):
            if list(place.rglob("pwned*")):
                play.wrong.append(f"a file in {place}")
        return play.wrong


def limits_known(wanted: dict[str, float]) -> dict[str, float]:
    text = (Path(__file__).resolve().parents[2] / "config.example.toml").read_text()
    return {name: value for name, value in wanted.items() if name in text}


@pytest.mark.parametrize("folder", [SHARED, OURS], ids=["shared", "ours"])
def test_no_hostile_script_harms_the_daemon(folder: Path, tmp_path: Path) -> None:
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    assert run(play_all(tmp_path, corpus.scripts(folder)), timeout_s=180.0) == []
