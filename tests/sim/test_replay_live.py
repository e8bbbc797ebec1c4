"""The log of a real daemon, with real workers that fail and come back, under load, reloads and rotation: every decision
in it is made again, exactly."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rbeerouter.config.loading import load
from rbeerouter.recorded import read_log
from rbeerouter.sim.replay import Asked, Replayed, replay
from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon, until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import post
from tests.wire.answers import CHAT, PROMPT, STREAMED

REQUESTS = 80
"""In each of the parts between which something happens to the daemon."""
SCRIPT = """
local salt = math.random(1000)
function route_request(request, workers)
  local p, seen = param("p", 5, 0, 10), state:incr("seen")
  if request.user_id == "alice" and seen % 9 == 0 then return reject { status = 429, message = "slow" }, "quota " .. seen end
  if seen % 11 == 0 then return queue { timeout_s = 5 }, "any" end
  if seen % 13 == 0 then return strategy("round-robin")(request, workers), "turn" end
  if timestamp():epoch() * 1000 % 10 < p then return nil, "by time " .. math.floor(timestamp():epoch() * 1000) % 10 end
  if rand() < 0.5 then return workers:sample(), "lucky " .. salt end
  local ready = workers:filter(function(w) return w.status == "ready" end)
  return ready:min_by(function(w) return w.load + (w.latency_ms or 0) / 10000 end), "ended " .. state:get("ended", 0)
end
function on_failure(request, attempt, workers)
  state:incr("seen", 3)
  return rand() < 0.5 and workers:sample() or nil
end
function on_complete(request, outcome) state:incr("ended", outcome.ok and 2 or 1) end
"""


async def load_it(router: DaemonProcess, dice: random.Random, requests: int) -> None:
    """So many requests of all kinds, a dozen at a time."""
    free = asyncio.Semaphore(12)

    async def one(number: int) -> None:
        async with free:
            body = {**(STREAMED if number % 3 == 0 else PROMPT), "user": ("alice", "bob", "carol")[number % 3]}
            body |= {"max_tokens": number, "metadata": {"tier": "gold" if number % 4 else "free"}}
            headers = [("x-session-id", f"s{number % 5}"), ("x-rbee-priority", str(number % 3))]
            await post(router.port, CHAT, body, headers, timeout_s=60.0)

    await asyncio.gather(*(one(dice.randrange(1000)) for _ in range(requests)))


async def drive(router: DaemonProcess, workers: list[FaultWorker], part: Callable[[int], object]) -> list[Path]:
    """Loads the daemon while its workers fail and come back, with `part` in between; the log's files, once it has
    stopped."""
    dice, files = random.Random(5), [router.log_path]
    for number in range(5):
        workers[0].behave = dice.choice((["ok", "503"], ["ok", "die@start"], "ok"))
        workers[1].behave = dice.choice((["ok", "429@1"], "ok"))
        if number == 1:
            await workers[2].refuse()
        if number == 3:
            await workers[2].accept_again()
        await load_it(router, dice, REQUESTS)
        done = part(number)
        if asyncio.iscoroutine(done):
            await done
        if number == 2:
            await until(lambda: len(router.requests()) >= 3 * REQUESTS, "all lines")
            router.log_path.rename(rotated := router.log_path.with_suffix(".log.1"))
            files.append(rotated)
    assert await router.stop() == 0
    return files


def decided_again(router: DaemonProcess, files: list[Path], text: str | None) -> Replayed:
    config = load(router.config_path)
    script = None if text is None else text.encode()
    return replay(files, Asked(script, "routing.lua", config.routing, config.models))


def entries(workers: list[FaultWorker]) -> list[dict[str, object]]:
    return [
        {"id": one.name, "url": one.url, "max_concurrency": 2, "deployment": "remote" if number == 3 else "local"}
        for number, one in enumerate(workers)
    ]  # fmt: skip


@pytest.mark.parametrize("script", [SCRIPT, None])
@story
async def test_every_decision_of_a_real_daemon_is_made_again_exactly(script: str | None, tmp_path: Path) -> None:
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, FaultWorker(name="c") as c, FaultWorker(name="d") as d,
    ):  # fmt: skip
        workers = [a, b, c, d]
        sections = {"routing": {"strategy": "round-robin", "log_users": "plain"}, "routing.split": {"local_fraction": 0.7}}
        sections["limits"] = {"queue_s": 4.0}                  # some wait for a worker that is down
        async with daemon(tmp_path, *entries(workers), script=script, **sections) as router:

            async def part(number: int) -> None:
                if number in (0, 3):
                    assert (await router.reload())["ok"]
                if number == 1 and script is not None:
                    answer = await post(router.control_port, "/api/v1/params", json.dumps({"p": 2}).encode())
                    assert answer.status == 200

            files = await drive(router, workers, part)
        found = decided_again(router, files, script)
        lines = list(read_log(files))
        assert (found.total, found.changed, found.reasons, found.uncertain, found.skipped, found.notes) == (
            5 * REQUESTS, 0, 0, 0, {}, [],
        )  # fmt: skip
        assert any(line.tries for line in lines) and any(line.queue_ms for line in lines)
        if script is not None:
            reasons = " ".join(line.reason or "" for line in lines)
            assert [word for word in ("quota", "turn", "by time", "lucky", "ended") if word not in reasons] == []
            assert any(line.decided is not None and line.decided.action == "wait" for line in lines)
            changed = decided_again(router, files, script.replace("seen % 13 == 0", "seen % 13 == 1"))
            assert 0 < changed.changed + changed.reasons < found.total
        alone = decided_again(router, files[:1], script)       # the newest file, without the one before
        assert alone.total >= REQUESTS and (script is not None or alone.changed == 0)
