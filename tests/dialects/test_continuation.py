"""A stream that another worker goes on with: what is kept, what is asked for, and that the client sees one stream."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.dialects.continuation import Transcript, may_continue, resume
from tests.support.builders import quick

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
ASKED = {"model": "m", "stream": True, "max_tokens": 10, "messages": [{"role": "user", "content": "count"}]}


def event(content: str | None = None, finish: str | None = None, name: str = "first", **more: Any) -> bytes:
    delta = {"role": "assistant", "content": ""} if content is None else {"content": content}
    choice = {"index": 0, "delta": {} if finish else delta, "finish_reason": finish}
    whole = {"id": name, "created": 1 if name == "first" else 2, "model": name, "choices": [choice], **more}
    return b"data: " + json.dumps(whole).encode() + b"\n\n"


def usage(prompt: int, completion: int, name: str = "second") -> bytes:
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return b"data: " + json.dumps({"id": name, "choices": [], "usage": counted}).encode() + b"\n\n"


def transcript(*events: bytes) -> Transcript:
    kept = Transcript(1 << 20)
    for one in events:
        kept.take(one)
    return kept


def payloads(stream: bytes) -> list[Any]:
    return [json.loads(one[6:]) for one in stream.split(b"\n\n") if one.startswith(b"data: {")]


SO_FAR = (event(), event("one"), event(" two"))
REST = event(name="second") + event(" three", name="second") + event(finish="stop", name="second") + usage(9, 1) + b"data: [DONE]\n\n"


def test_the_next_worker_gets_the_text_so_far_as_the_unfinished_last_message() -> None:
    body, _ = resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR), says_so=False)
    assert json.loads(body) == {
        **ASKED, "max_tokens": 8, "messages": [*ASKED["messages"], {"role": "assistant", "content": "one two"}],
    }


def test_engines_that_want_to_be_told_are_told() -> None:
    body, _ = resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR), says_so=True)
    made = json.loads(body)
    assert (made["add_generation_prompt"], made["continue_final_message"]) == (False, True)


def test_a_beginning_that_the_client_gave_itself_is_gone_on_with() -> None:
    asked = {**ASKED, "messages": [*ASKED["messages"], {"role": "assistant", "content": "zero "}]}
    body, _ = resume(CHAT, json.dumps(asked).encode(), transcript(*SO_FAR), says_so=False)
    assert json.loads(body)["messages"][1:] == [{"role": "assistant", "content": "zero one two"}]


def test_a_prompt_is_made_longer_by_the_text_so_far() -> None:
    said = [b'data: {"id":"a","choices":[{"index":0,"text":"%b"}]}\n\n' % word for word in (b" one", b" two")]
    body, _ = resume(TEXT, b'{"model":"m","prompt":"zero","max_tokens":5}', transcript(*said), says_so=True)
    assert json.loads(body) == {"model": "m", "prompt": "zero one two", "max_tokens": 3}


def test_the_client_sees_one_stream_with_one_opening_one_name_and_one_usage() -> None:
    _, rewriter = resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR), says_so=False)
    rest = rewriter.feed(REST) + rewriter.finish()
    assert rest.endswith(b"data: [DONE]\n\n")
    seen = payloads(rest)
    assert {(one["id"], one["model"], one["created"]) for one in seen} == {("first", "first", 1)}
    assert [one["choices"][0]["delta"] for one in seen[:-1]] == [{"content": " three"}, {}]
    assert seen[-1]["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


@given(st.lists(st.integers(1, len(REST)), max_size=6))
@quick(max_examples=60)
def test_however_the_rest_is_cut_the_client_gets_the_same(cuts: list[int]) -> None:
    def rewritten(parts: list[bytes]) -> bytes:
        _, rewriter = resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR), says_so=False)
        return b"".join(map(rewriter.feed, parts)) + rewriter.finish()

    edges = [0, *sorted(cuts), len(REST)]
    assert rewritten([REST[a:b] for a, b in pairwise(edges)]) == rewritten([REST])


@given(st.lists(st.integers(1, 300), max_size=6))
@quick(max_examples=60)
def test_a_transcript_gives_whole_events_only_and_loses_no_byte(cuts: list[int]) -> None:
    stream = b"".join(SO_FAR).replace(b"\n\n", b"\r\n\r\n", 1) + b"data: half"
    edges = [0, *sorted(cuts), len(stream)]
    kept = Transcript(1 << 20)
    given_back = [kept.take(stream[a:b]) for a, b in pairwise(edges)]
    assert all(part.endswith((b"\n\r\n", b"\n\n")) for part in given_back if part)
    assert (b"".join(given_back), kept.rest(), kept.rest()) == (stream[:-10], b"data: half", b"")
    assert len(kept.events()) == 3


def test_a_stream_that_grows_too_long_passes_but_is_not_kept() -> None:
    kept = Transcript(100)
    assert kept.take(event("x" * 200)) == event("x" * 200)
    assert (kept.resumable, kept.take(b"data: ha")) == (False, b"data: ha")


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]}, {"response_format": {"type": "json_object"}}, {"logprobs": True}, {"n": 2},
        {"seed": 7}, {"modalities": ["audio"]}, {"messages": []}, {"messages": "x"},
    ],
)  # fmt: skip
def test_what_is_more_than_text_is_not_continued(more: dict[str, Any]) -> None:
    assert may_continue(CHAT, json.dumps(ASKED).encode())
    assert not may_continue(CHAT, json.dumps({**ASKED, **more}).encode())


def test_other_paths_and_prompts_of_tokens_are_not_continued() -> None:
    assert may_continue(TEXT, b'{"prompt":"a"}')
    assert not may_continue(TEXT, b'{"prompt":[1,2]}')
    assert not may_continue("/v1/responses", b'{"input":"a"}')
    assert not may_continue(CHAT, b"nonsense")


@pytest.mark.parametrize(
    "last",
    [
        event(finish="stop"), event("caf�"), b"event: x\ndata: {}\n\n", b"data: nonsense\n\n",
        b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]}}]}\n\n',
    ],
)  # fmt: skip
def test_a_stream_that_said_more_than_text_or_has_ended_is_not_continued(last: bytes) -> None:
    assert resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR, last), says_so=False) is None


def test_a_stream_that_has_made_all_its_tokens_is_not_continued() -> None:
    asked = {**ASKED, "max_tokens": 2}
    assert resume(CHAT, json.dumps(asked).encode(), transcript(*SO_FAR), says_so=False) is None


ODD: list[Any] = [None, 1, True, "", "x", [], ["x"], [[]], {}, {"a": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Any:
    for key, one in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(one, (*path, key))


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_nothing_that_a_worker_sends_breaks_it(odd: Any) -> None:
    whole = {**json.loads(event("x")[6:]), "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    whole["choices"][0]["text"] = None
    for place in places(whole):
        body = json.loads(json.dumps(whole))
        inner = body
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = odd
        strange = b"data: " + json.dumps(body).encode() + b"\n\n"
        resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR, strange), says_so=False)
        found = resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR), says_so=False)
        assert found is not None
        assert isinstance(found[1].feed(strange), bytes)


def test_a_stream_that_told_of_an_error_is_not_continued() -> None:
    for error in (b'data: {"error":{"message":"x"}}\n\n', b'data: {"object":"error","message":"x"}\n\n'):
        assert resume(CHAT, json.dumps(ASKED).encode(), transcript(*SO_FAR, error), says_so=False) is None
