"""What a worker's error status means: whose business it is, when the worker wants to be asked again, what can be shown."""

from __future__ import annotations

import email.utils

import msgspec
import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.wire.headers import Shapes
from rbeerouter.wire.refusals import is_clients_fault, is_held, is_shown, retry_after_s, verdict

WALL = 1_772_366_405.0


def asked(**headers: str) -> float | None:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return retry_after_s(Shapes([]).of(raw), raw, WALL)


def error(message: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message}})


@pytest.mark.parametrize(
    ("engine", "status", "message", "code"),
    [
        ("openai", 429, "no", "upstream_overloaded"), ("openai", 503, "no", "upstream_overloaded"),
        ("anthropic", 529, "Overloaded", "upstream_overloaded"), ("vllm", 503, "busy", "upstream_overloaded"),
        ("llamacpp", 503, "Loading model", "upstream_overloaded"), ("tgi", 503, "dead", "upstream_error_status"),
        ("tgi", 424, "no", "upstream_error_status"), ("openai", 500, "no", "upstream_error_status"),
        ("openai", 502, "no", "upstream_error_status"), ("vllm", 404, "The model `x` does not exist", "upstream_unusable"),
        ("vllm", 401, "Unauthorized", "upstream_unusable"), ("vllm", 404, "Not Found", None),
        ("llamacpp", 500, "[json.exception.parse_error.101] parse error", None), ("openai", 501, "no", None),
    ],
)  # fmt: skip
def test_an_error_says_whether_another_worker_may_do_better(engine: str, status: int, message: str, code: str | None) -> None:
    assert is_held(status)
    assert verdict(engine, status, error(message)) == (FAILURES[code] if code else None)


def test_most_refusals_are_the_client_s_business_at_once() -> None:
    assert [status for status in range(400, 500) if is_held(status)] == [401, 404, 424, 425, 429]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None), ({"Retry_After": "7"}, 7.0), ({"retry_after": "0"}, 0.0), ({"retry_after": " 2.5 "}, 2.5),
        ({"retry_after_ms": "150", "retry_after": "7"}, 0.15), ({"retry_after_ms": "soon", "retry_after": "7"}, 7.0),
        ({"retry_after": "soon"}, None), ({"retry_after": "-1"}, None), ({"retry_after": "1e9"}, None),
        ({"retry_after": email.utils.formatdate(WALL + 30, usegmt=True)}, 30.0),
        ({"retry_after": email.utils.formatdate(WALL - 30, usegmt=True)}, 0.0),
        ({"retry_after": "Sun, 99 Nov 9999 99:99:99 GMT"}, None), ({"retry_after": "9" * 400}, None),
    ],
)  # fmt: skip
def test_a_wait_is_read_in_each_of_its_forms_and_nonsense_is_none(headers: dict[str, str], seconds: float | None) -> None:
    assert asked(**headers) == seconds


@pytest.mark.parametrize("body", [b'{"error":{"message":"no"}}', b'{"detail":"no"}', b'{"error":"no"}'])
def test_an_error_object_of_any_shape_can_be_shown(body: bytes) -> None:
    assert is_shown(body)


@pytest.mark.parametrize("body", [b'{"a":' + b"[" * 100_000, b"", b"{}", b"[]", b'"no"', b"<html>", b'{"error":', b"\xff\xfe"])
def test_what_is_no_error_object_is_not_shown(body: bytes) -> None:
    assert not is_shown(body)


def test_an_error_in_a_stream_blames_the_request_by_its_code() -> None:
    assert is_clients_fault(b'data: {"error":{"message":"long","code":400}}\n\n')
    assert is_clients_fault(b'data: {"error":{"status": "422"}}\n\n')
    for server in (b'{"code":500}', b'{"code":429}', b'{"code":"no_room"}', b'{"code":4000}', b'{"message":"code 400"}'):
        assert not is_clients_fault(server)
