"""Tests of clients that leave, stall or dawdle: the worker is freed at once, nobody is blamed, nothing piles up.

Run by pytest, with the router in the test's loop.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.behaviours import CHUNKED, JSON_TYPE, LAST_CHUNK, chunk, completion, head, whole
from tests.support.daemon import until
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import request_bytes
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape
from tests.wire.router import Router, router
from tests.wire.test_failover import full_backlog

FIRST = "function route_request(request, workers)\n  return workers[1]\nend\n"
SHORT_S = 0.15
SOON_S = 1.0
BUFFER_BYTES = 4096
MOST_BUFFERED_BYTES = 400_000
"""A transport's high-water mark of 64 KiB and one read of 256 KB."""


async def leave(client: Client, how: str) -> None:
    if how == "reset":
        client.abort()
    elif how == "half-close":
        client.half_close()
    else:
        await client.close()


async def check_left(under_test: Router, worker: FaultWorker, count: int = 1) -> dict[str, Any]:
    """The worker was left within a second, is not blamed, and the log has the one line of it."""
    await worker.wait_until(lambda: not worker.open_connections, SOON_S, "its connections to be closed")
    line = (await under_test.wait_requests(count))[-1]
    assert (line["outcome"], line["status"], line["error"]) == ("client_gone", 499, "client_gone")
    assert (under_test.worker(worker).in_flight, under_test.worker(worker).failed) == (0, 0)
    return line


# Leaving.


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@pytest.mark.parametrize("behaviour", ["hang", "hang_after_head"])
@story
async def test_a_client_that_leaves_before_the_first_byte_frees_the_worker(
    behaviour: str, body: dict[str, Any], how: str, tmp_path: Path
) -> None:
    async with (
        FaultWorker(behaviour) as worker,
        FaultWorker(name="other") as other,
        router(tmp_path, worker, other, script=FIRST) as under_test,
        under_test.connect() as client,
    ):
        client.send_request("POST", CHAT, body)
        await worker.wait_requests()
        await leave(client, how)
        line = await check_left(under_test, worker)
        assert line["attempts"] == 1
        assert other.requests == []
        assert await client.until_ended(SOON_S) == b""


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@story
async def test_a_client_that_leaves_mid_stream_frees_the_worker(how: str, tmp_path: Path) -> None:
    async with (
        FaultWorker("hang_after_2") as worker,
        router(tmp_path, worker) as under_test,
        under_test.connect() as client,
    ):
        seen = 0
        async for _ in client.stream(CHAT, STREAMED):
            seen += 1
            if seen == 3:
                break
        await leave(client, how)
        line = await check_left(under_test, worker)
        assert line["bytes_out"] > 0
        assert line["ttft_ms"] is not None


@story
async def test_a_client_that_leaves_an_endless_stream_stops_it(tmp_path: Path) -> None:
    async with (
        FaultWorker("endless_stream") as worker,
        router(tmp_path, worker) as under_test,
        under_test.connect() as client,
    ):
        async for _ in client.stream(CHAT, STREAMED):
            if worker.bytes_sent > 100_000:
                break
        client.abort()
        await check_left(under_test, worker)


@story
async def test_a_client_that_leaves_while_a_worker_is_being_connected_ends_that_too(tmp_path: Path) -> None:
    with full_backlog() as port:
        silent = {"id": "silent", "url": f"http://127.0.0.1:{port}", "models": ["tiny"]}
        async with (
            FaultWorker(name="other") as other,
            router(tmp_path, silent, other, script=FIRST, limits={"connect_s": 30}) as under_test,
            under_test.connect() as client,
        ):
            client.send_request("POST", CHAT, PROMPT)
            await until(lambda: under_test.worker("silent").in_flight == 1, "the request to be under way")
            client.abort()
            line = await under_test.wait_request()
            assert (line["outcome"], line["status"], line["worker"]) == ("client_gone", 499, "silent")
            assert (under_test.worker("silent").in_flight, under_test.worker("silent").failed) == (0, 0)
            assert under_test.worker("silent").status == "ready"
            assert other.requests == []


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("behind", [1, 20])
@story
async def test_a_client_that_leaves_with_requests_waiting_behind_the_first_frees_the_worker(
    behind: int, how: str, tmp_path: Path
) -> None:
    async with (
        FaultWorker("hang") as worker,
        router(tmp_path, worker) as under_test,
        under_test.connect() as client,
    ):
        for _ in range(1 + behind):
            client.send_request("POST", CHAT, STREAMED)
        await worker.wait_requests()
        await leave(client, how)
        await check_left(under_test, worker)
        assert len(worker.requests) == 1


@pytest.mark.parametrize(("count", "length"), [(1000, 100), (12, 1_000_000)])
@story
async def test_a_client_that_sends_too_much_ahead_is_cut_off(count: int, length: int, tmp_path: Path) -> None:
    """Were reading paused instead, its leaving would not be seen either."""
    async with (
        FaultWorker("hang") as worker,
        router(tmp_path, worker) as under_test,
        under_test.connect() as client,
    ):
        for _ in range(count):
            client.send_request("POST", CHAT, {**STREAMED, "padding": "x" * length})
        assert await client.until_ended(SOON_S) == b""
        await until(lambda: not under_test.client_connections(), "the connection to be forgotten", SOON_S)
        assert len(worker.requests) <= 1
        (line,) = await under_test.wait_requests(1)
        assert (line["outcome"], line["status"]) == ("client_gone", 499)


@story
async def test_a_client_that_leaves_during_the_second_attempt_blames_the_first_worker_only(tmp_path: Path) -> None:
    async with (
        FaultWorker("close_before_head", name="first") as first,
        FaultWorker("hang", name="second") as second,
        router(tmp_path, first, second, script=FIRST) as under_test,
        under_test.connect() as client,
    ):
        client.send_request("POST", CHAT, PROMPT)
        await second.wait_requests()
        client.abort()
        line = await check_left(under_test, second)
        assert [(row["worker_id"], row["result"]) for row in line["tries"]] == [
            ("first", "upstream_disconnected"), ("second", "client_gone"),
        ]  # fmt: skip
        assert under_test.worker(first).failed == 1


@pytest.mark.parametrize("part", ["nothing", "request line", "head", "half a body"])
@story
async def test_a_client_that_leaves_before_its_request_is_whole_leaves_no_trace(part: str, tmp_path: Path) -> None:
    asked = request_bytes("POST", CHAT, PROMPT, [], host="x")
    length = {"nothing": 0, "request line": 20, "head": asked.index(b"\r\n\r\n") + 4, "half a body": len(asked) - 10}
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        for how in ("close", "reset"):
            async with under_test.connect() as client:
                client.send(asked[: length[part]])
                await until(lambda: under_test.client_connections() == 1, "the connection to be accepted")
                await leave(client, how)
                await until(lambda: under_test.client_connections() == 0, "the connection to be forgotten")
        assert (worker.requests, under_test.requests()) == ([], [])


@story
async def test_many_clients_that_leave_at_any_moment_leave_nothing_behind(tmp_path: Path) -> None:
    chance = random.Random(7)

    async def ask_and_leave(under_test: Router) -> None:
        async with under_test.connect() as client:
            client.send_request("POST", CHAT, chance.choice([PROMPT, STREAMED]))
            await asyncio.sleep(chance.random() * 0.1)
            await leave(client, chance.choice(["close", "reset"]))

    async with FaultWorker("slow_tokens") as one, FaultWorker("slow_first") as two:
        one.delay_s = two.delay_s = 0.02
        async with router(tmp_path, one, two) as under_test:
            for _ in range(5):
                await asyncio.gather(*(ask_and_leave(under_test) for _ in range(40)))
            await until(lambda: not under_test.client_connections(), "every connection to be forgotten")
            await under_test.check_books()
            assert {line["outcome"] for line in under_test.requests()} == {"ok", "client_gone"}
            assert (under_test.worker(one).failed, under_test.worker(two).failed) == (0, 0)


# Reading slowly, or not at all.


@asynccontextmanager
async def stuck_reader(under_test: Router, body: dict[str, Any] = STREAMED) -> AsyncIterator[Client]:
    """A client that has read the start of an answer and then no more."""
    async with under_test.connect(receive_buffer_bytes=BUFFER_BYTES) as client:
        client.send_request("POST", CHAT, body)
        await until(lambda: bool(client.unread), "the start of the answer")
        client.pause()
        yield client


async def until_still(worker: FaultWorker) -> int:
    """Wait until the worker has not been able to write for a while; what it has written by then."""
    before, since = -1, 0
    while since < 10:
        since = since + 1 if worker.bytes_sent == before else 0
        before = worker.bytes_sent
        await asyncio.sleep(0.01)
    return before


def buffered(under_test: Router) -> int:
    return sum(connection.transport.get_write_buffer_size() for connection in under_test.daemon.listener.connections)


@story
async def test_a_client_that_stops_reading_stops_the_worker_and_loses_nothing(tmp_path: Path) -> None:
    async with (
        FaultWorker("endless_stream", send_buffer_bytes=BUFFER_BYTES) as worker,
        router(tmp_path, worker) as under_test,
        stuck_reader(under_test) as client,
    ):
        sent = await until_still(worker)
        assert sent < 12_000_000                              # what the kernel's buffers take
        assert buffered(under_test) < MOST_BUFFERED_BYTES
        client.resume()
        await worker.wait_until(lambda: True)
        await until(lambda: worker.bytes_sent > sent + 1_000_000, "the stream to flow again")
        client.abort()
        line = await under_test.wait_request()
        assert line["outcome"] == "client_gone"


@story
async def test_a_client_that_reads_nothing_for_too_long_is_left(tmp_path: Path) -> None:
    limits = {"write_stall_s": SHORT_S}
    async with (
        FaultWorker("endless_stream", send_buffer_bytes=BUFFER_BYTES) as worker,
        router(tmp_path, worker, limits=limits) as under_test,
        stuck_reader(under_test),
    ):
        await worker.wait_until(lambda: not worker.open_connections, 3.0, "its connection to be closed")
        line = await under_test.wait_request()
        assert (line["outcome"], line["status"], line["error"]) == ("client_stalled", 499, "client_stalled")
        assert under_test.worker(worker).failed == 0


@story
async def test_a_client_that_reads_slowly_but_steadily_is_not_left(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    limits = {"write_stall_s": 0.3}
    async with (
        FaultWorker("endless_stream", send_buffer_bytes=BUFFER_BYTES) as worker,
        router(tmp_path, worker, limits=limits) as under_test,
    ):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", under_test.port))
            await loop.sock_sendall(client, request_bytes("POST", CHAT, STREAMED, [], host="x"))
            await until(lambda: buffered(under_test) > 0, "back-pressure")
            ends, read = loop.time() + 0.9, 0                 # three times as long as the limit
            while loop.time() < ends:
                read += len(await loop.sock_recv(client, 2048))
                assert under_test.client_connections() == 1, f"left after {read} bytes"
                await asyncio.sleep(0.02)                     # 100 KB/s


@pytest.mark.parametrize("connection_header", ["keep-alive", "close"])
@story
async def test_a_client_that_does_not_read_the_end_of_an_answer_is_left_too(
    connection_header: str, tmp_path: Path
) -> None:
    """The worker is done and gone; what is left of the answer must not stay in memory for ever."""

    async def until_it_does_not_fit(connection: Connection, request: Request) -> None:
        await connection.write(head(200, JSON_TYPE, CHUNKED))
        while not buffered(under_test):
            await connection.write(chunk(b"x" * 20_000))
            await asyncio.sleep(0.001)
        await connection.write(LAST_CHUNK)

    limits = {"write_stall_s": SHORT_S, "keep_alive_s": SHORT_S}
    async with (
        FaultWorker(until_it_does_not_fit) as worker,
        router(tmp_path, worker, limits=limits) as under_test,
        under_test.connect(receive_buffer_bytes=BUFFER_BYTES) as client,
    ):
        client.pause()
        client.send_request("POST", CHAT, PROMPT, [("connection", connection_header)])
        assert (await under_test.wait_request())["outcome"] == "ok"
        assert buffered(under_test) > 0
        await until(lambda: under_test.client_connections() == 0, "the connection to be closed", 1.0)


@story
async def test_a_client_that_reads_the_end_of_an_answer_slowly_gets_all_of_it(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    sent = 0

    async def until_it_does_not_fit(connection: Connection, request: Request) -> None:
        nonlocal sent
        await connection.write(head(200, JSON_TYPE, CHUNKED))
        while not buffered(under_test):
            await connection.write(chunk(b"x" * 20_000))
            sent += 20_000
            await asyncio.sleep(0.001)
        await connection.write(LAST_CHUNK)

    limits = {"write_stall_s": SHORT_S, "keep_alive_s": SHORT_S}
    asked = request_bytes("POST", CHAT, PROMPT, [("connection", "close")], host="x")
    async with FaultWorker(until_it_does_not_fit) as worker, router(tmp_path, worker, limits=limits) as under_test:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            client.setblocking(False)
            await loop.sock_connect(client, ("127.0.0.1", under_test.port))
            await loop.sock_sendall(client, asked)
            assert (await under_test.wait_request())["outcome"] == "ok"
            assert buffered(under_test) > 0
            came = b""
            while not came.endswith(LAST_CHUNK) and (part := await loop.sock_recv(client, 30_000)):
                came += part
                await asyncio.sleep(0.001)                    # in all this takes some ten times the limit
            assert came.endswith(LAST_CHUNK), f"cut off after {len(came)} of {sent} bytes"


@story
async def test_a_client_that_sends_many_requests_and_reads_no_answer_is_slowed_down(tmp_path: Path) -> None:
    async def answer(connection: Connection, request: Request) -> None:
        await connection.write(whole(200, completion(connection, request, "x" * 50_000)))

    async with (
        FaultWorker(answer) as worker,
        router(tmp_path, worker) as under_test,
        under_test.connect(receive_buffer_bytes=BUFFER_BYTES) as client,
    ):
        client.pause()
        for number in range(1, 400):
            client.send_request("POST", CHAT, PROMPT)
            try:
                await worker.wait_requests(number, timeout_s=0.3)
            except TimeoutError:
                break
        assert 0 < buffered(under_test) < MOST_BUFFERED_BYTES
        assert number < 300, "20 MB of answers were made that nobody reads"
        client.abort()


# Sending slowly.


async def send_slowly(client: Client, data: bytes) -> None:
    for at in range(len(data)):
        if client.ended:
            return
        client.send(data[at : at + 1])
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("part", "limits"), [("head", {"header_s": SHORT_S}), ("body", {"body_s": SHORT_S}), ("both", {"body_s": SHORT_S})]
)
@story
async def test_a_request_that_comes_too_slowly_is_a_408_and_the_connection_is_closed(
    part: str, limits: dict[str, float], tmp_path: Path
) -> None:
    asked = request_bytes("POST", CHAT, PROMPT, [], host="x")
    at_once = {"head": 10, "body": asked.index(b"\r\n\r\n") + 4, "both": asked.index(b"\r\n\r\n") + 20}[part]
    async with (
        FaultWorker() as worker,
        router(tmp_path, worker, limits=limits) as under_test,
        under_test.connect() as client,
    ):
        client.send(asked[:at_once])
        sending = asyncio.get_running_loop().create_task(send_slowly(client, asked[at_once:]))
        answer = await client.receive(timeout_s=SOON_S)
        assert (answer.status, error_shape(answer.json())[1]) == (408, "request_timeout")
        assert (answer.headers["connection"], answer.headers["x-should-retry"]) == ("close", "true")
        await client.until_ended(SOON_S)
        await sending
        assert worker.requests == []


@story
async def test_a_body_that_stops_in_the_middle_is_a_408_after_the_gap(tmp_path: Path) -> None:
    asked = request_bytes("POST", CHAT, PROMPT, [], host="x")
    async with (
        FaultWorker() as worker,
        router(tmp_path, worker, limits={"body_gap_s": SHORT_S}) as under_test,
        under_test.connect() as client,
    ):
        client.send(asked[:-10])
        answer = await client.receive(timeout_s=SOON_S)
        assert (answer.status, error_shape(answer.json())[1]) == (408, "request_timeout")


@story
async def test_an_idle_connection_is_closed_after_its_time_and_not_before(tmp_path: Path) -> None:
    async with (
        FaultWorker() as worker,
        router(tmp_path, worker, limits={"keep_alive_s": 0.3}) as under_test,
        under_test.connect() as client,
        under_test.connect() as silent,
    ):
        began = asyncio.get_running_loop().time()
        assert (await client.post(CHAT, PROMPT)).status == 200
        await asyncio.gather(client.until_ended(SOON_S), silent.until_ended(SOON_S))
        assert 0.25 < asyncio.get_running_loop().time() - began < SOON_S


@story
async def test_slow_senders_do_not_slow_others(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        slow = [under_test.connect() for _ in range(200)]
        for client in slow:
            await client.__aenter__()
            client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: ")
        began = asyncio.get_running_loop().time()
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert asyncio.get_running_loop().time() - began < 0.5
        for client in slow:
            await client.close()
