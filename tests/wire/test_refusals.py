"""What a worker's error status means: whose business it is, when the worker wants to be asked again, what can be shown."""

from __future__ import annotations

import email.utils

import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.wire.headers import Shapes
from rbeerouter.wire.refusals import is_clients_fault, is_shown, retry_after_s, verdict

WALL = 1_772_366_405.0


def asked(**headers: str) -> float | None:
    raw = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return retry_after_s(Shapes([]).of(raw), raw, WALL)


def test_statuses_say_whether_another_worker_may_do_better() -> None:
    full, broken = FAILURES["upstream_overloaded"], FAILURES["upstream_error_status"]
    assert {status: verdict(status) for status in (429, 503, 529)} == dict.fromkeys((429, 503, 529), full)
    assert {status: verdict(status) for status in (424, 500, 502, 504)} == dict.fromkeys((424, 500, 502, 504), broken)
    assert {verdict(status) for status in (200, 204, 400, 401, 404, 409, 413, 422, 499, 501, 505)} == {None}


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


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'"no"', b"<html>", b'{"error":', b"\xff\xfe"])
def test_what_is_no_error_object_is_not_shown(body: bytes) -> None:
    assert not is_shown(body)


def test_an_error_in_a_stream_blames_the_request_by_its_code() -> None:
    assert is_clients_fault(b'data: {"error":{"message":"long","code":400}}\n\n')
    assert is_clients_fault(b'data: {"error":{"status": "422"}}\n\n')
    for server in (b'{"code":500}', b'{"code":429}', b'{"code":"no_room"}', b'{"code":4000}', b'{"message":"code 400"}'):
        assert not is_clients_fault(server)
