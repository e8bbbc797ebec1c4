"""OpenAI's surface: its errors, and what the events of its streams mean."""

from __future__ import annotations

import json

import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.dialects import openai
from rbeerouter.dialects.engines.spec import Answer, read_models

# Errors.


def test_an_error_has_the_shape_of_openais() -> None:
    assert json.loads(openai.error_body(FAILURES["model_not_found"], 'no "x"', "model")) == {
        "error": {"message": 'no "x"', "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    }
    assert json.loads(openai.error_body(FAILURES["no_healthy_worker"], "nobody")) == {
        "error": {"message": "nobody", "type": "service_unavailable_error", "param": None, "code": "no_healthy_worker"}
    }


def test_an_error_in_a_stream_is_one_event_and_no_done() -> None:
    event = openai.error_event(FAILURES["upstream_stalled"], "two\nlines")
    assert event.startswith(b"data: {") and event.endswith(b"}\n\n") and event.count(b"\n") == 2
    assert json.loads(event[6:]) == {
        "error": {"message": "two\nlines", "type": "upstream_error", "param": None, "code": "upstream_stalled"}
    }


# The beginning of a stream.

VLLM = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":""%b},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null}\n\n'
)
OPENINGS = {
    "vLLM": VLLM % b"",
    "vLLM with reasoning": VLLM % b',"reasoning_content":null',
    "SGLang": b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning_content":null,'
              b'"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}\n\n',
    "llama.cpp": b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],'
                 b'"created":1,"id":"chatcmpl-1","model":"m","system_fingerprint":"b1","object":"chat.completion.chunk"}\n\n',
    "OpenAI": b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-4o",'
              b'"service_tier":"default","system_fingerprint":"fp","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
              b'"logprobs":null,"finish_reason":null}],"obfuscation":"x"}\n\n',
    "a role alone": b'data: {"choices":[{"delta":{"role":"assistant"},"finish_reason":null}]}\n\n',
    "nothing at all": b'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\n',
    "a role alone, with spaces": b'data: {"choices": [{"delta": {"role": "assistant"}, "finish_reason": null}]}\n\n',
    "responses: created": b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1"}}\n\n',
    "responses: queued": b"event: response.queued\ndata: {}\n\n",
    "responses: in progress": b'event: response.in_progress\r\ndata: {"type":"response.in_progress"}\r\n\r\n',
    "responses without a space": b"event:response.created\ndata:{}\n\n",
    "a comment": b": keep-alive\n\n",
    "an OpenRouter comment": b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n",
    "only line ends": b"\n\n",
    "two choices": b'data: {"choices":[{"delta":{"role":"assistant","content":""}},{"delta":{"content":""}}]}\n\n',
    "Windows line ends": (VLLM % b"").replace(b"\n", b"\r\n"),
    "half an event": b'data: {"choices":[{"delta":{"content":"Hel',
    "a whole event but for its end": b'data: {"choices":[{"delta":{"content":"Hello"}}]}\n',
    "nothing": b"",
    "several": b": hi\n\n" + VLLM % b"" + b": hi\n\n" + b'data: {"choices":[{"delta":{"content":"Hel',
}  # fmt: skip
CONTENTS = {
    "a word": b'data: {"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}\n\n',
    "a word, with spaces": b'data: {"choices": [{"delta": {"content": "Hello"}, "finish_reason": null}]}\n\n',
    "a word with the role": VLLM.replace(b'"content":""', b'"content":"Hi"') % b"",
    "one space": b'data: {"choices":[{"delta":{"content":" "}}]}\n\n',
    "a brace": b'data: {"choices":[{"delta":{"content":"{"}}]}\n\n',
    "a quote": b'data: {"choices":[{"delta":{"content":"\\""}}]}\n\n',
    "reasoning": b'data: {"choices":[{"delta":{"role":"assistant","content":null,"reasoning_content":"Let"}}]}\n\n',
    "vLLM's newer reasoning": b'data: {"choices":[{"delta":{"reasoning":"Let"}}]}\n\n',
    "a tool call": b'data: {"choices":[{"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"c",'
                   b'"type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]}\n\n',
    "a refusal": b'data: {"choices":[{"delta":{"refusal":"No"}}]}\n\n',
    "an end at once": b'data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":"stop"}]}\n\n',
    "done": b"data: [DONE]\n\n",
    "the second of two choices": b'data: {"choices":[{"delta":{"content":""}},{"delta":{"content":"x"}}]}\n\n',
    "a completion": b'data: {"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":"Hello"}]}\n\n',
    "llama.cpp native": b'data: {"index":0,"content":"Hello","stop":false}\n\n',
    "an error": b'data: {"error":{"message":"out of memory","code":500}}\n\n',
    "an error event": b'event: error\ndata: {"error":{"message":"no"}}\n\n',
    "responses: a word": b'event: response.output_text.delta\ndata: {"delta":"Hel"}\n\n',
    "responses: an item": b'event: response.output_item.added\ndata: {"type":"response.output_item.added"}\n\n',
    "an unknown shape": b"data: hello\n\n",
    "a shape without data": b"retry: 100\n\n",
}  # fmt: skip


@pytest.mark.parametrize("events", OPENINGS.values(), ids=list(OPENINGS))
def test_an_opening_says_nothing_yet(events: bytes) -> None:
    assert not openai.has_content(events)


@pytest.mark.parametrize("events", CONTENTS.values(), ids=list(CONTENTS))
def test_the_first_event_that_says_something_is_content(events: bytes) -> None:
    assert openai.has_content(events)
    assert openai.has_content(b": hi\n\n" + VLLM % b"" + events)
    assert openai.has_content((VLLM % b"" + events).replace(b"\n", b"\r\n"))
    assert openai.has_content(events + VLLM % b"" + b'data: {"cho')


@pytest.mark.parametrize("content", ['""', "null"])
def test_an_opening_written_with_spaces_after_its_colons_says_nothing_either(content: str) -> None:
    """As Python's json.dumps writes, and so many an engine in Python."""
    event = (
        f'data: {{"choices": [{{"delta": {{"role": "assistant", "content": {content}}}, "finish_reason": null}}]}}\n\n'
    )
    assert not openai.has_content(event.encode())


def test_an_opening_with_an_empty_list_of_tool_calls_says_nothing() -> None:
    event = VLLM % b',"tool_calls":[]'
    assert not openai.has_content(event)


def test_content_behind_a_comment_line_of_the_same_event_is_content() -> None:
    assert openai.has_content(b": hi\n" + CONTENTS["a word"])


# The end of a stream.

FINISHED = {
    "done": b'data: {"choices":[]}\n\ndata: [DONE]\n\n',
    "a reason": b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    "a reason, with spaces": b'{"finish_reason": "length"}',
    "responses": b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
}
UNFINISHED = {
    "nothing": b"",
    "a word": CONTENTS["a word"],
    "no reason yet": b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":null}]}\n\n',
    "no reason yet, with spaces": b'{"finish_reason": null}',
    "an opening": OPENINGS["vLLM"],
}


@pytest.mark.parametrize("tail", FINISHED.values(), ids=list(FINISHED))
def test_a_stream_that_says_so_is_finished(tail: bytes) -> None:
    assert openai.is_finished(tail)


@pytest.mark.parametrize("tail", UNFINISHED.values(), ids=list(UNFINISHED))
def test_a_stream_that_does_not_say_so_is_not_finished(tail: bytes) -> None:
    assert not openai.is_finished(tail)


@pytest.mark.parametrize("name", [b"response.incomplete", b"response.failed"])
def test_a_response_that_ended_early_is_finished_too(name: bytes) -> None:
    assert openai.is_finished(b'event: %b\ndata: {"type":"%b"}\n\n' % (name, name))


# Usage and models.


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b'{"id":"x","usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}', (5, 7)),
        (b'{"id": "x", "usage": {"prompt_tokens": 5, "total_tokens": 12, "completion_tokens": 7}}', (5, 7)),
        (b'{"data":[],"usage":{"prompt_tokens":9,"total_tokens":9}}', (9, None)),
        (b'{"usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":1},"output_tokens":4,"total_tokens":7}}',
         (3, 4)),
        (b'{"usage":{"prompt_tokens":5,"completion_tokens":7},"timings":{"prompt_n":99}}', (5, 7)),
        (b'the end of a long answer"}}],"usage":{"prompt_tokens":5,"completion_tokens":7}}', (5, 7)),
        (b'een","logprobs":null}]}\n\ndata: {"choices":[],"usage":{"prompt_tokens":5,"total_tokens":12,'
         b'"completion_tokens":7,"prompt_tokens_details":null}}\n\ndata: [DONE]\n\n', (5, 7)),
        (b'data: {"usage":null}\n\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n', (1, 2)),
        (b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
         b'data: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n', (1, 2)),
        (b'data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7}}\r\n\r\ndata: [DONE]\r\n\r\n', (5, 7)),
        (b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"resp_1",'
         b'"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}}}\n\n', (3, 4)),
        (b'{"usage":{"prompt_tokens":0,"completion_tokens":0}}', (0, 0)),
        (b'{"prompt_tokens":5}', (None, None)),
        (b'{"usage":null}', (None, None)),
        (b'{"usage":{"prompt_tokens":"5"}}', (None, None)),
        (b'{"content":"\\"usage\\":{\\"prompt_tokens\\":5}"}', (None, None)),
        (b"data: [DONE]\n\n", (None, None)),
        (b"<html>", (None, None)),
        (b"", (None, None)),
    ],
)  # fmt: skip
def test_the_tokens_are_counted_as_the_end_of_the_answer_states_them(
    tail: bytes, expected: tuple[int | None, int | None]
) -> None:
    assert openai.usage(tail) == expected


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (
            b'{"object":"list","data":[{"id":"a","object":"model","owned_by":"vllm","max_model_len":5},{"id":"b"}]}',
            ("a", "b"),
        ),
        (b'{"data":[]}', ()),
        (b'{"data":[{"id":"a"}],"models":[{"name":"x"}]}', ("a",)),
        (b'{"data":null}', None),
        (b'{"data":[{"name":"a"}]}', None),
        (b'{"data":[{"id":5}]}', None),
        (b'{"models":[]}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"", None),
        (b'{"data":[{"id":"\xff"}]}', None),
    ],
)
def test_an_engines_list_of_models_is_read_or_is_none(body: bytes, models: tuple[str, ...] | None) -> None:
    assert read_models(Answer("/v1/models", 200, {}, body)).get("models") == models


def test_an_error_that_a_stream_begins_with_is_seen() -> None:
    error = b'data: {"error":{"message":"out of memory","code":500}}\n\n'
    assert openai.error_in(error) == openai.error_in(VLLM % b"" + error) == "out of memory"
    assert openai.error_in(b": hi\n\nevent: error\ndata: broken\n\n") == "broken"
    assert openai.error_in(CONTENTS["a word"] + error) is None
    assert openai.error_in(CONTENTS["a word"]) is None
    assert openai.error_in(error[:-1]) is None


def test_a_response_that_failed_before_it_said_anything_is_an_error() -> None:
    created = b'event: response.created\ndata: {"type":"response.created","response":{}}\n\n'
    failed = (
        b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"message":"no memory"}}}\n\n'
    )
    assert openai.error_in(created + failed) == "no memory"
    assert openai.error_in(created) is None


def test_a_stream_of_several_choices_has_not_ended_with_the_first_of_them() -> None:
    chunk = b'data: {"choices":[{"index":%d,"delta":{"content":"x"},"finish_reason":%b}]}\n\n'
    first, other = chunk % (0, b'"stop"'), chunk % (1, b"null")
    assert not openai.is_finished(first + other)
    assert openai.is_finished(first + other + chunk % (1, b'"length"'))


def test_a_model_that_writes_the_words_of_the_end_does_not_end_a_stream() -> None:
    said = rb'data: {"choices":[{"delta":{"content":"\ndata: [DONE] event: error response.completed \"finish_reason\":\"stop\""},"finish_reason":null}]}'
    assert not openai.is_finished(said + b"\n\n")
    assert openai.is_finished(said + b"\n\ndata: [DONE]\n\n")


def test_a_long_response_is_known_to_be_complete_by_its_usage() -> None:
    said = b'data: {"type":"response.completed","response":{"output":["%b"],"usage":{"input_tokens":1}}}' % (b"x" * 9000)
    assert openai.is_finished(said[-2048:])


@pytest.mark.parametrize(
    "tail",
    [
        b'data: {"choices":[]}\n\ndata: {"error":{"message":"x"}}\n\ndata: [DONE]\n\n', b'data:{"error":"x","error_type":"generation"}\n\n',
        b'data: {"object":"error","message":"x"}\n\ndata: [DONE]\n\n', b'event: response.failed\ndata: {}\n\n',
        b'event: error\ndata: {"type":"error"}\n\n',
    ],
)  # fmt: skip
def test_a_stream_that_ends_with_an_error_has_failed(tail: bytes) -> None:
    assert openai.is_failed(tail)


@pytest.mark.parametrize(
    "tail",
    [
        b'data: {"choices":[{"delta":{"content":"\\n\\ndata: {\\"error\\":{"}}]}\n\ndata: [DONE]\n\n',
        b'event: response.completed\ndata: {"type":"response.completed","response":{"error":null,"output":[{"error":"x"}]}}\n\n',
        b'data: {"error":null,"choices":[]}\n\ndata: [DONE]\n\n',
    ],
)  # fmt: skip
def test_a_stream_that_speaks_of_errors_has_not(tail: bytes) -> None:
    assert not openai.is_failed(tail)
