"""What a body says to the model becomes hashes of blocks: which parts count, what two prompts share, what is forgotten."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from rbeerouter.config.sections import Prefix, Strategies
from rbeerouter.dialects.prompts import Prompt, chain, prompt_of, strict_chain
from rbeerouter.dialects.surfaces import SURFACES
from tests.support.builders import quick, request

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SMALL = Strategies(prefix=Prefix(block_bytes=16))
STRICT = Strategies(strict=True, prefix=Prefix(block_bytes=4))


def prompt(body: Any, path: str = CHAT, options: Strategies = SMALL, model: str = "m") -> Prompt:
    given_body = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = prompt_of(options, SURFACES[path.encode()], request(path=path, model=model), given_body)
    assert made is not None
    return made


def shared(one: Prompt, other: Prompt) -> int:
    """How many blocks two prompts have in common from the first one on."""
    pairs = zip(one.blocks(), other.blocks(), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one.blocks()), len(other.blocks())))


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


LONG = "The quick brown fox jumps over the lazy dog. " * 4
TURN = [said("system", LONG), said("user", LONG)]


# The chain


@pytest.mark.parametrize(
    ("text", "block_bytes", "seed", "hashes"),
    [
        (b"hello world", 4, 0, [8760862958473797127, 14765582204697627499]),
        (b"hello world", 4, 7, [6360237520844857013, 17662094881619092731]),
        (b"a" * 300, 128, 0, [5553500093441874558, 2787912953130237946]),
    ],
)
def test_the_strict_chain_is_that_of_aibrix(text: bytes, block_bytes: int, seed: int, hashes: list[int]) -> None:
    assert strict_chain(text, block_bytes, seed) == hashes


def test_the_hash_of_the_strict_chain_is_the_published_one() -> None:
    assert xxh64_intdigest(b"", 0) == 0xEF46DB3751D8E999
    assert strict_chain(b"abcd", 4, 0) == [xxh64_intdigest(bytes(8) + b"abcd", 0)]


@pytest.mark.parametrize("make", [chain, strict_chain])
def test_the_last_part_of_a_block_has_no_hash(make: Any) -> None:
    assert make(b"abcdefgh", 4, 1) == make(b"abcdefghijk", 4, 1)
    assert make(b"abc", 4, 1) == make(b"", 4, 1) == []


@quick(max_examples=200)
@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=30), st.integers(1, 9), st.integers(0, 2**64 - 1))
def test_prompts_share_the_whole_blocks_of_what_they_begin_with(
    start: bytes, one: bytes, other: bytes, block_bytes: int, parent: int
) -> None:
    first, second = chain(start + one, block_bytes, parent), chain(start + other, block_bytes, parent)
    common = len(start)
    while common < min(len(start + one), len(start + other)) and (start + one)[common] == (start + other)[common]:
        common += 1
    whole = common // block_bytes
    assert first[:whole] == second[:whole]
    assert not set(first[whole:]) & set(second[whole:])
    assert all(0 <= block < 2**64 for block in first)


def test_a_block_stands_for_all_that_is_before_it() -> None:
    same_later = chain(b"AAAAxxxx", 4, 0), chain(b"BBBBxxxx", 4, 0)
    assert same_later[0][1] != same_later[1][1]


# What counts


def test_a_turn_shares_all_whole_blocks_of_the_one_before() -> None:
    first = prompt({"model": "m", "messages": TURN, "stream": True})
    more = [*TURN, said("assistant", "Yes."), said("user", "And then?")]
    second = prompt({"stream": False, "messages": more, "temperature": 0.1, "model": "m"})
    assert shared(first, second) == len(first.blocks()) > 20


def test_a_conversation_that_is_written_with_indents_shares_them_as_well() -> None:
    bodies = [json.dumps({"messages": turns}, indent=2).encode() for turns in (TURN, [*TURN, said("user", "?")])]
    first, second = (prompt(body) for body in bodies)
    assert shared(first, second) == len(first.blocks()) > 20


def test_a_completion_that_begins_with_another_shares_its_blocks() -> None:
    first, second = (prompt({"prompt": text}, COMPLETIONS) for text in (LONG, LONG + "And?"))
    assert shared(first, second) == len(first.blocks()) == (len(LONG) + len('prompt:"')) // 16


def test_who_says_it_counts() -> None:
    as_user = prompt({"messages": [said("user", LONG)]})
    as_system = prompt({"messages": [said("system", LONG)]})
    assert shared(as_user, as_system) <= 2


def test_tools_stand_before_the_messages_wherever_they_are_in_the_body() -> None:
    tools = [{"type": "function", "function": {"name": "look", "description": LONG}}]
    before = prompt({"tools": tools, "messages": TURN})
    after = prompt({"messages": TURN, "tools": tools})
    other = prompt({"messages": [said("user", "hi")], "tools": tools})
    assert before.blocks() == after.blocks()
    assert shared(before, other) >= len(json.dumps(tools)) // 16
    assert shared(before, prompt({"messages": TURN})) == 0


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        ("/v1/responses", {"instructions": LONG, "input": "a"}, {"input": "b", "instructions": LONG}),
        ("/v1/messages", {"system": LONG, "messages": [said("user", "a")]}, {"messages": [said("user", "b")], "system": LONG}),
        ("/api/chat", {"messages": [said("system", LONG), said("user", "a")]}, {"messages": [said("system", LONG), said("user", "b")]}),
        ("/api/generate", {"system": LONG, "prompt": "a"}, {"prompt": "b", "system": LONG}),
    ],
)  # fmt: skip
def test_each_surface_says_its_instructions_first(path: str, first: Any, second: Any) -> None:
    assert shared(prompt(first, path), prompt(second, path)) >= len(LONG) // 16
    assert prompt({**first, "model": "x", "stream": True}, path).blocks() == prompt(first, path).blocks()


@pytest.mark.parametrize("field", ["cache_salt", "previous_response_id"])
def test_a_salt_separates_all_of_it(field: str) -> None:
    body = {"input": LONG}
    plain, one, same, other = (
        prompt({**body, **salt}, "/v1/responses") for salt in ({}, {field: "a"}, {field: "a"}, {field: "b"})
    )
    assert one.blocks() == same.blocks()
    assert (shared(plain, one), shared(one, other)) == (0, 0)


def test_models_and_adapters_share_nothing() -> None:
    assert shared(prompt({"messages": TURN}), prompt({"messages": TURN}, model="m-lora")) == 0


def test_paths_that_nobody_caches_for_have_no_text() -> None:
    for path in ("/v1/embeddings", "/v1/messages/count_tokens", "/v1/rerank", "/api/show", "/v1/audio/transcriptions"):
        assert prompt_of(SMALL, SURFACES[path.encode()], request(path=path), b"{}") is None


@pytest.mark.parametrize("body", [b"{}", b"[1]", b'{"messages": null}', b'{"messages": 7}', b'{"messages"', b"\xff", b""])
def test_a_body_that_says_nothing_has_no_blocks(body: bytes) -> None:
    assert list(prompt(body).blocks()) == []
    assert list(prompt(body, options=STRICT).blocks()) in ([], strict_chain(b"null", 4, 0))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["role", "content", "text", "type"]), inner, max_size=3
    ), max_leaves=12,
)  # fmt: skip
FIELDS = ["tools", "functions", "system", "instructions", "messages", "prompt", "input", "cache_salt", "model"]


@quick(max_examples=200)
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5), st.sampled_from(["/v1/responses", CHAT, "/api/generate"]),
    st.booleans(),
)  # fmt: skip
def test_no_body_is_too_strange(body: dict[str, Any], path: str, strict: bool) -> None:
    text = prompt(body, path, STRICT if strict else SMALL)
    assert all(0 <= block < 2**64 for block in text.blocks())


@pytest.mark.parametrize("options", [SMALL, STRICT])
def test_half_a_surrogate_pair_is_no_error(options: Strategies) -> None:
    body = b'{"messages": [{"role": "user", "content": "\\ud800 and more of it, so that there is a block"}]}'
    assert isinstance(list(prompt(body, options=options).blocks()), list)


# Strictly


def test_strictly_only_the_contents_count_joined_by_spaces() -> None:
    parts = [{"type": "text", "text": "hi"}]
    body = {"messages": [said("system", "hello"), said("user", "wörld"), {"role": "user", "content": parts}]}
    text = "hello wörld ".encode() + json.dumps(parts).encode()
    assert prompt(body, options=STRICT).blocks() == strict_chain(text, 4, 0)
    assert prompt({"prompt": "hello world"}, COMPLETIONS, STRICT).blocks() == strict_chain(b"hello world", 4, 0)


# Cost and memory


def test_a_body_is_looked_into_once_and_only_when_asked() -> None:
    text = prompt({"messages": TURN})
    blocks = text.blocks()
    text.body = b'{"messages": [{"role": "user", "content": "another body that is long enough"}]}'
    assert text.blocks() is blocks


def test_no_more_than_the_configured_blocks_count() -> None:
    options = Strategies(prefix=Prefix(block_bytes=16, most_blocks=5))
    body = {"messages": TURN}
    assert prompt(body, options=options).blocks() == prompt(body).blocks()[:5]
    strictly = msgspec.structs.replace(options, strict=True)
    assert len(prompt(body, options=strictly).blocks()) == 5


def test_what_has_ended_holds_nothing_of_the_body() -> None:
    text = prompt({"messages": TURN})
    text.ids = [1, 2]
    assert len(text.blocks()) > 0
    text.forget()
    assert (text.body, list(text.blocks()), text.token_ids()) == (b"", [], None)
    never_asked = prompt({"messages": TURN})
    never_asked.forget()
    assert (never_asked.body, list(never_asked.blocks())) == (b"", [])


def test_a_block_stands_for_a_token_for_each_four_bytes() -> None:
    assert (prompt(b"{}").block_tokens, prompt(b"{}", options=Strategies()).block_tokens) == (4, 64)
