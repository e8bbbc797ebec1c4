"""Anthropic's surface: its errors, and what the events of its streams mean."""

from __future__ import annotations

import json

import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.dialects import anthropic

START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"content":[],"model":"m","stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":25,"output_tokens":1}}}\n\n'
)
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
BLOCK = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)
TOOL = (
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":'
    b'{"type":"tool_use","id":"toolu_1","name":"get_weather","input":{}}}\n\n'
)
WORD = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"Hello"}}\n\n'
)
OVERLOADED = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
LAST = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":15}}\n\n'
)
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_a_failure_is_its_error_object() -> None:
    assert json.loads(anthropic.error_body(FAILURES["model_not_found"], "no worker serves m", "model")) == {
        "type": "error", "error": {"type": "not_found_error", "message": "no worker serves m"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_json", "invalid_request_error"), ("request_too_large", "request_too_large"),
        ("no_healthy_worker", "overloaded_error"), ("upstream_disconnected", "api_error"),
        ("internal_error", "api_error"), ("upstream_stalled", "timeout_error"), ("script_rejected", "permission_error"),
        ("method_not_allowed", "invalid_request_error"),
    ],
)  # fmt: skip
def test_the_type_of_an_error_is_one_of_its_own(code: str, kind: str) -> None:
    assert json.loads(anthropic.error_body(FAILURES[code], "x"))["error"]["type"] == kind


def test_an_error_in_a_stream_has_the_name_that_its_clients_look_for() -> None:
    event = anthropic.error_event(FAILURES["upstream_stalled"], "two\nlines")
    assert event.startswith(b"event: error\ndata: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 3


@pytest.mark.parametrize("events", [b"", START, START + PING + BLOCK, START[:-2], START + WORD[:-1], b": hi\n\n"])
def test_openings_say_nothing(events: bytes) -> None:
    assert not anthropic.has_content(events)
    assert anthropic.error_in(events) is None


@pytest.mark.parametrize("event", [WORD, TOOL, LAST, STOP, OVERLOADED, b'data: {"what": "ever"}\n\n'])
def test_what_says_something_is_content(event: bytes) -> None:
    assert anthropic.has_content(START + PING + event)
    assert anthropic.has_content((START + BLOCK + event).replace(b"\n", b"\r\n"))


def test_an_error_before_content_is_seen_and_one_after_it_is_not() -> None:
    assert anthropic.error_in(START + PING + OVERLOADED) == "Overloaded"
    assert anthropic.error_in(OVERLOADED) == "Overloaded"
    assert anthropic.error_in(START + WORD + OVERLOADED) is None
    assert anthropic.error_in(START + WORD.replace(b"Hello", b"error")) is None


def test_only_its_last_event_ends_a_stream() -> None:
    assert anthropic.is_finished(LAST + STOP) and anthropic.is_finished(OVERLOADED)
    assert not anthropic.is_finished(START + WORD + LAST)
    assert not anthropic.is_finished(WORD.replace(b"Hello", rb"event: message_stop \"type\":\"message_stop\""))


@pytest.mark.parametrize(
    ("tail", "tokens"),
    [
        (LAST + STOP, (None, 15)),
        (b'"usage":{"input_tokens":7,"output_tokens":3}', (7, 3)),
        (b'"usage":{"input_tokens":7,"cache_read_input_tokens":5,"cache_creation_input_tokens":1,"output_tokens":3}',
         (13, 3)),
        (WORD, (None, None)),
    ],
)  # fmt: skip
def test_usage_is_read_from_the_end(tail: bytes, tokens: tuple[int | None, int | None]) -> None:
    assert anthropic.usage(tail) == tokens


def test_tokens_read_are_stated_as_a_stream_begins() -> None:
    assert anthropic.tokens_read(START + BLOCK + WORD + LAST + STOP) == 25
    cached = START.replace(b'"input_tokens":25', b'"input_tokens":5,"cache_creation_input_tokens":1,"cache_read_input_tokens":7')
    assert anthropic.tokens_read(cached) == 13
    assert anthropic.tokens_read(PING) is None


def test_a_stream_that_ends_with_an_error_has_failed() -> None:
    assert anthropic.is_failed(WORD + OVERLOADED)
    assert not anthropic.is_failed(WORD.replace(b"Hello", b"event: error") + LAST + STOP)
