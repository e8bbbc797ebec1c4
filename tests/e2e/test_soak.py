"""A long run of clients that leave at any moment, before workers that fail in every way: the books must balance.

Run by pytest; takes some 45 s. Whoever wants another mix sets RBEEROUTER_SOAK_SEED; the seed is named when it fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.aio import story
from tests.support.daemon import PROBE_CONNECTIONS, DaemonProcess, daemon, total, until
from tests.support.fault_worker import FaultWorker, Request
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import NoAnswer, request_bytes
from tests.wire.answers import CHAT

SEED = int(os.environ.get("RBEEROUTER_SOAK_SEED", "20261121"))
REQUESTS = 20_000
WARM = 5_000
CLIENTS = 100
MOST_GROWTH_BYTES = 6 << 20
SCRIPT = """
function route_request(request, workers)
  if rand() < 0.1 then return nil end
  local ready = workers:filter(function(worker) return worker.status ~= "offline" end)
  return ready:sort_by(function(a, b) return a.load < b.load end)[1]
end
"""
ENDLESS = ["hang@1", "hang@2", "endless_stream", "hang", "hang@headers"]
WAYS = ["whole"] * 55 + ["not json"] * 3 + ["half sent"] * 10 + ["before the head"] * 16 + ["mid-answer"] * 16
FAULTS = ["close_before_head", "reset_before_head", "close_after_head", "close_after_role", "reset_mid_stream"]
FAULTS += ["close_mid_stream", "eof_stream_no_done", "close_mid_body", "garbage", "status_500", "extra_data"]
FAULTS += ["status_429", "redirect", "flood_1xx", "ok_close", "ok_http10", "trailers"]
STREAM_ONLY = {"close_after_head", "close_after_role", "reset_mid_stream", "close_mid_stream", "eof_stream_no_done"}
JSON_ONLY = {"close_mid_body", "extra_data", "trailers"}


class Crowd:
    """The clients, and what they know of each request they sent."""

    def __init__(self, router: DaemonProcess) -> None:
        self.router = router
        self.sent = 0
        self.ways: dict[str, str] = {}
        self.answered: dict[str, int] = {}
        self.rss_bytes: dict[int, int] = {}

    def next_id(self, way: str) -> str:
        self.sent += 1
        if self.sent in (WARM, REQUESTS):
            self.rss_bytes[self.sent] = self.router.rss_bytes()
        name = f"soak-{self.sent}"
        self.ways[name] = way
        return name

    async def client(self, number: int) -> None:
        chance = random.Random(f"{SEED}-{number}")
        while self.sent < REQUESTS:
            async with Client(self.router.port) as client:
                while self.sent < REQUESTS and await self.ask(client, chance):
                    pass

    async def ask(self, client: Client, chance: random.Random) -> bool:
        """One request in one of the ways; whether the connection can be used again."""
        way = chance.choice(WAYS)
        name = self.next_id(way)
        body: dict[str, Any] = {"model": "tiny", "stream": chance.random() < 0.5, "user": f"u{chance.randrange(50)}"}
        body["messages"] = [{"role": "user", "content": "x" * chance.randrange(2000)}]
        encoded = b"{" if way == "not json" else json.dumps(body).encode()
        raw = request_bytes("POST", CHAT, encoded, [("x-request-id", name)], host="x")
        client.send(raw[: chance.randrange(1, len(raw))] if way == "half sent" else raw)
        if way in ("whole", "not json"):
            return await self.read_answer(client, name)
        if way == "mid-answer":
            await asyncio.wait({wait := asyncio.ensure_future(client.arrived())}, timeout=5.0)
            wait.cancel()
        else:
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005, 0.02]) * chance.random())
        if chance.random() < 0.5:
            client.abort()
        return False

    async def read_answer(self, client: Client, name: str) -> bool:
        try:
            answer = await client.receive(timeout_s=20.0)
        except NoAnswer:
            raise AssertionError(f"{name} got no answer") from None
        assert answer.headers["x-request-id"] == name
        self.answered[name] = answer.status
        return answer.complete and not client.ended and "close" not in answer.headers.get("connection", "")


def now_and_then(chance: random.Random) -> Any:
    def choose(request: Request) -> str:
        if chance.random() < 0.6:
            return "ok"
        unfit = JSON_ONLY if request.stream else STREAM_ONLY
        return chance.choice([fault for fault in FAULTS if fault not in unfit])

    return choose


@story(timeout_s=120.0)
async def test_twenty_thousand_requests_leave_nothing_behind(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="good") as good,
        FaultWorker("slow_first", name="slow") as slow,
        FaultWorker("slow_tokens", name="streams") as streams,
        FaultWorker(now_and_then(random.Random(SEED)), name="resets") as resets,
        daemon(tmp_path, good, slow, streams, resets, script=SCRIPT, probes={"interval_s": 1}) as router,
    ):
        slow.delay_s, streams.delay_s = 0.01, 0.002
        before = router.open_sockets()
        crowd = Crowd(router)
        await asyncio.gather(*(crowd.client(number) for number in range(CLIENTS)))
        await router.check_books()

        lines = router.requests()
        logged = Counter(line["request_id"] for line in lines)
        assert max(logged.values()) == 1, f"a request has two lines; seed {SEED}"
        assert logged.keys() <= crowd.ways.keys()
        half_sent = {name for name, way in crowd.ways.items() if way == "half sent"}
        assert not logged.keys() & half_sent, f"a request that never came was logged; seed {SEED}"
        assert crowd.answered.keys() <= logged.keys(), f"an answer has no line; seed {SEED}"
        # What a client got is what the log says, but that an answer which broke off had begun with 200.
        statuses = {line["request_id"]: line["status"] for line in lines}
        odd = {name for name, status in crowd.answered.items() if statuses[name] != status}
        broken = {line["request_id"] for line in lines if line["outcome"] == "upstream_failed"}
        assert odd <= broken, f"{sorted(odd - broken)[:5]}; seed {SEED}"

        values = await router.metrics()
        assert total(values, "rbeerouter_requests_total") == len(lines)
        assert values["rbeerouter_connections", ()] == 0
        workers = [good, slow, streams, resets]
        assert total(values, "rbeerouter_idle_upstream_connections") <= 64 * len(workers)
        outcomes = Counter(line["outcome"] for line in lines)
        assert outcomes.keys() - {"worker_error"} == {"ok", "client_gone", "upstream_failed", "rejected"}
        assert outcomes["ok"] > REQUESTS / 3
        growth = crowd.rss_bytes[REQUESTS] - crowd.rss_bytes[WARM]
        assert growth < MOST_GROWTH_BYTES, f"{growth} bytes more; seed {SEED}"
        # Idle connections end after 3 s; then there must be no more sockets than before the first request.
        await until(lambda: router.open_sockets() <= before + PROBE_CONNECTIONS, "every connection to be closed", 20.0)


@story(timeout_s=120.0)
async def test_ten_thousand_streams_that_are_left_leave_nothing_behind(tmp_path: Path) -> None:
    """Half of the clients close, half reset; some read a little first, some wait for nothing."""
    streams, warm, clients = 10_000, 2_000, 50
    left = 0
    marks: dict[int, int] = {}

    async def client(number: int) -> None:
        nonlocal left
        chance = random.Random(f"{SEED}-left-{number}")
        body = {"model": "tiny", "stream": True, "messages": []}
        while left < streams:
            left += 1
            if left in (warm, streams):
                marks[left] = router.rss_bytes()
            async with Client(router.port) as one:
                one.send_request("POST", CHAT, {**body, "model": chance.choice(ENDLESS)})
                reads = chance.random()
                if reads < 0.7:
                    await asyncio.wait({wait := asyncio.ensure_future(one.arrived())}, timeout=0.02)
                    wait.cancel()
                elif reads < 0.9:
                    await asyncio.sleep(0.005 * chance.random())
                if chance.random() < 0.5:
                    one.abort()

    async with (
        FaultWorker(models=ENDLESS, name="a", send_buffer_bytes=16384) as first,
        FaultWorker(models=ENDLESS, name="b", send_buffer_bytes=16384) as second,
        daemon(tmp_path, first, second) as router,
    ):
        before = router.open_sockets()
        await asyncio.gather(*(client(number) for number in range(clients)))
        await router.check_books()
        outcomes = Counter(line["outcome"] for line in router.requests())
        assert outcomes.keys() == {"client_gone"}
        assert outcomes["client_gone"] > streams * 0.9
        assert marks[streams] - marks[warm] < MOST_GROWTH_BYTES, f"seed {SEED}"
        await until(lambda: router.open_sockets() <= before + 2 * PROBE_CONNECTIONS, "all to be closed", 20.0)
        assert [row["failed"] for row in (await router.workers()).values()] == [0, 0]


@story
async def test_clients_that_never_read_cost_little_memory_and_are_left(tmp_path: Path) -> None:
    async with (
        FaultWorker("endless_stream", send_buffer_bytes=4096) as worker,
        daemon(tmp_path, worker, limits={"write_stall_s": 1.0}) as router,
    ):
        before = router.rss_bytes()
        stuck = [Client(router.port, receive_buffer_bytes=4096) for _ in range(20)]
        for client in stuck:
            await client.__aenter__()
            client.send_request("POST", CHAT, {"model": "tiny", "stream": True})
            client.pause()
        most = 0
        while worker.open_connections > PROBE_CONNECTIONS or not worker.requests:
            most = max(most, router.rss_bytes())
            await asyncio.sleep(0.02)
        for client in stuck:
            await client.close()
        lines = await router.wait_requests(20)
        assert {(line["outcome"], line["status"]) for line in lines} == {("client_stalled", 499)}
        assert most - before < 20 * (512 << 10)
        assert (await router.workers())[worker.name]["failed"] == 0
