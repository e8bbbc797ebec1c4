"""No client is disturbed by the comments that keep a silent stream alive, nor by those of a stream that waits.

Run by pytest; skipped where the clients (the extra `clients`) or the engine's package are not installed. All clients
wait at the same time, because the silence has to be long.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import OpenAI

from tests.support.behaviours import ANSWER_TEXT
from tests.support.client_fleet import COMMENT_S, ClientFleet

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
anthropic, langchain_openai, litellm = (
    pytest.importorskip(name, reason=f"`scripts/install test` brings {name}")
    for name in ("anthropic", "langchain_openai", "litellm")
)
pytestmark = pytest.mark.filterwarnings("default")

MODEL = "faulty:slow_first"
HELLO: Any = [{"role": "user", "content": "hello"}]


def with_openai(url: str) -> str:
    with OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as ai:
        stream = ai.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def with_anthropic(url: str) -> str:
    with anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0) as claude:
        with claude.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream:
            return "".join(stream.text_stream)


def with_langchain(url: str) -> str:
    made = langchain_openai.ChatOpenAI(
        model=MODEL, base_url=f"{url}/v1", api_key="unused", max_retries=0
    )
    return "".join(piece.content for piece in made.stream("hello"))


def with_litellm(url: str) -> str:
    stream = litellm.completion(
        model=f"openai/{MODEL}", api_base=f"{url}/v1", api_key="unused", messages=HELLO, stream=True, max_retries=0
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


CLIENTS: list[Callable[[str], str]] = [with_openai, with_anthropic, with_langchain, with_litellm]


def test_comments_while_a_worker_is_silent_disturb_no_client(fleet: ClientFleet) -> None:
    fleet.faulty.delay_s = COMMENT_S + 1.5
    asked = {"model": MODEL, "messages": HELLO, "stream": True}
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(client, fleet.url) for client in CLIENTS]
        raw = fleet.loop.run(fleet.router.post("/v1/chat/completions", asked))
        assert [answer.result() for answer in answers] == [ANSWER_TEXT] * len(CLIENTS)
    lines = raw.body.split(b"\n")
    assert lines[0].startswith(b":"), raw.body[:100]
    assert raw.events()[-1].data == "[DONE]"
