"""Tests of the client's side: what is no request we serve is refused in one shape, and connections live as they should.

Run by pytest, with the router in the test's loop. Framing that smugglers like is in test_smuggling.py.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.core.models import NO_MODELS
from tests.support.aio import story
from tests.support.behaviours import ANSWER_TEXT, answer, completion, whole
from tests.support.daemon import total, until
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.support.raw_client import Answer, exchange, parse_head, request_bytes
from tests.support.raw_client import Connection as Client
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape
from tests.wire.router import Router, router

INVALID = "invalid_request_error"
SHORT_S = 0.15
SOON_S = 1.0
MEBIBYTE = 1 << 20
HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


def answers_in(raw: bytes, *, to_heads: int = 0) -> list[Answer]:
    """All answers that these bytes are, each with its content-length; the first `to_heads` answer a HEAD."""
    found: list[Answer] = []
    while raw:
        head, mark, raw = raw.partition(b"\r\n\r\n")
        assert mark, f"half an answer: {head!r}"
        one = parse_head(head)
        if one.status >= 200 and len(found) >= to_heads:
            length = int(one.headers["content-length"])
            assert len(raw) >= length, f"a body of {len(raw)} of {length} bytes"
            one.chunks, raw = [raw[:length]], raw[length:]
        found.append(one)
    return found


def request(
    *, method: str = "POST", target: str = CHAT, version: str = "1.1", headers: bytes = b"", body: bytes = b""
) -> bytes:
    sent = body or json.dumps(PROMPT).encode()
    start = f"{method} {target} HTTP/{version}\r\nhost: x\r\ncontent-length: {len(sent)}\r\n".encode("latin-1")
    return start + headers + b"\r\n" + sent


# Requests that are refused, and the connection goes on.

BAD_BODIES = {
    "nothing": (b"", None),
    "not json": (b"hello", None),
    "cut": (b'{"model":"tiny"', None),
    "behind the end": (b'{"model":"tiny"}}', None),
    "two values": (b'{"model":"tiny"} {"model":"tiny"}', None),
    "an array": (b"[]", None),
    "a string": (b'"tiny"', None),
    "null": (b"null", None),
    "no model": (b'{"messages":[]}', "model"),
    "a number for a model": (b'{"model":5}', "model"),
    "null for a model": (b'{"model":null}', "model"),
    "no name": (b'{"model":""}', "model"),
    "two models": (b'{"model":"tiny","model":"other"}', "model"),
    "two spellings of model": (b'{"model":"tiny","\\u006dodel":"other"}', "model"),
    "a word for stream": (b'{"model":"tiny","stream":"yes"}', "stream"),
    "a fraction for max_tokens": (b'{"model":"tiny","max_tokens":1.5}', "max_tokens"),
    "a list for metadata": (b'{"model":"tiny","metadata":[]}', "metadata"),
    "a long model": (b'{"model":"' + b"x" * 5000 + b'"}', "model"),
    "not a number": (b'{"model":"tiny","temperature":NaN}', None),
    "latin-1": (b'{"model":"tiny","x":"\xe9"}', None),
    "utf-16": ('{"model":"tiny"}'.encode("utf-16"), None),
    "deep": (b'{"model":"tiny","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
}


@pytest.mark.parametrize("name", BAD_BODIES)
@story
async def test_a_body_that_cannot_be_understood_is_a_400_and_the_connection_goes_on(name: str, tmp_path: Path) -> None:
    body, param = BAD_BODIES[name]
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        refusal = under_test.books.note(await client.post(CHAT, body))
        assert (refusal.status, error_shape(refusal.json())) == (400, (INVALID, "invalid_json", param))
        assert refusal.headers["x-should-retry"] == "false"
        assert "connection" not in refusal.headers
        assert (await client.post(CHAT, PROMPT)).status == 200
        first = (await under_test.wait_requests(2))[0]
        assert first["request_id"] == refusal.headers["x-request-id"]
        assert (first["outcome"], first["status"], first["error"]) == ("rejected", 400, "invalid_json")
        assert len(worker.requests) == 1


@pytest.mark.parametrize(
    ("method", "target", "content_type", "status", "code"),
    [
        ("POST", "/v1/nothing", "application/json", 404, "not_found"),
        ("POST", "/v1/chat/completions/", "application/json", 404, "not_found"),
        ("POST", "//v1/chat/completions", "application/json", 404, "not_found"),
        ("POST", "/v1//chat/completions", "application/json", 404, "not_found"),
        ("POST", "/v1/../v1/chat/completions", "application/json", 404, "not_found"),
        ("POST", "/v1/%2e%2e/v1/chat/completions", "application/json", 404, "not_found"),
        ("POST", "/v1/chat%2Fcompletions", "application/json", 404, "not_found"),
        ("POST", "/V1/chat/completions", "application/json", 404, "not_found"),
        ("POST", "http://evil.example/v1/chat/completions", "application/json", 404, "not_found"),
        ("POST", "/v1/chat/completions;a=b", "application/json", 404, "not_found"),
        ("POST", "/v1/load_lora_adapter", "application/json", 404, "not_found"),
        ("GET", "/metrics", "application/json", 404, "not_found"),
        ("GET", "/routing", "application/json", 404, "not_found"),
        ("GET", "/api/v1/workers", "application/json", 404, "not_found"),
        ("POST", "/api/v1/reload", "application/json", 404, "not_found"),
        ("GET", CHAT, "application/json", 405, "method_not_allowed"),
        ("PUT", CHAT, "application/json", 405, "method_not_allowed"),
        ("DELETE", CHAT, "application/json", 405, "method_not_allowed"),
        ("OPTIONS", CHAT, "application/json", 405, "method_not_allowed"),
        ("POST", "/health", "application/json", 405, "method_not_allowed"),
        ("POST", "/v1/models", "application/json", 405, "method_not_allowed"),
        ("POST", CHAT, "multipart/form-data; boundary=x", 415, "unsupported_media_type"),
        ("POST", CHAT, "Multipart/Form-Data; boundary=x", 415, "unsupported_media_type"),
    ],
)  # fmt: skip
@story
async def test_what_is_not_served_here_is_refused_and_the_connection_goes_on(
    method: str, target: str, content_type: str, status: int, code: str, tmp_path: Path
) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        body = b"" if method == "GET" else json.dumps(PROMPT).encode()
        client.send_request(method, target, body, [("content-type", content_type), ("x-request-id", "mine")])
        refusal = await client.receive()
        assert (refusal.status, error_shape(refusal.json())) == (status, (INVALID, code, None))
        assert (refusal.headers["x-request-id"], refusal.headers["x-should-retry"]) == ("mine", "false")
        assert (await client.get("/health")).status == 200
        assert worker.requests == []


@story
async def test_an_unknown_model_is_a_404_that_names_it(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        refusal = under_test.books.note(await client.post(CHAT, {**PROMPT, "model": "nobody"}))
        assert (refusal.status, error_shape(refusal.json())) == (404, (INVALID, "model_not_found", "model"))
        assert "nobody" in refusal.json()["error"]["message"]
        assert (await client.post(CHAT, PROMPT)).status == 200
        first = (await under_test.wait_requests(2))[0]
        assert (first["outcome"], first["error"]) == ("rejected", "model_not_found")
        assert "worker" not in first


@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@story
async def test_no_worker_to_be_reached_is_a_503_at_once(body: dict[str, Any], tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker, offline=[worker]) as under_test:
        async with under_test.connect() as client:
            await client.get("/health")                       # the connection is made
            began = asyncio.get_running_loop().time()
            refusal = under_test.books.note(await client.post(CHAT, body))
            assert asyncio.get_running_loop().time() - began < 0.05
        assert (refusal.status, error_shape(refusal.json())) == (
            503, ("service_unavailable_error", "no_healthy_worker", None),
        )  # fmt: skip
        assert refusal.headers["retry-after"].isdigit()
        assert 1 <= int(refusal.headers["retry-after"]) <= 60
        assert refusal.headers["x-should-retry"] == "true"
        assert worker.connections_accepted == 0
        line = await under_test.wait_request()
        assert (line["outcome"], "worker" in line, line["total_ms"] < 50) == ("rejected", False, True)


@pytest.mark.parametrize("target", ["/health", CHAT, "/nothing"])
@story
async def test_the_answer_to_a_head_request_has_no_body(target: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        asked = f"HEAD {target} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        came = await exchange(under_test.port, asked + HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        assert [one.status for one in answers_in(came, to_heads=1)][1:] == [200]


@story
async def test_a_refusal_after_a_head_request_has_its_body(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        client.send_request("HEAD", "/health")
        assert (await client.receive(to_head=True)).status == 200
        client.send(b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n")
        (refusal,) = answers_in(await client.until_ended(SOON_S))
        assert error_shape(refusal.json())[1] == "bad_request"


# Requests that are refused, and the connection is closed.


async def refused(under_test: Router, raw: bytes, status: int, code: str) -> None:
    """These bytes get this one refusal, and the connection ends; another one is served."""
    (only,) = answers_in(await exchange(under_test.port, raw, timeout_s=5.0))
    assert (only.status, error_shape(only.json())) == (status, (INVALID, code, None))
    assert only.headers["connection"] == "close"
    assert (await under_test.get("/health")).status == 200


BAD_REQUESTS = {
    "http/1.2": request(version="1.2"),
    "http/2.0": request(version="2.0"),
    "http/0.9": request(version="0.9"),
    "no version": request().replace(b" HTTP/1.1", b"", 1),
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "lower-case method": request(method="post"),
    "unknown method": request(method="BREW"),
    "no host": request().replace(b"host: x\r\n", b"", 1),
    "two hosts": request(headers=b"host: y\r\n"),
    "control byte in a value": request(headers=b"user-agent: a\x01b\r\n"),
    "control byte in an unread value": request(headers=b"x-any: a\x01b\r\n"),
    "nul in a value": request(headers=b"user-agent: a\x00b\r\n"),
    "escape in a value": request(headers=b"user-agent: a\x1b[2Jb\r\n"),
    "del in a value": request(headers=b"user-agent: a\x7fb\r\n"),
    "cr in a value": request(headers=b"user-agent: a\rb: c\r\n"),
    "folded header": request(headers=b"user-agent: a\r\n b\r\n"),
    "folded with a tab": request(headers=b"user-agent: a\r\n\tb\r\n"),
    "bare newlines": b"POST /v1/chat/completions HTTP/1.1\nhost: x\ncontent-length: 2\n\n{}",
    "one bare newline": request(headers=b"x-a: 1\n"),
    "space in a name": request(headers=b"x a: 1\r\n"),
    "space before a colon": request(headers=b"x-a : 1\r\n"),
    "no name": request(headers=b": 1\r\n"),
    "no colon": request(headers=b"x-a\r\n"),
    "high byte in a path": request(target=CHAT + "?a=\xff"),
    "control byte in a path": request(target=CHAT + "?a=\x01"),
    "space in a path": request(target=CHAT + "?a=b c"),
}


@pytest.mark.parametrize("name", list(BAD_REQUESTS))
@story
async def test_what_is_not_http_1_1_is_a_400_and_the_connection_is_closed(name: str, tmp_path: Path) -> None:
    limits = {"keep_alive_s": SHORT_S}
    async with FaultWorker() as worker, router(tmp_path, worker, limits=limits) as under_test:
        await refused(under_test, BAD_REQUESTS[name], 400, "bad_request")
        assert worker.requests == []
        assert total(under_test.metrics(), "rbeerouter_refused_total") == 1


@pytest.mark.parametrize(
    "raw",
    [
        request(headers=b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"),
        request(headers=b"connection: upgrade\r\nupgrade: websocket\r\n"),
        b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
        b"CONNECT worker:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
    ids=["h2c", "websocket", "get", "connect"],
)
@story
async def test_an_upgrade_is_not_made_and_gets_exactly_one_answer(raw: bytes, tmp_path: Path) -> None:
    """Java's HttpClient asks for h2c with every POST: it must be told no, or better be served as if it had not."""
    async with FaultWorker() as worker, router(tmp_path, worker, limits={"keep_alive_s": SHORT_S}) as under_test:
        (only,) = answers_in(await exchange(under_test.port, raw))
        assert only.status in (200, 400, 404, 405)
        assert len(worker.requests) == (only.status == 200 and b"POST" in raw)


@story
async def test_an_upgrade_that_connection_does_not_name_is_ignored(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        assert (await under_test.post(CHAT, PROMPT, [("upgrade", "h2c")])).status == 200
        assert worker.requests[0].header("upgrade") is None


@story
async def test_an_unknown_expectation_is_a_417(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        await refused(under_test, request(headers=b"expect: magic\r\n"), 417, "expectation_failed")
        assert worker.requests == []


# Sizes.


def header_lines(names: list[str], size: int) -> bytes:
    return b"".join(f"{name}: ".encode() + b"v" * (size - len(name) - 4) + b"\r\n" for name in names)


DISTINCT = [f"x-{at:03}" for at in range(1000)]
LARGE_HEADERS = {
    "101 fields": header_lines(DISTINCT[:99], 12),
    "33 KiB": header_lines(DISTINCT[:33], 1024),
    "one of 33 KiB": header_lines(["x"], 33 * 1024),
    "101 of one name": header_lines(["x-same"] * 99, 12),
    "33 KiB of one name": header_lines(["x-same"] * 33, 1024),
}
AT_ONCE, IN_PIECES = 1 << 20, 1000


@pytest.mark.parametrize("piece", [AT_ONCE, IN_PIECES])
@pytest.mark.parametrize("name", list(LARGE_HEADERS))
@story
async def test_too_many_or_too_large_headers_are_a_431(name: str, piece: int, tmp_path: Path) -> None:
    raw = request(headers=LARGE_HEADERS[name])
    async with (
        FaultWorker() as worker,
        router(tmp_path, worker, limits={"keep_alive_s": SHORT_S}) as under_test,
        under_test.connect() as client,
    ):
        for at in range(0, len(raw), piece):
            client.send(raw[at : at + piece])
            await asyncio.sleep(0)
        (only,) = answers_in(await client.until_ended(5.0))
        assert (only.status, error_shape(only.json())) == (431, (INVALID, "headers_too_large", None))
        assert only.headers["connection"] == "close"
        assert worker.requests == []


@story
async def test_33_kib_of_headers_byte_by_byte_are_a_431(tmp_path: Path) -> None:
    raw = request(headers=header_lines(["x"], 33 * 1024))
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        for at in range(len(raw)):
            if client.ended:
                break
            client.send(raw[at : at + 1])
            if not at % 50:
                await asyncio.sleep(0)
        (only,) = answers_in(await client.until_ended(5.0))
        assert (only.status, error_shape(only.json())[1]) == (431, "headers_too_large")


@story
async def test_large_headers_behind_another_request_are_a_431_too(tmp_path: Path) -> None:
    raw = request() + request(headers=header_lines(DISTINCT[:60], 1024))
    limits = {"keep_alive_s": SHORT_S}
    async with FaultWorker() as worker, router(tmp_path, worker, limits=limits) as under_test:
        await exchange(under_test.port, raw, timeout_s=5.0)
        assert len(worker.requests) <= 1


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"x-%d: %b\r\n", id="many fields"),
        pytest.param(b"%d%b", id="one field"),
    ],
)  # fmt: skip
@story
async def test_trailers_without_end_are_refused(line: bytes, tmp_path: Path) -> None:
    async with (
        FaultWorker() as worker,
        router(tmp_path, worker, limits={"body_s": 1.0}) as under_test,
        under_test.connect() as client,
    ):
        body = b"2\r\n{}\r\n0\r\nx-first: "
        client.send(request_bytes("POST", CHAT, body, [("transfer-encoding", "chunked")], host="x"))
        sent = 0
        while not client.ended and sent < 8 * MEBIBYTE:
            sent += len(piece := line % (sent, b"t" * 1000))
            client.send(piece)
            if client.unsent:
                await asyncio.sleep(0)
        (only,) = answers_in(await client.until_ended(5.0))
        assert only.status in (400, 413, 431)
        assert sent < 8 * MEBIBYTE
        assert worker.requests == []


@story
async def test_a_request_line_of_100_kb_is_refused(tmp_path: Path) -> None:
    raw = request(target=CHAT + "?q=" + "x" * 100_000, headers=b"connection: close\r\n")
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        (only,) = answers_in(await exchange(under_test.port, raw, timeout_s=5.0))
        assert only.status in (400, 414, 431)
        assert worker.requests == []


@story
async def test_what_is_just_within_the_limits_is_served(tmp_path: Path) -> None:
    padded = json.dumps(PROMPT).encode().ljust(10 * MEBIBYTE)
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        client.send(request(headers=header_lines(DISTINCT[:98], 12)))
        assert (await client.receive()).status == 200
        client.send(request(headers=header_lines(DISTINCT[:31], 1024)))
        assert (await client.receive()).status == 200
        assert (await client.post(CHAT, padded)).status == 200
        assert (await client.post(CHAT, chunked(padded, 50_000), [("transfer-encoding", "chunked")])).status == 200
        assert [request.body == padded for request in worker.requests[2:]] == [True, True]


def chunked(body: bytes, size: int) -> bytes:
    parts = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def send_everything_then_read(port: int, raw: bytes) -> bytes:
    """A blocking client, like many an HTTP library: it looks at the answer only when all is sent."""
    came = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(raw)
        while part := client.recv(65536):
            came += part
    return came


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@story
async def test_a_blocking_client_can_read_that_its_11_mib_are_too_large(framing: str, tmp_path: Path) -> None:
    body = json.dumps(PROMPT).encode().ljust(11 * MEBIBYTE)
    if framing == "content-length":
        raw = request(body=body)
    else:
        raw = request_bytes("POST", CHAT, chunked(body, 65536), [("transfer-encoding", "chunked")], host="x")
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        (only,) = answers_in(await asyncio.to_thread(send_everything_then_read, under_test.port, raw))
        assert (only.status, error_shape(only.json())) == (413, (INVALID, "request_too_large", None))
        assert (only.headers["connection"], only.headers["x-should-retry"]) == ("close", "false")
        assert worker.requests == []


@story
async def test_a_length_that_is_too_large_is_refused_before_the_body_comes(tmp_path: Path) -> None:
    raw = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 10485761\r\n\r\n"
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        await refused(under_test, raw, 413, "request_too_large")
        assert worker.requests == []


@story
async def test_a_refused_client_that_goes_on_sending_is_cut_off(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n")
        (await client.receive()).json()
        for _ in range(400):
            client.send(b"x" * 1000)
            await asyncio.sleep(0.01)
            if not under_test.client_connections():
                break
        assert not under_test.client_connections()


@story
async def test_a_body_of_tiny_chunks_does_not_hold_up_others(tmp_path: Path) -> None:
    """1.8 million chunks of one byte are 10 MiB on the wire, and far less than the limit in body bytes."""
    tiny = b"1\r\n \r\n"
    loop = asyncio.get_running_loop()

    async def trickle(client: Client) -> float:
        began = loop.time()
        for _ in range(40):
            client.send(tiny)
            await asyncio.sleep(0)
        return loop.time() - began

    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        at_first = await trickle(client)
        for _ in range(18):
            client.send(tiny * 100_000)
            await asyncio.sleep(0)
        await until(lambda: client.unsent == 0, "all of it to be read")
        assert await trickle(client) < 10 * at_first + 0.1
        client.abort()


# Keep-alive, pipelining, old clients.


@story
async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def echo_user(connection: Connection, request: Request) -> None:
        number = int(request.json()["user"])
        await asyncio.sleep(0.02 if number % 3 == 0 else 0)
        await connection.write(whole(200, completion(connection, request, f"user {number}")))

    async with FaultWorker(echo_user) as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        for number in range(27):
            client.send_request("POST", CHAT, {**PROMPT, "user": str(number)})
        answers = [under_test.books.note(await client.receive()) for _ in range(27)]
        assert [one.json()["choices"][0]["message"]["content"] for one in answers] == [f"user {at}" for at in range(27)]
        assert [one.headers["x-request-id"] for one in answers] == [
            line["request_id"] for line in await under_test.wait_requests(27)
        ]
        assert [int(request.json()["user"]) for request in worker.requests] == list(range(27))


@story
async def test_pipelined_requests_of_every_kind_are_answered_in_order(tmp_path: Path) -> None:
    asked = [
        (CHAT, PROMPT, 200), ("/nothing", PROMPT, 404), (CHAT, b"{", 400), (CHAT, STREAMED, 200),
        (CHAT, {**PROMPT, "model": "nobody"}, 404), (CHAT, PROMPT, 200),
    ]  # fmt: skip
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        client.send(b"".join(request_bytes("POST", path, body, [], host="x") for path, body, _ in asked) + HEALTH)
        answers = [await client.receive() for _ in range(len(asked) + 1)]
        assert [one.status for one in answers] == [*(status for _, _, status in asked), 200]
        assert answers[-1].json()["status"] == "ok"
        assert answers[3].events()[-1].data == "[DONE]"


@story
async def test_requests_on_one_connection_do_not_mix(tmp_path: Path) -> None:
    headers = [("x-rbee-meta-team", "red"), ("user-agent", "one"), ("x-request-id", "one"), ("x-session-id", "s")]
    script = """
        function route_request(request, workers)
          if request.metadata.team then error("team " .. request.metadata.team) end
          return workers[1]
        end"""
    async with FaultWorker() as worker, router(tmp_path, worker, script=script) as under_test:
        async with under_test.connect() as client:
            client.send(request_bytes("POST", CHAT, {**PROMPT, "user": "a"}, headers, host="x"))
            client.send(request_bytes("POST", CHAT, PROMPT, [], host="x"))
            for _ in range(2):
                assert (await client.receive()).status == 200
        first, second = worker.requests
        assert (first.header("user-agent"), second.header("user-agent")) == (b"one", None)
        assert (first.header("x-session-id"), second.header("x-session-id")) == (b"s", None)
        assert second.body == json.dumps(PROMPT).encode()
        one, two = await under_test.wait_requests(2)
        assert ("script_error" in one, "script_error" in two) == (True, False)
        assert (one["request_id"], two["request_id"] != "one") == ("one", True)
        assert ("user" in one, "user" in two) == (True, False)


@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@pytest.mark.parametrize("behaviour", ["ok", "ok_chunked", "ok_close"])
@story
async def test_an_http_1_0_client_gets_no_chunks_and_the_end_of_the_connection(
    behaviour: str, body: dict[str, Any], tmp_path: Path
) -> None:
    raw = request_bytes("POST", CHAT, body, [("connection", "keep-alive")], host="x").replace(b"HTTP/1.1", b"HTTP/1.0")

    async def slow(connection: Connection, request: Request) -> None:
        await answer(connection, request, delay_s=0.01)

    async with FaultWorker(slow if behaviour == "ok" else behaviour) as worker, router(tmp_path, worker) as under_test:
        head, _, came = (await exchange(under_test.port, raw)).partition(b"\r\n\r\n")
        seen = parse_head(head)
        assert (seen.status, seen.headers.get("transfer-encoding"), seen.headers["connection"]) == (200, None, "close")
        seen.chunks = [came]
        if body is STREAMED and behaviour != "ok_chunked":
            text = "".join(event.content for event in seen.events())
            assert seen.events()[-1].data == "[DONE]"
        else:
            text = seen.json()["choices"][0]["message"]["content"]
        assert text == ANSWER_TEXT


@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@story
async def test_connection_close_is_obeyed(body: dict[str, Any], tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        seen = await client.post(CHAT, body, [("connection", "close")])
        assert (seen.status, seen.complete, seen.headers["connection"]) == (200, True, "close")
        assert await client.until_ended(SOON_S) == b""
        assert worker.open_connections == 1                   # the worker's connection is ours to keep


@story
async def test_what_comes_behind_connection_close_is_ignored(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        raw = request(headers=b"connection: close\r\n") + request()
        assert [one.status for one in answers_in(await exchange(under_test.port, raw))] == [200]
        assert len(worker.requests) == 1


@story
async def test_empty_lines_between_requests_are_skipped(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        for _ in range(2):
            client.send(b"\r\n" + request() + b"\r\n")
            assert (await client.receive()).status == 200


@story
async def test_a_request_in_single_bytes_is_served(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        for byte in request(headers=b"x-request-id: slow\r\n"):
            client.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await client.receive()).headers["x-request-id"] == "slow"
        assert worker.requests[0].body == json.dumps(PROMPT).encode()


@story
async def test_a_chunked_request_reaches_the_worker_with_a_length(tmp_path: Path) -> None:
    body = json.dumps(PROMPT).encode()
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        for size in (1, 7, 1000):
            seen = await under_test.post(CHAT, chunked(body, size), [("transfer-encoding", "chunked")])
            assert seen.status == 200
        assert [request.body for request in worker.requests] == [body] * 3
        assert {request.header("content-length") for request in worker.requests} == {str(len(body)).encode()}
        assert {request.header("transfer-encoding") for request in worker.requests} == {None}


@story
async def test_expect_100_continue_is_answered_before_the_body_comes(tmp_path: Path) -> None:
    raw = request(headers=b"expect: 100-continue\r\n")
    split = raw.index(b"\r\n\r\n") + 4
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        client.send(raw[:split])
        await until(lambda: client.unread == b"HTTP/1.1 100 Continue\r\n\r\n", "the go-ahead")
        assert worker.requests == []
        client.send(raw[split:])
        seen = await client.receive()
        assert (seen.status, seen.interim) == (200, [100])
        assert worker.requests[0].header("expect") is None


@story
async def test_an_expectation_behind_a_running_stream_does_not_break_into_it(tmp_path: Path) -> None:
    async with (
        FaultWorker("slow_tokens") as worker,
        router(tmp_path, worker) as under_test,
        under_test.connect() as client,
    ):
        client.send_request("POST", CHAT, STREAMED)
        await until(lambda: b"one" in client.unread, "the stream to begin")
        client.send(request(headers=b"expect: 100-continue\r\n"))
        first, second = await client.receive(), await client.receive()
        assert b"100 Continue" not in first.body
        assert (first.events()[-1].data, second.status) == ("[DONE]", 200)


@story
async def test_an_http_1_0_client_gets_no_100(tmp_path: Path) -> None:
    raw = request(version="1.0", headers=b"expect: 100-continue\r\n")
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        came = await exchange(under_test.port, raw)
        assert came.startswith(b"HTTP/1.1 200 OK\r\n")


@story
async def test_connections_beyond_the_limit_are_closed_and_counted(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker, server={"max_connections": 2}) as under_test:
        async with under_test.connect() as one, under_test.connect() as two:
            assert [(await client.get("/health")).status for client in (one, two)] == [200, 200]
            assert await exchange(under_test.port, HEALTH) == b""
            assert under_test.metrics()["rbeerouter_refused_total", (("reason", "connections_rejected"),)] == 1
            assert (await one.post(CHAT, PROMPT)).status == 200
        await until(lambda: not under_test.client_connections(), "the places to be free")
        assert (await under_test.post(CHAT, PROMPT)).status == 200


@story
async def test_a_destination_named_by_the_request_changes_nothing(tmp_path: Path) -> None:
    async with FaultWorker(name="target") as target, FaultWorker(name="worker") as worker:
        body = {**PROMPT, "api_base": target.url, "base_url": target.url, "url": target.url, "worker": "target"}
        headers = [("x-forwarded-host", f"127.0.0.1:{target.port}"), ("host", f"127.0.0.1:{target.port}/#@x")]
        async with router(tmp_path, worker) as under_test:
            assert (await under_test.post(CHAT, body, headers)).status == 200
            assert (len(worker.requests), target.connections_accepted) == (1, 0)
            assert worker.requests[0].header("host") == f"127.0.0.1:{worker.port}".encode()


def every_cut(raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    return ((raw[:at], raw[at:]) for at in range(1, len(raw)))


@story
async def test_requests_that_are_cut_anywhere_are_read_alike(tmp_path: Path) -> None:
    raw = request(headers=b"x-session-id: s\r\n") + request(target="/v1/embeddings")
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        for first, rest in every_cut(raw):
            client.send(first)
            await asyncio.sleep(0)
            client.send(rest)
            assert [(await client.receive()).status, (await client.receive()).status] == [200, 200]
        assert {(request.path, request.header("x-session-id")) for request in worker.requests} == {
            (CHAT, b"s"), ("/v1/embeddings", None),
        }  # fmt: skip


# What the script sees of a request.

TELL = """
function route_request(request, workers)
  local agent = request.headers["user-agent"] or "-"
  local prompt = EXPOSED and request.prompt or "-"
  return reject{message = agent .. "|" .. (request.session_id or "-") .. "|" .. prompt .. "|" .. request.prompt_tokens}
end
"""


@pytest.mark.parametrize("exposed", [False, True])
@story
async def test_a_script_sees_the_headers_that_are_listed_and_the_prompt_only_when_it_is_exposed(
    exposed: bool, tmp_path: Path
) -> None:
    routing = {"expose_prompt": exposed, "prompt_chars": 5}
    script = TELL.replace("EXPOSED", str(exposed).lower())
    async with FaultWorker() as worker, router(tmp_path, worker, script=script, routing=routing) as under_test:
        headers = [("User-Agent", "curl"), ("Accept", "text/html"), ("X-Session-Id", "s-1")]
        told = [(await under_test.post(CHAT, PROMPT, given)).json()["error"]["message"] for given in (headers, [])]
        prompt = "hello" if exposed else "-"
        tokens = len(json.dumps(PROMPT, separators=(",", ":"))) // 4
        assert [text.rpartition("|")[0] for text in told] == [f"curl|s-1|{prompt}", f"-|-|{prompt}"]
        assert all(abs(int(text.rpartition("|")[2]) - tokens) <= 3 for text in told)


@story
async def test_a_script_that_looks_at_no_headers_costs_no_reading_of_them(tmp_path: Path) -> None:
    script = "function route_request(request, workers)\n  return workers[1]\nend\n"
    async with FaultWorker() as worker, router(tmp_path, worker, script=script) as under_test:
        listener = under_test.daemon.listener
        assert (listener.shown_headers, listener.prompt_chars) == ((), 0)
        listener.show(("X-Tier",), 10)
        raw = {b"x-TIER": b"1", b"User-Agent": b"curl"}
        assert listener.request_shapes.of(raw).texts(raw) == {"x-tier": "1"}
        listener.apply(under_test.daemon.config.server, under_test.daemon.config.limits, NO_MODELS)
        assert listener.request_shapes.of(raw).texts(raw) == {"x-tier": "1"}, "other settings leave it as it is"
