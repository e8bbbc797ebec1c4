"""Ollama's surface: its errors, and what the lines of its streams mean."""

from __future__ import annotations

import json

import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.dialects import ollama

HEAD = b'{"model":"llama3","created_at":"2026-08-04T08:52:19.385406455-07:00",'
EMPTY = HEAD + b'"message":{"role":"assistant","content":"","images":null},"done":false}\n'
WORD = HEAD + b'"message":{"role":"assistant","content":"The","images":null},"done":false}\n'
PIECE = HEAD + b'"response":"The","done":false}\n'
THOUGHT = HEAD + b'"message":{"role":"assistant","content":"","thinking":"Hm"},"done":false}\n'
TOOL = HEAD + (
    b'"message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"get_weather","arguments":'
    b'{"format":"celsius"}}}]},"done":false}\n'
)
LAST = HEAD + (
    b'"message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","total_duration":4883583458,'
    b'"load_duration":1334875,"prompt_eval_count":26,"prompt_eval_duration":342546000,"eval_count":282,'
    b'"eval_duration":4535599000}\n'
)
ERROR = b'{"error":"an error was encountered while running the model: CUDA error"}\n'


def test_a_failure_is_a_text() -> None:
    assert json.loads(ollama.error_body(FAILURES["no_healthy_worker"], 'no "x"', "model")) == {"error": 'no "x"'}


def test_of_a_missing_model_it_uses_the_words_that_clients_look_for() -> None:
    assert ollama.error_body(FAILURES["model_not_found"], "x") == b'{"error":"model not found: x"}'


def test_an_error_in_a_stream_is_one_line() -> None:
    assert ollama.error_event(FAILURES["upstream_stalled"], "two\nlines") == b'{"error":"two\\nlines"}\n'


@pytest.mark.parametrize("lines", [b"", EMPTY, EMPTY * 3, EMPTY + WORD[:-1], b"\n", EMPTY.replace(b":false", b": false")])
def test_lines_without_text_say_nothing(lines: bytes) -> None:
    assert not ollama.has_content(lines)
    assert ollama.error_in(lines) is None


@pytest.mark.parametrize("line", [WORD, PIECE, THOUGHT, TOOL, LAST, ERROR, b'{"status":"success"}\n', b"what ever\n"])
def test_what_says_something_is_content(line: bytes) -> None:
    assert ollama.has_content(line) and ollama.has_content(EMPTY + line)


def test_an_error_before_content_is_seen_and_one_after_it_is_not() -> None:
    assert ollama.error_in(EMPTY + ERROR) == "an error was encountered while running the model: CUDA error"
    assert ollama.error_in(WORD + ERROR) is None
    assert ollama.error_in(WORD.replace(b"The", rb"\"error\"")) is None


def test_only_its_last_line_ends_a_stream() -> None:
    assert ollama.is_finished(WORD + LAST) and ollama.is_finished(LAST.replace(b":true", b": true"))
    assert ollama.is_finished(WORD + ERROR)
    assert not ollama.is_finished(EMPTY + WORD)
    assert not ollama.is_finished(WORD.replace(b"The", rb"\"done\":true"))


def test_a_last_line_that_is_too_long_to_be_at_hand_is_known_by_its_end() -> None:
    long = HEAD + b'"response":"","done":true,"context":[' + b"128000," * 2000 + b'1],"total_duration":5,"eval_count":2}\n'
    assert ollama.is_finished(long[-2048:]) and ollama.usage(long[-2048:]) == (None, 2)


@pytest.mark.parametrize(("tail", "tokens"), [(WORD + LAST, (26, 282)), (WORD, (None, None)), (LAST.strip(), (26, 282))])
def test_usage_is_read_from_the_last_line(tail: bytes, tokens: tuple[int | None, int | None]) -> None:
    assert ollama.usage(tail) == tokens


def test_a_stream_that_ends_with_an_error_has_failed() -> None:
    assert ollama.is_failed(b'{"message":{"content":"x"},"done":false}\n{"error":"out of memory"}\n')
    assert not ollama.is_failed(b'{"message":{"content":"{\\"error\\":"},"done":false}\n{"done":true}\n')
