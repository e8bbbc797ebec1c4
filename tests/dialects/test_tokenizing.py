"""Tests of asking engines for the tokens of a prompt: what is posted to each, and what is made of the answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rbeerouter.dialects.tokenizing import CHAT, COMPLETION, TOKENIZERS, Said, prompt_tokens, said_in

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def said(path: str = CHAT, **body: Any) -> Said:
    found = said_in(path, json.dumps({"model": "m", "max_tokens": 5, "stream": True, **body}).encode())
    assert found is not None
    return found


def asked(engine: str, what: Said, *answers: Any) -> tuple[list[tuple[str, Any]], list[int]]:
    """(what was posted where, the tokens) when the engine answers so."""
    steps, posted = TOKENIZERS[engine](what, "own"), []
    step = next(steps)
    for answer in answers:
        posted.append((step.path, json.loads(step.body)))
        try:
            step = steps.send(json.dumps(answer).encode())
        except StopIteration as done:
            return posted, done.value
    raise AssertionError("it wants to know more")


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_vllm_and_sglang_put_a_chat_into_its_template_themselves(engine: str) -> None:
    answer = {"count": 3, "max_model_len": 99, "tokens": [5, 6, 7], "token_strs": None}

    assert asked(engine, said(messages=MESSAGES, tools=TOOLS), answer) == (
        [("/tokenize", {"model": "own", "messages": MESSAGES, "tools": TOOLS, "add_generation_prompt": True,
                        "add_special_tokens": False})],
        [5, 6, 7],
    )  # fmt: skip


def test_what_a_client_says_of_the_template_holds() -> None:
    body = {"messages": MESSAGES, "continue_final_message": True, "chat_template_kwargs": {"thinking": False},
            "tools": None}  # fmt: skip

    [(_, posted)], _ = asked("vllm", said(**body), {"tokens": []})

    assert posted == {
        "model": "own", "messages": MESSAGES, "continue_final_message": True, "chat_template_kwargs": {"thinking": False},
        "add_generation_prompt": False, "add_special_tokens": False,
    }  # fmt: skip


def test_a_completion_is_read_as_it_stands() -> None:
    assert asked("vllm", said(COMPLETION, prompt="Hi"), {"tokens": [1]}) == (
        [("/tokenize", {"model": "own", "prompt": "Hi"})], [1],
    )  # fmt: skip
    assert asked("llamacpp", said(COMPLETION, prompt="Hi"), {"tokens": [1]}) == (
        [("/tokenize", {"model": "own", "content": "Hi", "add_special": True, "parse_special": True})], [1],
    )  # fmt: skip


def test_llamacpp_has_a_page_for_the_template() -> None:
    posted, tokens = asked("llamacpp", said(messages=MESSAGES), {"prompt": "<s>Hi"}, {"tokens": [1, 2]})

    assert posted == [
        ("/apply-template", {"model": "own", "messages": MESSAGES}),
        ("/tokenize", {"model": "own", "content": "<s>Hi", "add_special": True, "parse_special": True}),
    ]
    assert tokens == [1, 2]


def test_tokens_that_the_client_sends_need_nobody() -> None:
    assert said(COMPLETION, prompt=[1, 2, 3]).tokens == [1, 2, 3]
    assert said(COMPLETION, prompt="x").tokens is None


def test_a_salt_is_kept_apart() -> None:
    assert [said(messages=MESSAGES, **more).salt for more in ({}, {"cache_salt": "s"})] == [None, "s"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x"}),
        ("/v1/messages", {"messages": MESSAGES}),
        (CHAT, {}),
        (CHAT, {"messages": "x"}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}),
        (CHAT, {"messages": MESSAGES, "cache_salt": 5}),
        (COMPLETION, {}),
        (COMPLETION, {"prompt": ["a", "b"]}),
        (COMPLETION, {"prompt": [[1, 2]]}),
    ],
)
def test_others_are_not_asked_for(path: str, body: dict[str, Any]) -> None:
    assert said_in(path, json.dumps(body).encode()) is None
    assert said_in(path, b"{") is None


def test_what_says_the_same_has_the_same_key() -> None:
    one = said(messages=MESSAGES)

    assert one.key() == said(messages=MESSAGES, temperature=0.5, cache_salt="s").key()
    assert one.key() != said(messages=MESSAGES, tools=TOOLS).key()
    assert said(COMPLETION, prompt="x").key() != said(COMPLETION, prompt="x", add_special_tokens=False).key()


@pytest.mark.parametrize("answer", [{}, [], "x", {"tokens": 5}, {"tokens": ["x"]}, {"tokens": [[1]]}, {"error": "no"}])
def test_an_answer_that_makes_no_sense_is_a_value_error(answer: Any) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        asked("vllm", said(COMPLETION, prompt="x"), answer)
    with pytest.raises(ValueError, match="no prompt"):
        asked("llamacpp", said(messages=MESSAGES), answer)


def test_numbers_that_no_token_has_are_a_value_error() -> None:
    assert list(prompt_tokens([1, 2], None)) == [1, 2]
    for ids in ([-1], [1 << 32]):
        with pytest.raises(ValueError, match="no tokens"):
            prompt_tokens(ids, None)
