"""Anthropic's requests put to workers that speak OpenAI's protocol, and their answers put back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from rbeerouter.core.errors import RouterError
from rbeerouter.dialects.surfaces import SURFACES, Translation

TOOLS = [{
    "name": "get_weather", "description": "The weather in a place",
    "input_schema": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}]  # fmt: skip


def of(path: bytes) -> Translation:
    found = SURFACES[path].translation({"openai"})
    assert found is not None
    return found


MESSAGES, COUNT = of(b"/v1/messages"), of(b"/v1/messages/count_tokens")


def put(model: str | None = None, **fields: Any) -> dict[str, Any]:
    body = {"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return json.loads(MESSAGES.body(json.dumps(body).encode(), model))


def refused(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(RouterError) as raised:
        put(**fields)
    assert raised.value.failure.code == "invalid_json"
    return raised.value.message, raised.value.param


def test_workers_that_speak_the_protocol_get_the_request_as_it_is() -> None:
    assert SURFACES[b"/v1/messages"].translation({"openai", "anthropic"}) is None
    assert SURFACES[b"/v1/chat/completions"].translation({"openai"}) is None
    assert (MESSAGES.path, MESSAGES.source.protocol) == (b"/v1/chat/completions", "openai")


def test_engines_that_cannot_count_are_made_to_count() -> None:
    count = SURFACES[b"/v1/messages/count_tokens"]
    assert count.translation({"openai", "anthropic"}, "llamacpp") is None
    assert count.translation({"openai", "anthropic"}, "ollama") is not None


def test_a_plain_request_keeps_what_both_protocols_have() -> None:
    assert put(system="Be brief.", temperature=0.5, top_p=0.9, top_k=4, stop_sequences=["END"], metadata={"user_id": "u"}) == {
        "model": "claude", "max_tokens": 10, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stop": ["END"], "user": "u",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }  # fmt: skip


def test_another_model_and_a_stream_are_asked_for_with_usage() -> None:
    made = put("llama", stream=True)
    assert (made["model"], made["stream"], made["stream_options"]) == ("llama", True, {"include_usage": True})
    assert "stream" not in put(stream=False)


def test_what_engines_do_not_know_is_dropped() -> None:
    made = put(
        thinking={"type": "enabled", "budget_tokens": 2000}, service_tier="auto", context_management={"edits": []},
        system=[{"type": "text", "text": "One", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "Two"}],
    )  # fmt: skip
    assert made == {
        "model": "claude", "max_tokens": 10,
        "messages": [{"role": "system", "content": "One\n\nTwo"}, {"role": "user", "content": "Hi"}],
    }  # fmt: skip


def test_a_conversation_with_tools_keeps_their_calls_and_results_together() -> None:
    made = put(tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True}, messages=[
        {"role": "user", "content": "Weather in SF?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm", "signature": "abc"}, {"type": "redacted_thinking", "data": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"location": "SF"}},
            {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {}},
        ]},
        {"role": "user", "content": [
            {"type": "text", "text": "And?"},
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [
                {"type": "text", "text": "59 F"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
            ]},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no place", "is_error": True},
        ]},
    ])  # fmt: skip
    assert made["tools"] == [{"type": "function", "function": {
        "name": "get_weather", "description": "The weather in a place", "parameters": TOOLS[0]["input_schema"],
    }}]  # fmt: skip
    assert (made["tool_choice"], made["parallel_tool_calls"]) == ("required", False)
    assert made["messages"][1:] == [
        {"role": "assistant", "content": "I look.", "tool_calls": [
            {"id": "toolu_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location": "SF"}'}},
            {"id": "toolu_2", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
        ]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "59 F"},
        {"role": "tool", "tool_call_id": "toolu_2", "content": "Error: no place"},
        {"role": "user", "content": [
            {"type": "text", "text": "And?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        ]},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"type": "auto"}, "auto"), ({"type": "none"}, "none"), ({"type": "any"}, "required"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)  # fmt: skip
def test_the_choice_of_a_tool_has_other_words(choice: dict[str, Any], said: Any) -> None:
    assert put(tools=TOOLS, tool_choice=choice)["tool_choice"] == said


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ({"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
         {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}),
        ({"type": "document", "title": "a.pdf", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}},
         {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="}}),
    ],
)  # fmt: skip
def test_images_and_documents_are_parts_of_a_message(block: dict[str, Any], part: dict[str, Any]) -> None:
    made = put(messages=[{"role": "user", "content": [{"type": "text", "text": "See"}, block]}])
    assert made["messages"] == [{"role": "user", "content": [{"type": "text", "text": "See"}, part]}]


def test_texts_of_documents_and_searches_are_text() -> None:
    made = put(messages=[{"role": "user", "content": [
        {"type": "document", "title": "Notes", "source": {"type": "text", "media_type": "text/plain", "data": "abc"}},
        {"type": "search_result", "source": "https://x.test", "title": "X", "content": [{"type": "text", "text": "def"}]},
    ]}])  # fmt: skip
    assert made["messages"] == [{"role": "user", "content": "Notes\nabc\n\nX (https://x.test)\ndef"}]
    for content in ("ab\ncd", [{"type": "text", "text": "ab"}, {"type": "text", "text": "cd"}]):
        block = {"type": "document", "source": {"type": "content", "content": content}}
        assert put(messages=[{"role": "user", "content": [block]}])["messages"][0]["content"] == "ab\ncd"


def test_a_shape_for_the_answer_is_asked_for() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}
    form = {"type": "json_schema", "schema": {"type": "object"}}
    assert put(output_config={"format": form})["response_format"] == wanted == put(output_format=form)["response_format"]


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]},
         "messages[0].content[0].type", "container_upload"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}]},
         "messages[0]", "'file'"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "f"}]}]}, "messages[0]", "tool_use"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}]},
         "messages[0]", "image"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]", "web_search_20250305"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "tool_choice.type", "tool"),
        ({"mcp_servers": [{"type": "url", "url": "u", "name": "n"}]}, "mcp_servers", "cannot call"),
        ({"container": "c"}, "container", "none"),
        ({"messages": "hi"}, "messages", "array"),
        ({"max_tokens": "many"}, "max_tokens", "int"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_refused_by_its_name(fields: dict[str, Any], param: str, word: str) -> None:
    message, about = refused(**fields)
    assert about == param and word in message


def test_a_missing_field_is_named() -> None:
    with pytest.raises(RouterError) as raised:
        MESSAGES.body(b'{"model":"m"}', None)
    assert (raised.value.message, raised.value.param) == ("messages: this field is required", "messages")


# Answers.

USAGE = {"prompt_tokens": 20, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 16}}


def answered(message: dict[str, Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    body = {
        "id": "chatcmpl-abc", "object": "chat.completion", "model": "llama", "usage": USAGE,
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason, **more}],
    }  # fmt: skip
    told = MESSAGES.answer(200, json.dumps(body).encode())
    assert told is not None
    return json.loads(told)


def test_an_answer_is_a_message() -> None:
    assert answered({"content": "Hello"}) == {
        "id": "msg_abc", "type": "message", "role": "assistant", "model": "llama",
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {
            "input_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 16, "output_tokens": 7,
        },
    }  # fmt: skip


def test_thoughts_and_calls_are_blocks_of_their_own() -> None:
    calls = [
        {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": "{broken"}},
        {"function": {"name": "h", "arguments": ""}},
    ]  # fmt: skip
    made = answered({"content": None, "reasoning_content": "Hm", "tool_calls": calls}, "stop")
    assert made["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": ""},
        {"type": "tool_use", "id": "call_1", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "call_2", "name": "g", "input": {"arguments": "{broken"}},
        {"type": "tool_use", "id": "toolu_msg_abc_2", "name": "h", "input": {}},
    ]
    assert made["stop_reason"] == "tool_use"


def test_a_call_that_was_cut_off_is_not_to_be_made() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x'}}
    assert answered({"content": None, "tool_calls": [call]}, "length")["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("reason", "more", "said"),
    [
        ("length", {}, ("max_tokens", None)), ("content_filter", {}, ("refusal", None)),
        ("stop", {"stop_reason": "END"}, ("stop_sequence", "END")), ("stop", {"matched_stop": "END"}, ("stop_sequence", "END")),
        ("stop", {"stop_reason": None}, ("end_turn", None)), ("stop", {"matched_stop": 128009}, ("end_turn", None)),
        ("abort", {}, ("end_turn", None)),
    ],
)  # fmt: skip
def test_the_reason_to_stop_has_other_words(reason: str, more: dict[str, Any], said: tuple[str, str | None]) -> None:
    made = answered({"content": "x"}, reason, **more)
    assert (made["stop_reason"], made["stop_sequence"]) == said


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (404, {"error": {"message": "no such model", "code": 404}}, "not_found_error", "no such model"),
        (400, {"object": "error", "message": "too long", "code": 400}, "invalid_request_error", "too long"),
        (429, {"error": "Model is overloaded", "error_type": "overloaded"}, "rate_limit_error", "Model is overloaded"),
        (503, {"detail": "starting"}, "overloaded_error", "starting"),
    ],
)  # fmt: skip
def test_a_workers_error_is_told_in_the_clients_words(status: int, body: Any, kind: str, message: str) -> None:
    for translation in (MESSAGES, COUNT):
        told = translation.answer(status, json.dumps(body).encode())
        assert told is not None
        assert json.loads(told) == {"type": "error", "error": {"type": kind, "message": message}}


def test_tokens_are_counted_by_letting_the_worker_read_them() -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    assert json.loads(COUNT.body(json.dumps(asked).encode(), "llama")) == {
        "model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1,
    }  # fmt: skip
    body = json.dumps({"choices": [{"message": {"content": "H"}}], "usage": USAGE}).encode()
    assert COUNT.answer(200, body) == b'{"input_tokens":20}'
    for body in (b'{"choices":[{"message":{}}]}', b'{"choices":[{"message":{}}],"usage":5}', b"[]"):
        assert COUNT.answer(200, body) is None


ODD: list[Any] = [None, 1, True, "", "x", [], ["x"], [[]], {}, {"a": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(one, (*path, key))


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("part", ["message", "delta"])
def test_nothing_in_a_workers_answer_breaks_the_translation(part: str, odd: Any) -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}
    said = {"role": "assistant", "content": "Hi", "reasoning_content": "r", "tool_calls": [call]}
    whole = {"id": "x", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", part: said, "stop_reason": None}], "usage": USAGE}
    for place in places(whole):
        body = json.loads(json.dumps(whole))
        inner = body
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
        text = json.dumps(body).encode()
        if part == "message":
            for translation in (MESSAGES, COUNT):
                told = translation.answer(200, text)
                assert told is None or isinstance(json.loads(told), dict)
        else:
            rewriter = MESSAGES.stream()
            assert rewriter.feed(b"data: " + text + b"\n\n") + rewriter.finish()
