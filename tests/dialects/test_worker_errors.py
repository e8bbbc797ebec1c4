"""What a worker says when it fails, in each of the shapes that engines have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rbeerouter.dialects import worker_errors


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"error": {"message": "no such model", "type": "x", "code": 404}}, "no such model"),
        ({"error": {"type": "overloaded_error"}}, "overloaded_error"),
        ({"error": "model is overloaded", "error_type": "overloaded"}, "model is overloaded"),
        ({"object": "error", "message": "too long", "type": "BadRequest", "code": 400}, "too long"),
        ({"type": "error", "message": "rate limited", "code": "x"}, "rate limited"),
        ({"type": "error", "error": {"type": "api_error", "message": "m"}}, "m"),
        ({"type": "response.failed", "response": {"error": {"code": "x", "message": "broke"}}}, "broke"),
        ({"type": "response.failed", "response": {}}, "the response failed"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body"]}]}, "[{'loc': ['body']}]"),
        ({"error": "x" * 9000}, "x" * 2000),
        ({"choices": [], "error": None}, None),
        ({"message": "hello"}, None),
        ([1], None),
        ("error", None),
    ],
)
def test_the_message_is_found_in_every_shape(answer: Any, message: str | None) -> None:
    assert worker_errors.message(answer) == message
    assert worker_errors.in_line(json.dumps(answer).encode()) == message


def test_a_body_that_is_no_json_is_shown_as_it_begins() -> None:
    assert worker_errors.in_body(b"<html>502 Bad Gateway</html>" + b" " * 500) == "<html>502 Bad Gateway</html>"
    assert worker_errors.in_body(b'{"error":"x"}') == "x"
    assert worker_errors.in_body(b"") is None


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (b'data: {"error":{"message":"m"}}', "m"),
        (b'event: error\ndata: {"type":"error","error":{"message":"m"}}', "m"),
        (b"event: error\ndata: out of memory", "out of memory"),
        (b"event: error", "error"),
        (b'data: {"choices":[{"delta":{"content":"error"}}]}', None),
        (b"data: [DONE]", None),
    ],
)
def test_an_event_that_tells_of_an_error_is_known_by_its_name_or_its_data(event: bytes, message: str | None) -> None:
    assert worker_errors.in_event(event) == message
