"""Tests of framing that two servers could read differently: it is refused, or read once and sent on unambiguously.

Run by pytest, with the router in the test's loop. After every request comes a second one: it must be answered when the
first was good, and must never be looked at when the first was refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.aio import story
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import exchange
from tests.wire.answers import PROMPT, error_shape
from tests.wire.router import router
from tests.wire.test_listener import answers_in

BODY = json.dumps(PROMPT).encode()
LENGTH = str(len(BODY)).encode()
START = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SECOND = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
TE = b"transfer-encoding:"
CL = b"content-length:"
GOOD, REFUSED, EITHER = {200}, {400}, {200, 400, 501}


def coded(value: bytes) -> bytes:
    return START + TE + value + b"\r\n\r\n" + CHUNKED


def long(value: bytes) -> bytes:
    return START + CL + value + b"\r\n\r\n" + BODY


def chunks(framed: bytes) -> bytes:
    return START + TE + b" chunked\r\n\r\n" + framed


SIZE = b"%x" % len(BODY)
END = b"\r\n0\r\n\r\n"
CASES = {
    # Two lengths.
    "length, then chunked": (START + CL + b" 4\r\n" + TE + b" chunked\r\n\r\n" + CHUNKED, REFUSED),
    "chunked, then length": (START + TE + b" chunked\r\n" + CL + b" 4\r\n\r\n" + CHUNKED, REFUSED),
    "right length and chunked": (
        START + CL + b" %d\r\n" % len(CHUNKED) + TE + b" chunked\r\n\r\n" + CHUNKED, REFUSED,
    ),
    "the same length twice": (START + (CL + b" " + LENGTH + b"\r\n") * 2 + b"\r\n" + BODY, REFUSED),
    "two lengths": (START + CL + b" " + LENGTH + b"\r\n" + CL + b" 5\r\n\r\n" + BODY, REFUSED),
    "chunked twice": (START + (TE + b" chunked\r\n") * 2 + b"\r\n" + CHUNKED, REFUSED),
    "identity, then chunked": (START + TE + b" identity\r\n" + TE + b" chunked\r\n\r\n" + CHUNKED, EITHER),
    "chunked, then identity": (START + TE + b" chunked\r\n" + TE + b" identity\r\n\r\n" + CHUNKED, REFUSED),
    # Spellings of a coding.
    "no space": (coded(b"chunked"), GOOD),
    "space behind": (coded(b" chunked "), GOOD),
    "tab before": (coded(b"\tchunked"), GOOD),
    "upper case": (coded(b" CHUNKED"), GOOD),
    "xchunked": (coded(b" xchunked"), REFUSED),
    "chunkedx": (coded(b" chunkedx"), REFUSED),
    "nothing": (coded(b""), REFUSED),
    "identity": (coded(b" identity"), REFUSED),
    "gzip": (coded(b" gzip"), REFUSED),
    "chunked, identity": (coded(b" chunked, identity"), REFUSED),
    "identity, chunked": (coded(b" identity, chunked"), EITHER),
    "gzip, chunked": (coded(b" gzip, chunked"), EITHER),
    "chunked, chunked": (coded(b" chunked, chunked"), REFUSED),
    "comma behind": (coded(b" chunked,"), EITHER),
    "comma before": (coded(b" , chunked"), EITHER),
    "a parameter": (coded(b" chunked;q=1"), REFUSED),
    "in quotes": (coded(b' "chunked"'), REFUSED),
    "vertical tab": (coded(b"\x0bchunked"), REFUSED),
    "form feed": (coded(b" chunked\x0c"), REFUSED),
    "nul behind": (coded(b" chunked\x00"), REFUSED),
    "no-break space": (coded(b"\xa0chunked"), REFUSED),
    "space before the colon": (START + b"transfer-encoding : chunked\r\n\r\n" + CHUNKED, REFUSED),
    "folded": (START + TE + b"\r\n chunked\r\n\r\n" + CHUNKED, REFUSED),
    "underscore": (START + b"transfer_encoding: chunked\r\n" + CL + b" " + LENGTH + b"\r\n\r\n" + BODY, GOOD),
    "in http/1.0": (coded(b" chunked").replace(b"HTTP/1.1", b"HTTP/1.0"), REFUSED),
    "behind a bare newline": (START + b"x-a: 1\n" + TE + b" chunked\r\n\r\n" + CHUNKED, REFUSED),
    # Spellings of a length.
    "plus": (long(b" +" + LENGTH), REFUSED),
    "minus": (long(b" -" + LENGTH), REFUSED),
    "spaces around": (long(b"  " + LENGTH + b"  "), GOOD),
    "leading zeros": (long(b" 00" + LENGTH), GOOD),
    "list": (long(b" " + LENGTH + b", " + LENGTH), REFUSED),
    "hexadecimal": (long(b" 0x4b"), REFUSED),
    "inner space": (long(b" 7 5"), REFUSED),
    "empty": (long(b""), REFUSED),
    "fraction": (long(b" " + LENGTH + b".0"), REFUSED),
    "exponent": (long(b" 1e2"), REFUSED),
    "underscored": (long(b" 1_0"), REFUSED),
    "over 64 bits": (long(b" 18446744073709551691"), REFUSED),
    # Chunks.
    "extension": (chunks(SIZE + b";a=b\r\n" + BODY + END), GOOD),
    "quoted extension": (chunks(SIZE + b';a="b;c"\r\n' + BODY + END), GOOD),
    "control byte in an extension": (chunks(SIZE + b";a=\x01\r\n" + BODY + END), REFUSED),
    "newline in an extension": (chunks(SIZE + b";a\n" + BODY + END), REFUSED),
    "bare newlines": (chunks(SIZE + b"\n" + BODY + b"\n0\n\n"), REFUSED),
    "bare newline at the end": (chunks(SIZE + b"\r\n" + BODY + b"\r\n0\r\n\n"), REFUSED),
    "space behind the size": (chunks(SIZE + b" \r\n" + BODY + END), REFUSED),
    "0x before the size": (chunks(b"0x" + SIZE + b"\r\n" + BODY + END), REFUSED),
    "minus before the size": (chunks(b"-" + SIZE + b"\r\n" + BODY + END), REFUSED),
    "size over 64 bits": (chunks(b"1" + b"0" * 15 + SIZE + b"\r\n" + BODY + END), REFUSED),
    "zeros before the size": (chunks(b"000" + SIZE + b"\r\n" + BODY + END), GOOD),
    "longer than its size": (chunks(SIZE + b"\r\n" + BODY + b"X" + END), REFUSED),
    "no size": (chunks(b"\r\n" + BODY + END), REFUSED),
    "trailer": (chunks(SIZE + b"\r\n" + BODY + b"\r\n0\r\nx-a: 1\r\n\r\n"), GOOD),
    "a length in a trailer": (chunks(SIZE + b"\r\n" + BODY + b"\r\n0\r\ncontent-length: 5\r\n\r\n"), {200, 400}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@story
async def test_no_request_is_read_as_two_or_as_another(name: str, tmp_path: Path) -> None:
    raw, allowed = CASES[name]
    async with FaultWorker() as worker, router(tmp_path, worker, limits={"body_s": 0.3}) as under_test:
        answers = answers_in(await exchange(under_test.port, raw + SECOND, timeout_s=3.0))
        first = answers[0]
        assert first.status in allowed
        if first.status == 200:
            assert [one.status for one in answers] == [200, 200]
            (only,) = worker.requests
            assert only.body == BODY
            assert only.header("content-length") == LENGTH
            assert only.header("transfer-encoding") is None
        else:
            assert len(answers) == 1, "the second request was looked at"
            assert error_shape(first.json())[1] == "bad_request"
            assert first.headers["connection"] == "close"
            assert worker.requests == []


@pytest.mark.parametrize("name", [name for name, (_, allowed) in CASES.items() if allowed == REFUSED])
@story
async def test_a_refused_request_is_refused_in_single_bytes_too(name: str, tmp_path: Path) -> None:
    raw, _ = CASES[name]
    async with (
        FaultWorker() as worker,
        router(tmp_path, worker, limits={"body_s": 0.3}) as under_test,
        under_test.connect() as client,
    ):
        for byte in raw:
            if client.ended:
                break
            client.send(bytes((byte,)))
        (only,) = answers_in(await client.until_ended(3.0))
        assert (only.status, worker.requests) == (400, [])


@story
async def test_a_smuggled_request_inside_a_body_stays_a_body(tmp_path: Path) -> None:
    inner = {**PROMPT, "user": "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n\r\n"}
    body = json.dumps(inner).encode()
    raw = START + CL + b" %d\r\n\r\n" % len(body) + body + SECOND
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        assert [one.status for one in answers_in(await exchange(under_test.port, raw))] == [200, 200]
        assert [request.body for request in worker.requests] == [body]
