"""A stream of chat completions as a stream of the Messages API, however it is cut into pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.dialects import anthropic
from rbeerouter.dialects.translated_stream import MessageStream
from tests.support.builders import quick


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **fields: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
    body = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "llama", "choices": choices}
    return b"data: " + json.dumps({**body, **fields}).encode() + b"\n\n"


USAGE = chunk(usage={"prompt_tokens": 9, "total_tokens": 12, "completion_tokens": 3})
VLLM = (
    chunk({"role": "assistant", "content": ""}) + chunk({"content": "Hel"}) + chunk({"content": "lo"})
    + chunk({"content": ""}, "stop", stop_reason=None) + USAGE + b"data: [DONE]\n\n"
)  # fmt: skip
THINKING = (
    chunk({"role": "assistant", "content": None}) + chunk({"reasoning_content": "Hm"}) + chunk({"reasoning_content": "m"})
    + b": keep-alive\n\n" + chunk({"content": "Yes"}) + chunk({}, "length") + USAGE + b"data: [DONE]\n\n"
)  # fmt: skip
CALLS = (
    chunk({"role": "assistant", "content": "I look."})
    + chunk({"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "f", "arguments": ""}}]})
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x": '}}]})
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]})
    + chunk({"tool_calls": [{"index": 1, "id": "call_b", "function": {"name": "g", "arguments": "{}"}}]})
    + chunk({}, "tool_calls") + USAGE + b"data: [DONE]\n\n"
)  # fmt: skip
STREAMS = {"text": VLLM, "thinking": THINKING, "calls": CALLS, "nothing": b"data: [DONE]\n\n", "no end": VLLM[:300]}


def events(stream: bytes) -> list[dict[str, Any]]:
    """What a client reads; each event must have the name that its data says."""
    found = []
    for event in stream.split(b"\n\n"):
        if event and not event.startswith(b":"):
            name, data = event.split(b"\n")
            found.append(json.loads(data.removeprefix(b"data: ")))
            assert name == b"event: " + found[-1]["type"].encode()
    return found


def rewritten(stream: bytes) -> bytes:
    rewriter = MessageStream()
    return rewriter.feed(stream) + rewriter.finish()


def shape(stream: bytes) -> list[str]:
    """Types of events in short: of deltas those of the delta, with their text."""
    words = []
    for event in events(stream):
        if event["type"] == "content_block_start":
            words.append(f"{event['index']}+{event['content_block']['type']}")
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            words.append(f"{event['index']} " + next(text for name, text in delta.items() if name != "type"))
        elif event["type"] == "content_block_stop":
            words.append(f"{event['index']}-")
        else:
            words.append(event["type"])
    return words


def test_text_becomes_one_block() -> None:
    said = rewritten(VLLM)
    assert shape(said) == ["message_start", "0+text", "0 Hel", "0 lo", "0-", "message_delta", "message_stop"]
    first, last = events(said)[0]["message"], events(said)[-2]
    assert (first["id"], first["model"], first["role"], first["content"]) == ("msg_7", "llama", "assistant", [])
    assert last["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert (last["usage"]["input_tokens"], last["usage"]["output_tokens"]) == (9, 3)


def test_thoughts_come_in_a_block_before_the_text_and_comments_pass() -> None:
    said = rewritten(THINKING)
    assert shape(said) == [
        "message_start", "0+thinking", "0 Hm", "0 m", "0-", "1+text", "1 Yes", "1-", "message_delta", "message_stop",
    ]  # fmt: skip
    assert b"\n\n: keep-alive\n\nevent: " in said
    assert events(said)[-2]["delta"]["stop_reason"] == "max_tokens"


def test_calls_come_one_block_after_the_other() -> None:
    said = rewritten(CALLS)
    assert shape(said) == [
        "message_start", "0+text", "0 I look.", "0-", "1+tool_use", '1 {"x": ', "1 1}", "1-", "2+tool_use", "2 {}", "2-",
        "message_delta", "message_stop",
    ]  # fmt: skip
    blocks = [event["content_block"] for event in events(said) if event["type"] == "content_block_start"]
    assert blocks[1:] == [
        {"type": "tool_use", "id": "call_a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "call_b", "name": "g", "input": {}},
    ]
    assert events(said)[-2]["delta"]["stop_reason"] == "tool_use"


def test_what_comes_from_it_is_understood_by_our_own_reader_of_the_protocol() -> None:
    said = rewritten(VLLM)
    assert anthropic.has_content(said) and anthropic.is_finished(said) and anthropic.usage(said) == (9, 3)


def test_calls_without_number_or_id_are_told_apart() -> None:
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    said = rewritten(chunk({"tool_calls": [call]}) + chunk({"tool_calls": [call]}, "stop"))
    assert shape(said)[1:7] == ["0+tool_use", '0 {"x":1}', "0-", "1+tool_use", '1 {"x":1}', "1-"]


def test_calls_that_all_have_the_number_0_are_told_apart_by_their_ids() -> None:
    first = {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}
    other = {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{"}}
    rest = {"index": 0, "function": {"arguments": "}"}}
    said = rewritten(chunk({"tool_calls": [first]}) + chunk({"tool_calls": [other]}) + chunk({"tool_calls": [rest]}, "tool_calls"))
    assert shape(said)[1:8] == ["0+tool_use", "0 {}", "0-", "1+tool_use", "1 {", "1 }", "1-"]


def test_an_id_that_is_said_again_is_the_same_call_and_empty_pieces_of_an_old_one_say_nothing() -> None:
    pieces = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}, {"index": 0, "id": "a", "function": {"arguments": "}"}},
        {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}, {"index": 0, "id": "a", "function": {"arguments": ""}},
    ]  # fmt: skip
    said = rewritten(b"".join(chunk({"tool_calls": [piece]}) for piece in pieces) + chunk({}, "tool_calls"))
    assert shape(said)[1:8] == ["0+tool_use", "0 {", "0 }", "0-", "1+tool_use", "1 {}", "1-"]


def test_an_event_that_does_not_end_is_given_up() -> None:
    rewriter = MessageStream()
    said = rewriter.feed(chunk({"content": "x"}) + b"data: ")
    for _ in range(10):
        said += rewriter.feed(b"y" * (1 << 20))
    assert rewriter.failed and shape(said)[-1] == "error" and len(said) < 2000
    assert rewriter.finish() == b""


def test_calls_that_are_mixed_are_an_error_rather_than_wrong() -> None:
    first = chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}]})
    other = chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}}]})
    said = rewritten(first + other + chunk({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}) + VLLM)
    assert shape(said)[-1] == "error" and "message_stop" not in shape(said)


@pytest.mark.parametrize(
    "bad", [b'data: {"error":{"message":"out of memory"}}\n\n', b"data: {broken\n\n", b"data: [1]\n\n"], ids=["error", "broken", "list"]
)
def test_an_error_in_the_stream_ends_it_badly(bad: bytes) -> None:
    said = rewritten(chunk({"content": "x"}) + bad + VLLM)
    assert shape(said) == ["message_start", "0+text", "0 x", "error"]
    assert not anthropic.is_finished(said.rpartition(b"event: error")[0])
    rewriter = MessageStream()
    rewriter.feed(VLLM)
    assert not rewriter.failed
    rewriter = MessageStream()
    rewriter.feed(bad)
    assert rewriter.failed


def test_the_end_is_said_once_and_also_without_the_workers_last_word() -> None:
    rewriter = MessageStream()
    assert b"message_stop" in rewriter.feed(VLLM) and rewriter.finish() == b""
    without = VLLM.removesuffix(b"data: [DONE]\n\n")
    assert b"message_stop" not in MessageStream().feed(without)
    assert rewritten(without) == rewritten(VLLM) == rewritten(without[:-2])


def test_the_counts_are_known_at_the_end() -> None:
    rewriter = MessageStream()
    rewriter.feed(VLLM)
    assert (rewriter.tokens_in, rewriter.tokens_out) == (9, 3)


def test_line_ends_of_either_kind_are_alike() -> None:
    assert rewritten(CALLS.replace(b"\n", b"\r\n")) == rewritten(CALLS)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=list(STREAMS))
def test_where_a_stream_is_cut_in_two_makes_no_difference(stream: bytes) -> None:
    whole = rewritten(stream)
    for at in range(len(stream)):
        rewriter = MessageStream()
        assert rewriter.feed(stream[:at]) + rewriter.feed(stream[at:]) + rewriter.finish() == whole


@quick()
@given(st.sampled_from(list(STREAMS.values())), st.lists(st.integers(1, 60), max_size=80))
def test_how_a_stream_is_cut_into_pieces_makes_no_difference(stream: bytes, sizes: list[int]) -> None:
    rewriter, said, at = MessageStream(), b"", 0
    for size in sizes:
        said += rewriter.feed(stream[at : at + size])
        at += size
    assert said + rewriter.feed(stream[at:]) + rewriter.finish() == rewritten(stream)


@quick()
@given(st.lists(st.sampled_from([
    chunk({"content": "a"}), chunk({"reasoning": "b"}), chunk({"content": 5}), chunk({"tool_calls": [{"index": 0}]}),
    chunk({"tool_calls": [{"index": 1, "function": {"arguments": "x"}}]}), chunk({"tool_calls": [None, 3]}), chunk({}, "stop"),
    USAGE, b": x\n\n", b"data: {}\n\n", b'data: {"choices":[3]}\n\n', b'data: {"usage":5,"choices":{}}\n\n', b"event: x\n\n",
])))  # fmt: skip
def test_blocks_are_always_opened_and_closed_in_order(pieces: list[bytes]) -> None:
    said = events(rewritten(b"".join(pieces)))
    assert said[0]["type"] == "message_start"
    index, is_open = -1, False
    for event in said[1:]:
        if event["type"] == "content_block_start":
            assert not is_open and event["index"] == index + 1
            index, is_open = event["index"], True
        elif event["type"].startswith("content_block"):
            assert is_open and event["index"] == index
            is_open = event["type"] != "content_block_stop"
    assert said[-1]["type"] in ("message_stop", "error") and (not is_open or said[-1]["type"] == "error")
