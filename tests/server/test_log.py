"""Tests of routing.log from outside: one line per request, nothing secret in it, and no request that waits for a disk.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import resource
from pathlib import Path
from typing import Any

from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon, metric_values, read_log, total, until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import get
from tests.wire.answers import CHAT, PROMPT, STREAMED

LOST = "rbeerouter_log_lines_lost_total"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
DURATIONS = ("decision_us", "ttft_ms", "total_ms")


def settled(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what differs from run to run, which must be there and make sense."""
    line = dict(line)
    assert TIME.fullmatch(line.pop("time"))
    assert line.pop("request_id")
    for name in DURATIONS:
        assert line.pop(name) >= 0
    assert len(line.pop("run")) == 8 and line.pop("n") > 0     # and what the decision saw, which replays are tested by
    line.pop("saw", None)
    assert line.pop("prompt_tokens") > 20
    return line


# What a line says.


@story
async def test_a_line_tells_the_whole_story_of_a_request(tmp_path: Path) -> None:
    script = """
        function route_request(request, workers)
          if request.metadata.fails then error("as asked") end
          return workers[1]
        end"""
    async with (
        FaultWorker(["ok", "ok", "close_before_head"], name="first", models=["tiny"]) as first,
        FaultWorker(name="second") as second,
        daemon(tmp_path, first, second, script=script) as router,
    ):
        user = {"user": "alice@example.com"}
        assert (await router.post(CHAT, {**PROMPT, **user})).status == 200
        assert (await router.post(CHAT, STREAMED, [("x-rbee-meta-fails", "1")])).status == 200
        first.behave = "close_before_head"
        assert (await router.post(CHAT, STREAMED)).status == 200
        one, two, three = await router.wait_requests(3)
        tries = three.pop("tries")
        assert [(row["worker_id"], row["result"], row["duration_ms"] >= 0) for row in tries] == [
            ("first", "upstream_disconnected", True), ("second", "ok", True),
        ]  # fmt: skip
        common = {"event": "request", "path": CHAT, "model": "tiny", "outcome": "ok", "status": 200, "queue_ms": 0.0}
        line = settled(one)
        assert line == {
            **common, "user": hashlib.sha256(b"alice@example.com").hexdigest()[:8], "worker": "first", "by": "script",
            "reason": "routing.lua:4", "attempts": 1, "tokens_in": 3, "tokens_out": 5, "bytes_out": line["bytes_out"],
        }  # fmt: skip
        line = settled(two)
        assert line.pop("worker") in ("first", "second")
        assert line == {
            **common, "stream": True, "by": "fallback", "reason": "least-request", "attempts": 1,
            "script_error": "routing.lua:3: as asked", "bytes_out": line["bytes_out"],
            "meta": {"fails": "1", "type": "llm"},
        }  # fmt: skip
        line = settled(three)
        assert line == {
            **common, "stream": True, "worker": "second", "by": "failover", "attempts": 2,
            "reason": "routing.lua:4; then least-request after first failed", "bytes_out": line["bytes_out"],
            "decided": {"action": "send", "reason": "routing.lua:4", "by": "script", "worker": "first"},
        }  # fmt: skip


@story
async def test_under_debug_it_says_why_each_other_worker_was_not_taken(tmp_path: Path) -> None:
    script = """
        function route_request(request, workers)
          local near = workers:filter(function(worker) return worker.metadata:get("near", false) end)
          return near:sort_by(function(a, b) return a.load < b.load end)[1]
        end"""
    async with FaultWorker() as worker:
        entries = [
            {"id": name, "url": worker.url, "metadata": {"near": near}}
            for name, near in [("far", False), ("one", True), ("two", True)]
        ]
        async with daemon(tmp_path, *entries, script=script, routing={"debug": True}) as router:
            assert (await router.post(CHAT, PROMPT)).headers["x-rbee-worker"] == "one"
            (line,) = await router.wait_requests(1)
            state = {"status": "ready", "load": 0.0}
            order = {"by": "sort_by", "line": 4, "taken": "one", "read": {"load": 0.0}}
            assert line["explanation"] == [
                {"id": "far", **state, "steps": [{"by": "filter", "line": 3, "read": {"metadata.near": False}}]},
                {"id": "one", **state, "chosen": True, "steps": [order]},
                {"id": "two", **state, "steps": [order]},
            ]  # fmt: skip
            assert (await router.page("/routing")).json()["debug"] is True


@story
async def test_the_file_is_readable_by_its_group_at_most(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        assert os.stat(router.log_path).st_mode & 0o777 & ~0o640 == 0


# What no line may say.


@story
async def test_no_prompt_key_or_user_is_in_any_log_or_page(tmp_path: Path) -> None:
    secrets = {
        name: f"planted-{name}-{number}" for number, name in enumerate(["prompt", "client-key", "worker-key", "user", "query"])
    }
    body: dict[str, Any] = {
        "model": "tiny", "user": secrets["user"], "messages": [{"role": "user", "content": secrets["prompt"]}],
    }  # fmt: skip
    headers = [("authorization", f"Bearer {secrets['client-key']}"), ("cookie", secrets["client-key"])]
    headers += [("x-api-key", secrets["client-key"]), ("api-key", secrets["client-key"]), ("x-team", "blue")]
    script = "function route_request(request, workers)\n  return workers[1].nothing.at_all\nend\n"
    good = "function route_request(request, workers)\n  return workers[1], #(request.headers['x-api-key'] or '') .. ''\nend\n"
    shown = ["x-team", "x-api-key", "api-key"]
    async with FaultWorker(name="a") as worker:
        entry = {"id": "a", "url": worker.url, "api_key": secrets["worker-key"]}
        async with daemon(tmp_path, entry, script=good, routing={"debug": True, "request_headers": shown}) as router:
            pages: list[bytes] = []
            for behaviour in ("ok", "status_500", "garbage", "close_before_head", "set_cookie"):
                worker.behave = behaviour
                for stream in (False, True):
                    answer = await router.post(f"{CHAT}?key={secrets['query']}", {**body, "stream": stream}, headers)
                    pages += [answer.body, json.dumps(answer.headers).encode()]
            worker.behave = "ok"
            broken = json.dumps(body).encode()[:-1]
            for bad in (broken, broken + b', "stream": "' + secrets["prompt"].encode() + b'"}'):
                pages.append((await router.post(CHAT, bad, headers)).body)
            pages.append((await router.post(CHAT, {**body, "metadata": [secrets["prompt"]]}, headers)).body)
            router.script_path.write_text(script)
            assert not (await router.reload())["ok"]
            lines = await router.wait_requests(13)
            assert lines[0]["headers"] == {"x-team": "blue"} and lines[0]["reason"].endswith(f": {len(secrets['client-key'])}")
            for path in ("/metrics", "/api/v1/workers", "/routing", "/health", "/v1/models"):
                pages.append((await router.page(path)).body)
            command_line = Path(f"/proc/{router.process.pid}/cmdline").read_bytes()
            told = b"".join([*pages, router.log_path.read_bytes(), router.stderr().encode(), command_line])
            assert [name for name, secret in secrets.items() if secret.encode() in told] == []
            assert worker.requests[0].header("authorization") == f"Bearer {secrets['worker-key']}".encode()


@story
async def test_strange_text_stays_inside_one_line(tmp_path: Path) -> None:
    strange = 'a\r\nb\x1b[2J\u2028\u2029\x00\x7f"}\n{"event":"request","forged":true}'
    async with FaultWorker(models=[strange]) as worker, daemon(tmp_path, worker) as router:
        body = {"model": strange, "user": strange, "metadata": {strange: strange}}
        headers = [("x-rbee-meta-odd", "caf\u00e9 \x80\xff"), ("x-rbee-priority", "\xff")]
        assert (await router.post(CHAT, body, headers)).status == 200
        assert (await router.post(CHAT, {"model": strange + "?"}, headers)).status == 404
        one, two = await router.wait_requests(2)
        assert (one["model"], two["model"]) == (strange, strange + "?")
        assert "forged" not in one
        assert b"\x1b" not in router.log_path.read_bytes()
        assert b"\r" not in router.log_path.read_bytes()


# When the disk does not take it.


@story
async def test_a_full_device_fails_no_request_and_every_lost_line_is_counted(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker, routing={"log": "/dev/full"}) as router:
        async with Client(router.port) as client:
            for _ in range(100):
                assert (await client.post(CHAT, PROMPT)).status == 200
        await until_lost(router, 100)
        assert total(await router.metrics(), "rbeerouter_requests_total") == 100
        complaints = [line for line in router.stderr().splitlines() if "/dev/full" in line and "lines are lost" in line]
        assert complaints == ["rbeerouter: /dev/full: No space left on device; lines are lost until it can be written"]


async def until_lost(router: DaemonProcess, count: int) -> None:
    values = metric_values("")
    for _ in range(500):
        values = await router.metrics()
        if total(values, LOST) >= count:
            return
    raise AssertionError(f"{total(values, LOST)} lines lost, expected {count}")


@story
async def test_when_there_is_room_again_the_log_goes_on_and_says_how_much_is_missing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the write that meets it is cut in the middle."""
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.port) as client:

        async def ask(count: int) -> None:
            for _ in range(count):
                assert (await client.post(CHAT, PROMPT)).status == 200

        await ask(10)
        await router.wait_requests(10)
        process, kind = router.process.pid, resource.RLIMIT_FSIZE
        unlimited = resource.prlimit(process, kind)
        resource.prlimit(process, kind, (router.log_path.stat().st_size + 1000, unlimited[1]))
        await ask(30)
        await until_lost(router, 1)
        resource.prlimit(process, kind, unlimited)
        await ask(10)
        parts: list[dict[str, Any]] = []
        torn: list[str] = []

        def all_is_written() -> bool:
            parts.clear()
            torn.clear()
            for text in router.log_path.read_text().split("\n"):
                try:
                    parts.append(json.loads(text)) if text else None
                except ValueError:
                    torn.append(text)
            return parts[-1]["event"] == "request" and any(part["event"] == "log_lines_lost" for part in parts)

        await until(all_is_written, "the log to go on")
        values = await router.metrics()
        lost = total(values, LOST)
        await until(lambda: all_is_written() and count_of(parts) + lost >= 50, "the last lines")
        assert len(torn) <= 1
        assert sum(part["lost"] for part in parts if part["event"] == "log_lines_lost") == lost
        assert 50 <= count_of(parts) + lost <= 53             # of a write that was cut, all lines count as lost
        # The file holds a torn line now, which the books could not read.
        router.log_path.write_text("".join(json.dumps(part) + "\n" for part in parts))


def count_of(parts: list[dict[str, Any]]) -> int:
    return sum(part["event"] == "request" for part in parts)


@story
async def test_a_disk_that_stands_still_holds_up_no_request_and_its_lost_lines_are_counted(tmp_path: Path) -> None:
    """A pipe that nobody reads stands in for the disk: it takes 64 KiB, then every write waits."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    came = b""

    def read() -> bytes:
        nonlocal came
        with contextlib.suppress(BlockingIOError):
            while part := os.read(reader, 1 << 16):
                came += part
        return came

    try:
        async with FaultWorker() as worker:
            limits = {"log_backlog_bytes": 20_000}
            async with daemon(tmp_path, worker, routing={"log": str(pipe)}, limits=limits) as router:
                async with Client(router.port) as client:
                    for _ in range(600):
                        assert (await client.post(CHAT, PROMPT, timeout_s=1.0)).status == 200
                await until_lost(router, 1)
                await until(lambda: read().endswith(b"\n"), "what had been waiting")
                assert (await router.post(CHAT, PROMPT)).status == 200
                async with asyncio.timeout(5.0):
                    while (lost := total(await router.metrics(), LOST)) != noted(read()):
                        await asyncio.sleep(0.05)
                assert await router.stop() == 0
        assert noted(read()) == lost
        # Other events than requests may be among what is lost, such as a probe that came late.
        assert 601 <= count_of([json.loads(line) for line in read().splitlines()]) + lost <= 605
    finally:
        os.close(reader)


def noted(text: bytes) -> int:
    """How many lines the log itself says are missing."""
    lines = [json.loads(line) for line in text.splitlines() if b'"log_lines_lost"' in line and line.endswith(b"}")]
    return sum(line["lost"] for line in lines)


# Rotation.


@story
async def test_a_renamed_log_is_made_anew_and_no_line_is_lost(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.port) as client:
        old = tmp_path / "routing.log.1"
        for number in range(300):
            assert (await client.post(CHAT, PROMPT)).status == 200
            if number == 150:
                await until(lambda: bool(router.requests()), "the first lines")
                router.log_path.rename(old)
        await until(lambda: count_of(read_log(old) + read_log(router.log_path)) == 300, "every line in one of the files")
        assert count_of(read_log(router.log_path)) > 0
        merged = old.read_bytes() + router.log_path.read_bytes()
        router.log_path.write_bytes(merged)                   # for the books


@story
async def test_a_log_that_is_copied_and_truncated_goes_on_at_its_start(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        await router.post(CHAT, PROMPT)
        await router.wait_requests(1)
        copy = router.log_path.read_bytes()
        os.truncate(router.log_path, 0)
        await router.post(CHAT, PROMPT)
        await router.wait_requests(1)
        assert b"\x00" not in router.log_path.read_bytes()
        router.log_path.write_bytes(copy + router.log_path.read_bytes())


@story
async def test_a_log_whose_folder_is_gone_costs_lines_but_no_request(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        assert (await router.post(CHAT, PROMPT)).status == 200
        await router.wait_requests(1)
        moved = tmp_path / "moved"
        router.log_path.parent.rename(moved)
        assert (await router.post(CHAT, PROMPT)).status == 200
        await until_lost(router, 1)
        assert (await get(router.port, "/health")).status == 200
        moved.rename(router.log_path.parent)
        assert (await router.post(CHAT, PROMPT)).status == 200
        await router.wait_event("log_lines_lost")
        assert len(await router.wait_requests(2)) == 2
