"""Tests of the worker's side: what is no answer is never echoed, and a pooled connection never carries anything over.

Run by pytest, with the router in the test's loop.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from rbeerouter.config.sections import Limits
from rbeerouter.core.types import WorkerSpec
from rbeerouter.wire.upstream import Pool
from tests.support.aio import run, story
from tests.support.behaviours import (
    ANSWER_TEXT,
    CHUNKED,
    JSON_TYPE,
    POISON,
    SSE_TYPE,
    chunk,
    completion,
    head,
    whole,
)
from tests.support.daemon import until
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape, raw_answer
from tests.wire.router import Router, router

FIRST = "function route_request(request, workers)\n  return workers[1]\nend\n"
SHORT_S = 0.15
SOON_S = 1.0
OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"content-type: application/json\r\n"
TWO = b"content-length: 2\r\n\r\n{}"
SECRET = "of-the-worker"

NOT_HTTP = {
    "garbage": b"\x00\x01\xffSSH-2.0-" + SECRET.encode() + b"\r\n\r\n",
    "a tls alert": b"\x15\x03\x01\x00\x02\x02\x28",
    "http/0.9": b"<html>of-the-worker</html>",
    "version 1.2": b"HTTP/1.2 200 OK\r\n" + JSON + TWO,
    "version 2.0": b"HTTP/2.0 200 OK\r\n" + JSON + TWO,
    "no status": b"HTTP/1.1 \r\n" + TWO,
    "status 99": b"HTTP/1.1 99 Low\r\n" + JSON + TWO,
    "status 600": b"HTTP/1.1 600 High\r\n" + JSON + TWO,
    "status 999": b"HTTP/1.1 999 Higher\r\n" + JSON + TWO,
    "status 304": b"HTTP/1.1 304 Not Modified\r\n\r\n",
    "status 300": b"HTTP/1.1 300 Multiple\r\nlocation: http://127.0.0.1:9/\r\n" + TWO,
    "redirect 302": b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/of-the-worker\r\ncontent-length: 0\r\n\r\n",
    "redirect 308": b"HTTP/1.1 308 Permanent\r\nlocation: http://127.0.0.1:9/of-the-worker\r\ncontent-length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nof-the-worker",
    "length and chunks": OK + JSON + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "chunks and length": OK + JSON + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two lengths": OK + JSON + b"content-length: 2\r\n" + TWO,
    "two different lengths": OK + JSON + b"content-length: 3\r\n" + TWO,
    "negative length": OK + JSON + b"content-length: -2\r\n\r\n{}",
    "signed length": OK + JSON + b"content-length: +2\r\n\r\n{}",
    "listed length": OK + JSON + b"content-length: 2, 2\r\n\r\n{}",
    "huge length": OK + JSON + b"content-length: 99999999999999999999999\r\n\r\n{}",
    "nul in a value": OK + JSON + b"x-a: of\x00worker\r\n" + TWO,
    "cr in a value": OK + JSON + b"x-a: of\rset-cookie: a=b\r\n" + TWO,
    "control byte in a value": OK + JSON + b"cache-control: a\x01b\r\n" + TWO,
    "space in a name": OK + JSON + b"x a: 1\r\n" + TWO,
    "space before a colon": OK + JSON + b"content-length : 2\r\n\r\n{}",
    "no colon": OK + JSON + b"of-the-worker\r\n" + TWO,
    "unknown coding": OK + JSON + b"transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "gzip coding": OK + JSON + b"transfer-encoding: gzip\r\n\r\n{}",
    "coding after chunked": OK + JSON + b"transfer-encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "encoded content": OK + JSON + b"content-encoding: gzip\r\n" + TWO,
    "bad chunk size": OK + JSON + b"transfer-encoding: chunked\r\n\r\nzz\r\nof-the-worker\r\n0\r\n\r\n",
    "negative chunk size": OK + JSON + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "chunk without its end": OK + JSON + b"transfer-encoding: chunked\r\n\r\n2\r\n{}of-the-worker\r\n0\r\n\r\n",
    "twenty informational": b"HTTP/1.1 103 Early Hints\r\nlink: <of-the-worker>\r\n\r\n" * 20 + OK + JSON + TWO,
}


@pytest.mark.parametrize("name", list(NOT_HTTP))
@story
async def test_what_is_not_a_valid_answer_is_a_502_and_nothing_of_it_is_echoed(name: str, tmp_path: Path) -> None:
    async def answer_so(connection: Connection, request: Request) -> None:
        await connection.write(NOT_HTTP[name])
        await connection.until_peer_leaves()

    async with (
        FaultWorker([answer_so, "ok"], name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST, limits={"request_s": 0.3}) as under_test,
        under_test.connect() as client,
    ):
        answer = under_test.books.note(await client.post(CHAT, PROMPT))
        assert (answer.status, error_shape(answer.json())) == (502, ("upstream_error", "upstream_protocol_error", None))
        assert b"of" + b"-the-worker" not in answer.body
        assert answer.headers.keys() == {
            "content-type", "content-length", "x-should-retry", "date", "x-request-id",
        }  # fmt: skip
        await bad.wait_until(lambda: not bad.open_connections, SOON_S, "its connection to be closed")
        assert good.requests == []
        again = under_test.books.note(await client.post(CHAT, PROMPT))
        assert (again.status, again.headers["x-rbee-worker"]) == (200, "bad")
        first = (await under_test.wait_requests(2))[0]
        assert (first["outcome"], first["error"], first["attempts"]) == ("upstream_failed", "upstream_protocol_error", 1)


@pytest.mark.parametrize("at", range(1, 60, 7))
@story
async def test_garbage_in_pieces_is_noticed_too(at: int, tmp_path: Path) -> None:
    bad_bytes = NOT_HTTP["length and chunks"]
    async with (
        FaultWorker(raw_answer(bad_bytes[:at], bad_bytes[at:])) as worker,
        router(tmp_path, worker, limits={"request_s": SOON_S}) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, error_shape(answer.json())[1]) == (502, "upstream_protocol_error")


@story
async def test_garbage_after_content_ends_a_stream_with_an_error_event(tmp_path: Path) -> None:
    content = b'data: {"choices":[{"index":0,"delta":{"content":"one"}}]}\n\n'
    start = head(200, SSE_TYPE, CHUNKED) + chunk(content)
    async with FaultWorker(raw_answer(start, b"zz\r\nof-the-worker")) as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(CHAT, STREAMED)
        assert not answer.complete
        assert answer.body.startswith(content)
        assert error_shape(answer.events()[1].json())[1] == "upstream_protocol_error"
        assert b"-the-worker" not in answer.body


@story
async def test_a_redirect_is_never_followed(tmp_path: Path) -> None:
    async with FaultWorker("redirect") as worker, FaultWorker(name="target") as target:
        worker.redirect_url = target.url
        async with router(tmp_path, worker) as under_test:
            answer = await under_test.post(CHAT, PROMPT)
            assert (answer.status, error_shape(answer.json())[1]) == (502, "upstream_protocol_error")
            assert (target.requests, target.connections_accepted) == ([], 0)


@story
async def test_a_head_without_end_is_cut_off(tmp_path: Path) -> None:
    async def endless_head(connection: Connection, request: Request) -> None:
        await connection.write(OK)
        number = 0
        while number < 50_000:                                # 50 MB
            await connection.write(b"x-%d: %b\r\n" % (number, b"a" * 1000))
            number += 1
            await asyncio.sleep(0)
        await connection.until_peer_leaves()

    limits = {"request_s": 0.5}
    async with FaultWorker(endless_head) as worker, router(tmp_path, worker, limits=limits) as under_test:
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, error_shape(answer.json())[1]) == (502, "upstream_protocol_error")
        assert worker.bytes_sent < 4_000_000


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"x-%d: %b\r\n", id="many fields"),
        pytest.param(b"%d%b", id="one field"),
    ],
)  # fmt: skip
@story
async def test_trailers_without_end_are_cut_off(line: bytes, tmp_path: Path) -> None:
    async def endless_trailers(connection: Connection, request: Request) -> None:
        await connection.write(head(200, JSON_TYPE, CHUNKED) + chunk(b"{}") + b"0\r\nx-first: ")
        for number in range(8000):                            # 8 MB
            await connection.write(line % (number, b"a" * 1000))
            await asyncio.sleep(0)
        await connection.until_peer_leaves()

    limits = {"request_s": 0.5}
    async with FaultWorker(endless_trailers) as worker, router(tmp_path, worker, limits=limits) as under_test:
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, error_shape(answer.json())[1]) == (502, "upstream_protocol_error")
        assert worker.bytes_sent < 1_000_000


@pytest.mark.parametrize("behaviour", ["early_100", "ok_chunked", "trailers"])
@story
async def test_unusual_but_valid_answers_are_taken(behaviour: str, tmp_path: Path) -> None:
    async with FaultWorker(behaviour) as worker, router(tmp_path, worker) as under_test:
        for _ in range(2):
            answer = await under_test.post(CHAT, PROMPT)
            assert (answer.status, answer.json()["choices"][0]["message"]["content"]) == (200, ANSWER_TEXT)
            assert "x-checksum" not in answer.headers
        assert worker.connections_accepted == 1


# Nothing is carried over to the next request on a connection.


async def answers_are_clean(under_test: Router, worker: FaultWorker, count: int) -> None:
    for number in range(count):
        answer = await under_test.post(CHAT, {**PROMPT, "user": f"u{number}"})
        assert answer.status == 200
        assert json.loads(answer.body)["choices"][0]["message"]["content"] == ANSWER_TEXT
    assert [request.json()["user"] for request in worker.requests] == [f"u{number}" for number in range(count)]


@story
async def test_a_second_answer_that_nobody_asked_for_reaches_no_client(tmp_path: Path) -> None:
    async with FaultWorker("extra_data") as worker, router(tmp_path, worker) as under_test:
        await answers_are_clean(under_test, worker, 3)
        assert worker.connections_accepted == 3


@pytest.mark.parametrize("extra", [b"x", b"\r\n", b"\r\n\r\n{}", POISON[:30], POISON[:-17]], ids=["x", "newline", "json", "part", "head"])
@story
async def test_bytes_behind_an_answer_reach_no_client(extra: bytes, tmp_path: Path) -> None:
    async def with_extra(connection: Connection, request: Request) -> None:
        await connection.write(whole(200, completion(connection, request)) + extra)

    async with FaultWorker(with_extra) as worker, router(tmp_path, worker) as under_test:
        await answers_are_clean(under_test, worker, 3)


@story
async def test_bytes_behind_a_chunked_stream_reach_no_client(tmp_path: Path) -> None:
    content = b'data: {"choices":[{"index":0,"delta":{"content":"one"}}]}\n\ndata: [DONE]\n\n'
    stream = head(200, SSE_TYPE, CHUNKED) + chunk(content) + b"0\r\n\r\n" + POISON
    async with FaultWorker(raw_answer(stream)) as worker, router(tmp_path, worker) as under_test:
        for _ in range(2):
            answer = await under_test.post(CHAT, STREAMED)
            assert (answer.body, answer.complete) == (content, True)
        assert worker.connections_accepted == 2


@story
async def test_late_bytes_on_an_idle_connection_close_it(tmp_path: Path) -> None:
    async with FaultWorker("late_data") as worker, router(tmp_path, worker) as under_test:
        worker.delay_s = 0.02
        for _ in range(3):
            answer = await under_test.post(CHAT, PROMPT)
            assert "poisoned" not in answer.json()
            await worker.wait_until(lambda: not worker.open_connections, SOON_S, "its connection to be closed")
        assert worker.connections_accepted == 3


# The pool.


@story
async def test_a_connection_is_used_again_and_again(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        for body in [PROMPT, STREAMED] * 5:
            assert (await under_test.post(CHAT, body)).complete
        assert (worker.connections_accepted, under_test.idle_connections(worker)) == (1, 1)


@story
async def test_no_more_connections_are_kept_than_the_limit_says(tmp_path: Path) -> None:
    async with (
        FaultWorker("slow_first") as worker,
        router(tmp_path, worker, limits={"idle_connections": 2}) as under_test,
    ):
        await asyncio.gather(*(under_test.post(CHAT, PROMPT) for _ in range(6)))
        assert (worker.connections_accepted, under_test.idle_connections(worker)) == (6, 2)
        await worker.wait_until(lambda: worker.open_connections == 2, SOON_S, "the others to be closed")


@story
async def test_an_idle_connection_is_closed_after_its_time(tmp_path: Path) -> None:
    async with (
        FaultWorker() as worker,
        router(tmp_path, worker, limits={"idle_connection_s": SHORT_S}) as under_test,
    ):
        await under_test.post(CHAT, PROMPT)
        assert worker.open_connections == 1
        await worker.wait_until(lambda: not worker.open_connections, SOON_S, "its connection to be closed")
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert worker.connections_accepted == 2


@story
async def test_a_connection_is_not_used_for_ever_however_busy_it_is(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker, limits={"connection_age_s": 0.1}) as under_test:
        await under_test.post(CHAT, PROMPT)
        await asyncio.sleep(0.12)
        for _ in range(3):
            assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert 2 <= worker.connections_accepted <= 3


@story
async def test_a_name_that_leads_elsewhere_ends_its_connections_but_no_answer(tmp_path: Path) -> None:
    async with FaultWorker(["ok", "slow_tokens", "ok"]) as worker, router(tmp_path, worker) as under_test:
        worker.delay_s = 0.05
        pool = under_test.daemon.listener.pools.of(under_test.worker(worker))
        assert pool is not None
        await under_test.post(CHAT, PROMPT)
        here, there = frozenset({"127.0.0.1"}), frozenset({"127.0.0.9"})
        pool.resolved(here)
        pool.resolved(there)
        assert len(pool.idle) == 1, "names with many addresses give a few at a time"
        async with under_test.connect() as client:
            client.send_request("POST", CHAT, STREAMED)
            await worker.wait_requests(2)
            pool.resolved(there)
            answer = under_test.books.note(await client.receive())
            assert (answer.complete, worker.connections_accepted) == (True, 1)
        await until(lambda: worker.open_connections == 0, "the old connection is not kept")
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert worker.connections_accepted == 2


def test_a_worker_whose_name_moves_gets_new_requests_at_its_new_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On asyncio's own loop, which asks Python's resolver, so that the test can be the name server."""
    leads_to, ask = {"gpu.test": "127.0.0.1"}, socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **named: ask(leads_to.get(host, host), *more, **named))

    async def moves() -> None:
        async with FaultWorker(["ok", "slow_tokens", "ok"], name="old") as old, FaultWorker(host="127.0.0.2", port=old.port) as new:
            old.delay_s = 0.5
            entry = {"id": "gpu", "url": f"http://gpu.test:{old.port}"}
            async with router(tmp_path, entry, limits={"resolve_s": 0.2}) as under_test, under_test.connect() as client:
                names = asyncio.create_task(under_test.daemon._resolve_names())
                await under_test.post(CHAT, PROMPT)
                client.send_request("POST", CHAT, STREAMED)
                await old.wait_requests(2)
                leads_to["gpu.test"] = "127.0.0.2"
                while not new.requests:                      # the old one still serves: nothing fails meanwhile
                    assert (await under_test.post(CHAT, PROMPT)).status == 200
                    await asyncio.sleep(0.05)
                assert under_test.books.note(await client.receive()).complete
                before = len(old.requests)
                assert (await under_test.post(CHAT, PROMPT)).status == 200
                assert (len(old.requests), old.open_connections) == (before, 0)
                names.cancel()

    begun = time.monotonic()
    run(moves())
    assert time.monotonic() - begun < 10.0


@story
async def test_a_registered_name_that_comes_to_lead_to_a_refused_address_gets_no_connection() -> None:
    for url, source, refused in (
        ("http://localhost:9", "registered", False), ("http://127.0.0.1:9", "registered", False),
        ("http://169.254.169.254:9", "registered", True), ("http://169.254.169.254:9", "dns", True),
        ("http://8.8.8.8:9", "registered", True),
    ):  # fmt: skip
        pool = Pool(WorkerSpec("a", url, source=source), Limits(connect_s=0.5), allow=("127.0.0.0/8", "::1/128"))
        with pytest.raises(OSError) as raised:
            await pool.connect()
        assert isinstance(raised.value, PermissionError) is refused, url


@story
async def test_a_connection_that_its_worker_closed_while_idle_is_not_used(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        worker.idle_close_s = 0.01
        await under_test.post(CHAT, PROMPT)
        await until(lambda: under_test.idle_connections(worker) == 0, "the pool to forget it")
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert [request.connection for request in worker.requests] == [1, 2]


@pytest.mark.parametrize("behaviour", ["close_before_head", "reset_before_head"])
@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@story
async def test_a_request_on_a_stale_connection_goes_to_the_same_worker_again_without_blame(
    behaviour: str, body: dict[str, Any], tmp_path: Path
) -> None:
    async with (
        FaultWorker(["ok", behaviour, "ok"], name="first") as first,
        FaultWorker(name="second") as second,
        router(tmp_path, first, second, script=FIRST) as under_test,
    ):
        for _ in range(2):
            answer = await under_test.post(CHAT, body)
            assert (answer.status, answer.complete, answer.headers["x-rbee-worker"]) == (200, True, "first")
        assert [request.connection for request in first.requests] == [1, 1, 2]
        assert second.requests == []
        line = (await under_test.wait_requests(2))[1]
        assert (line["outcome"], line["attempts"]) == ("ok", 1)
        assert under_test.worker("first").failed == 0


@story
async def test_a_fresh_connection_that_closes_too_is_blamed_and_the_next_worker_asked(tmp_path: Path) -> None:
    async with (
        FaultWorker(["ok", "close_before_head"], name="first") as first,
        FaultWorker(name="second") as second,
        router(tmp_path, first, second, script=FIRST) as under_test,
    ):
        for expected in ("first", "second"):
            answer = await under_test.post(CHAT, PROMPT)
            assert (answer.status, answer.headers["x-rbee-worker"]) == (200, expected)
        assert [request.connection for request in first.requests] == [1, 1, 2]
        line = (await under_test.wait_requests(2))[1]
        assert [(row["worker_id"], row["result"]) for row in line["tries"]] == [
            ("first", "upstream_disconnected"), ("second", "ok"),
        ]  # fmt: skip


@story
async def test_a_reused_connection_that_breaks_after_the_first_byte_is_not_stale(tmp_path: Path) -> None:
    first_byte = raw_answer(b"H", close=True)
    async with (
        FaultWorker(["ok", first_byte], name="first") as first,
        FaultWorker(name="second") as second,
        router(tmp_path, first, second, script=FIRST) as under_test,
    ):
        for expected in ("first", "second"):
            assert (await under_test.post(CHAT, PROMPT)).headers["x-rbee-worker"] == expected
        assert len(first.requests) == 2


@story
async def test_a_worker_that_closes_idle_connections_just_then_costs_no_client_an_error(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        worker.idle_close_s = 0.01
        for number in range(60):
            answer = await client.post(CHAT, PROMPT)
            assert answer.status == 200
            await asyncio.sleep(0.0094 + 0.00002 * number)    # this very moment is what the test is about
        lines = await under_test.wait_requests(60)
        assert {(line["outcome"], line["attempts"]) for line in lines} == {("ok", 1)}


# TLS.


@asynccontextmanager
async def tls_worker(authority: trustme.CA, **options: Any) -> AsyncIterator[FaultWorker]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with FaultWorker(tls=context, **options) as worker:
        yield worker


def https_entry(worker: FaultWorker, authority: trustme.CA, folder: Path) -> dict[str, Any]:
    path = folder / f"{worker.name}-ca.pem"
    authority.cert_pem.write_to_path(path)
    return {"id": worker.name, "url": worker.url, "models": worker.models, "ca_file": str(path)}


@story
async def test_an_https_worker_with_a_known_authority_serves(tmp_path: Path) -> None:
    authority = trustme.CA()
    async with (
        tls_worker(authority, name="safe") as worker,
        router(tmp_path, https_entry(worker, authority, tmp_path)) as under_test,
    ):
        for body in [PROMPT, STREAMED]:
            answer = await under_test.post(CHAT, body)
            assert (answer.status, answer.complete, answer.headers["x-rbee-worker"]) == (200, True, "safe")
        assert worker.connections_accepted == 1
        await under_test.check_books()
        assert worker.open_connections == under_test.daemon.listener.pools.idle_count() == 1


@pytest.mark.parametrize("fault", ["unknown authority", "another name", "no tls"])
@story
async def test_a_worker_whose_certificate_is_not_good_is_a_failed_connect(fault: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    signer = trustme.CA() if fault == "unknown authority" else authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    signer.issue_cert("gpu.example" if fault == "another name" else "127.0.0.1").configure_cert(context)
    async with (
        FaultWorker(tls=None if fault == "no tls" else context, name="bad") as bad,
        FaultWorker(name="good") as good,
    ):
        bad_entry = https_entry(bad, authority, tmp_path) | {"url": f"https://127.0.0.1:{bad.port}"}
        tolerated = bad._errors if fault == "no tls" else []
        async with router(tmp_path, bad_entry, good, script=FIRST, limits={"connect_s": 0.5}) as under_test:
            answer = await under_test.post(CHAT, PROMPT)
            assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "good")
            line = await under_test.wait_request()
            assert [(row["worker_id"], row["result"]) for row in line["tries"]] == [
                ("bad", "upstream_connect_failed"), ("good", "ok"),
            ]  # fmt: skip
            assert bad.requests == []
        tolerated.clear()                                     # a ClientHello is no request


@pytest.mark.parametrize("behaviour", ["ok_close", "close_mid_stream", "eof_stream_no_done"])
@story
async def test_the_end_of_a_tls_connection_is_told_from_a_cut_as_without_tls(behaviour: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    async with (
        tls_worker(authority, behave=behaviour) as worker,
        router(tmp_path, https_entry(worker, authority, tmp_path)) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        if behaviour == "ok_close":
            assert (answer.complete, answer.events()[-1].data) == (True, "[DONE]")
        else:
            assert not answer.complete
            assert error_shape(answer.events()[-1].json())[1] == "upstream_disconnected"


@pytest.mark.parametrize(
    ("engine", "url", "path", "line"),
    [
        ("auto", "https://api.anthropic.com", b"/v1/messages?beta=true", b"x-api-key: k"),
        ("anthropic", "http://gateway.test", b"/v1/messages/count_tokens", b"x-api-key: k"),
        ("anthropic", "http://gateway.test", b"/v1/chat/completions", b"authorization: Bearer k"),
        ("vllm", "http://gpu.test", b"/v1/messages", b"authorization: Bearer k"),
    ],
)  # fmt: skip
def test_anthropic_is_given_its_key_as_each_of_its_protocols_has_it(engine: str, url: str, path: bytes, line: bytes) -> None:
    lines = Pool(WorkerSpec("w", url, engine=engine, api_key="k"), Limits()).head(path, JSON, 2).split(b"\r\n")
    assert [one for one in lines if b": k" in one or b"Bearer" in one] == [line]
