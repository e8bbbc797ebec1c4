"""What strange HTTP does to the daemon as it runs, also behind another proxy: rows 43 to 54 of tests/e2e/test_rows.py.

Run by pytest. Each row has more cases in tests/wire, where the router runs in the test's own process; here are those
that need a process, or another program in front of it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon, free_port, is_free, until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Connection, exchange
from tests.wire.answers import CHAT, PROMPT

BODY = json.dumps(PROMPT).encode()
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
SHORT = {"keep_alive_s": 0.5, "body_s": 0.5, "body_gap_s": 0.5, "header_s": 0.5}


def request(path: str = CHAT, headers: bytes = b"", body: bytes = BODY) -> bytes:
    start = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return start.encode() + headers + b"\r\n" + body


# HTTP/2 without TLS.


@pytest.mark.parametrize(
    "raw", [request(headers=H2C), b"GET /health HTTP/1.1\r\nhost: x\r\n" + H2C + b"\r\n", PREFACE + SETTINGS]
)
@story
async def test_nobody_gets_http_2_on_a_plain_connection(raw: bytes, tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker, limits=SHORT) as router:
        for port in (router.port, router.control_port):
            try:
                came = await exchange(port, raw + (b"" if raw.startswith(b"PRI") else PREFACE + SETTINGS), timeout_s=7.0)
            except TimeoutError as error:                      # the control plane keeps connections for longer
                came = str(error).encode()
            assert b"HTTP/1.1 101" not in came
            assert b"\x00\x00\x04\x00" not in came.partition(b"\r\n\r\n")[0][:30]
            assert not came.startswith(b"\x00")


NGINX = """
daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /v1/embeddings {{ deny all; }}
    location / {{
      proxy_pass http://127.0.0.1:{router};
      proxy_http_version 1.1;
      proxy_set_header upgrade $http_upgrade;
      proxy_set_header connection "Upgrade, HTTP2-Settings";
      proxy_set_header http2-settings $http_http2_settings;
    }}
  }}
}}
"""
HAPROXY = """
global
  maxconn 100
defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
frontend all
  bind 127.0.0.1:{port}
  http-request deny if {{ path -m beg /v1/embeddings }}
  default_backend router
backend router
  server router 127.0.0.1:{router}
"""
PROXIES = {"nginx": (NGINX, "-c"), "haproxy": (HAPROXY, "-f")}


@asynccontextmanager
async def in_front(name: str, router: DaemonProcess, folder: Path) -> AsyncIterator[int]:
    """A proxy before the daemon that lets nobody at /v1/embeddings, and passes upgrades on; its port."""
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip(f"{name} is not installed")
    text, option = PROXIES[name]
    port = free_port()
    path = folder / f"{name}.conf"
    path.write_text(text.format(folder=folder, port=port, router=router.port))
    process = subprocess.Popen([program, option, str(path)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await until(lambda: not is_free(port) or process.poll() is not None, f"{name} to listen")
        assert process.poll() is None, f"{name} does not run"
        yield port
    finally:
        process.terminate()
        process.wait(10)


def h2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header field of HPACK that is in no table."""
    return b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value


TUNNELLED = PREFACE + h2_frame(4, 0, 0, b"") + h2_frame(
    1, 4, 3, b"".join(literal(*field) for field in (
        (b":method", b"POST"), (b":path", b"/v1/embeddings"), (b":scheme", b"http"), (b":authority", b"x"),
    )),
) + h2_frame(0, 1, 3, b'{"model":"tiny","input":"secret"}')  # fmt: skip


@pytest.mark.parametrize("name", PROXIES)
@story
async def test_a_path_that_a_proxy_denies_stays_denied_whatever_is_upgraded(name: str, tmp_path: Path) -> None:
    denied = request("/v1/embeddings")
    async with FaultWorker() as worker, daemon(tmp_path, worker, limits=SHORT) as router:
        async with in_front(name, router, tmp_path) as port:
            async with Connection(port) as client:
                client.send(denied)
                assert (await client.receive()).status == 403
            async with Connection(port) as client:
                client.send(request())
                assert (await client.receive()).status == 200
            for first in (request(headers=H2C), b"GET /health HTTP/1.1\r\nhost: x\r\n" + H2C + b"\r\n"):
                for tail in (TUNNELLED, denied):
                    async with Connection(port) as client:
                        client.send(first)
                        await asyncio.sleep(0.05)
                        client.send(tail)
                        try:
                            came = await client.until_ended(1.0)
                        except TimeoutError:
                            came = client.unread
                    assert b"HTTP/1.1 101" not in came
        assert {request.path for request in worker.requests} == {CHAT}


# Requests that two servers could read differently.


def spellings() -> Iterator[bytes]:
    """Every way to write `transfer-encoding: chunked` that some server was once fooled by."""
    yield b"Transfer-Encoding: chunked"
    controls = [bytes((code,)) for code in (*range(0x01, 0x0A), 0x0B, 0x0C, *range(0x0E, 0x21), 0x7F, 0x85, 0xA0, 0xFF)]
    for odd in controls:
        yield b"Transfer-Encoding:" + odd + b"chunked"
        yield b"Transfer-Encoding" + odd + b": chunked"
        yield b"Transfer-Encoding: chunked" + odd
        yield odd + b"Transfer-Encoding: chunked"
    for value in (
        b"chunk", b"CHUNKED", b"chunked,", b",chunked", b"chunked, identity", b"identity, chunked", b"x,chunked", b"'chunked'",
        b'"chunked"', b"chunked;q=0", b"xchunked", b"chunkedx", b"cow", b"identity", b"\tchunked\t", b"chu\r\n nked",
    ):  # fmt: skip
        yield b"Transfer-Encoding: " + value
        yield b"Transfer-Encoding: " + value + b"\r\nTransfer-Encoding: chunked"
        yield b"Transfer-Encoding: chunked\r\nTransfer-Encoding: " + value
    yield from (
        b"Transfer-Encoding:chunked", b"TRANSFER-ENCODING: chunked", b"Transfer_Encoding: chunked", b"Transfer-Encoding\n: chunked",
        b"Foo: bar\nTransfer-Encoding: chunked", b"Foo: bar\r\n\rTransfer-Encoding: chunked", b"Foo: bar\rTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\r", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding:\n\tchunked",
        b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip", b"X: X\r\nTransfer-Encoding : chunked",
    )  # fmt: skip


def smuggled() -> Iterator[bytes]:
    """Each spelling beside a content-length, with the body that makes the tail a second request for one of the two."""
    tail = b"GET /health HTTP/1.1\r\nhost: x\r\nx-smuggled: 1\r\n\r\n"
    for spelling in spellings():
        start = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
        yield start + b"content-length: %d\r\n" % (len(chunked) + len(tail)) + spelling + b"\r\n\r\n" + chunked + tail
        yield start + spelling + b"\r\ncontent-length: %d\r\n\r\n" % (len(chunked) + len(tail)) + chunked + tail


@story(timeout_s=60.0)
async def test_no_spelling_of_two_lengths_ever_gets_two_answers(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker, limits=SHORT) as router:
        room = asyncio.Semaphore(50)

        async def attack(raw: bytes) -> None:
            async with room:
                came = await exchange(router.port, raw, timeout_s=8.0)
            answers = came.count(b"HTTP/1.1 ")
            assert answers <= 1, raw
            assert came[9:12] in (b"200", b"400", b"408", b"501", b""), (raw, came)

        attacks = list(smuggled())
        assert len(attacks) > 380
        await asyncio.gather(*map(attack, attacks))
        # Whatever was taken was taken as one body of the length that stands there: no chunk framing was unpacked.
        assert all(request.path == CHAT for request in worker.requests)


@story
async def test_control_bytes_and_line_ends_in_headers_leave_the_log_whole(tmp_path: Path) -> None:
    odd = [bytes((code,)) for code in (*range(0x09), 0x0A, 0x0B, 0x0C, 0x0D, *range(0x0E, 0x20), 0x7F)]
    names = [b"user-agent", b"x-request-id", b"x-session-id", b"x-rbee-meta-tier", b"x-any"]
    async with FaultWorker() as worker, daemon(tmp_path, worker, limits=SHORT) as router:
        for name, code in itertools.product(names, odd):
            came = await exchange(router.port, request(headers=name + b": a" + code + b'b","forged":"1\r\n'))
            assert came.startswith(b"HTTP/1.1 400 "), (name, code, came)
        assert worker.requests == []
        for name in names:
            line = "\u2028\u2029\x85é".encode()
            came = await exchange(router.port, request(headers=name + b": " + line + b"\r\nconnection: close\r\n"))
            assert came[9:12] in (b"200", b"400"), (name, came)
        assert not any("forged" in line for line in router.log_lines())


ELSEWHERE = [
    (request().replace(b"host: x", b"host: x/#@y"), (200, 400)),
    (request().replace(b"host: x", b"host: 169.254.169.254"), (200, 400)),
    (request(f"http://169.254.169.254{CHAT}"), (400, 404)),
    (request(f"//169.254.169.254{CHAT}"), (404,)),
    (request("/v1/chat/../../api/v1/reload"), (404,)),
    (request("/v1/../admin"), (404,)),
    (request("/%2e%2e/api/v1/workers"), (404,)),
    (request("/v1/chat/completions/..%2f..%2f..%2fapi/v1/reload"), (404,)),
    (request("/api/v1/reload"), (404,)),
    (request("/api/v1/workers"), (401, 403, 404)),
]


@story
async def test_no_host_and_no_path_leads_elsewhere(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker, limits=SHORT) as router:
        for raw, statuses in ELSEWHERE:
            worker.requests.clear()
            async with Connection(router.port) as client:
                client.send(raw)
                answer = await client.receive()
            assert answer.status in statuses, raw
            assert len(worker.requests) == (answer.status == 200), raw
            for one in worker.requests:
                assert one.header("host") == f"127.0.0.1:{worker.port}".encode()


STRICT = {
    "two models": b'{"model":"tiny","model":"tiny:hang"}', "nan": b'{"model":"tiny","temperature":NaN}',
    "infinite": b'{"model":"tiny","temperature":-Infinity}', "deep": b'{"model":"tiny","x":' + b"[" * 100_000,
    "utf-16": '{"model":"tiny"}'.encode("utf-16"), "array": b"[1]", "nothing": b"", "text": b"hello",
    "latin-1": b'{"model":"tiny","x":"\xe9"}', "bom": b'\xef\xbb\xbf{"model":"tiny"}',
    "lone surrogate as bytes": b'{"model":"tiny","x":"\xed\xa0\x80"}', "single quotes": b"{'model':'tiny'}",
    "comment": b'{"model":"tiny"/**/}', "trailing comma": b'{"model":"tiny",}', "nul": b'{"model":"tiny"}\x00',
    "lone surrogate in model": b'{"model":"ti\\ud800ny"}',
}  # fmt: skip
PASSED_ON = {
    "out of range": b'{"model":"tiny","temperature":1e400}', "long integer": b'{"model":"tiny","seed":' + b"9" * 5000 + b"}",
    "lone surrogate": b'{"model":"tiny","x":"\\ud800"}',
}  # fmt: skip


@story
async def test_json_that_two_parsers_could_read_differently_is_a_400(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        for name, body in STRICT.items():
            answer = await router.post(CHAT, body)
            assert (name, answer.status) == (name, 400)
            assert answer.json()["error"]["code"] == "invalid_json"
        assert worker.requests == []


@pytest.mark.parametrize("name", PASSED_ON)
@story
async def test_numbers_that_the_router_does_not_read_are_a_400_or_reach_the_worker_byte_for_byte(
    name: str, tmp_path: Path
) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        answer = await router.post(CHAT, PASSED_ON[name])
        assert answer.status in (200, 400)
        assert [one.body for one in worker.requests] == [PASSED_ON[name]] * (answer.status == 200)
