"""LangChain's OpenAI classes in front of the daemon, with genuine llama.cpp servers behind it.

Run by pytest; skipped where LangChain (the extra `clients`) or the engine's package is not installed.
"""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.support.client_fleet import TOOL_ANSWER_TOKENS, WEATHER_TOOL, ClientFleet

langchain_openai: Any = pytest.importorskip("langchain_openai", reason="`scripts/install test` brings langchain-openai")

MESSAGES = [("system", "You are terse."), ("human", "hello")]


def chat(fleet: ClientFleet, model: str = "tiny", **options: Any) -> Any:
    return langchain_openai.ChatOpenAI(
        model=model, base_url=f"{fleet.url}/v1", api_key="unused", temperature=0, timeout=20,
        **{"max_tokens": 30, "seed": 1, "max_retries": 0, **options},
    )  # fmt: skip


def test_an_answer_is_the_same_invoked_and_streamed(fleet: ClientFleet) -> None:
    whole = chat(fleet).invoke(MESSAGES)
    pieces = list(chat(fleet).stream(MESSAGES))
    assert len(pieces) > 20
    assert whole.content == "".join(piece.content for piece in pieces)
    assert whole.usage_metadata["output_tokens"] == 30


def test_a_batch_is_spread_over_the_engines(fleet: ClientFleet) -> None:
    with fleet.lines(8) as lines:
        answers = chat(fleet).batch([MESSAGES] * 8, config={"max_concurrency": 8})
    assert len(answers) == 8
    assert {line["worker"] for line in lines} == {"gpu0", "gpu1"}


def test_a_bound_tool_is_called_invoked_and_streamed(fleet: ClientFleet) -> None:
    able = chat(fleet, "caller", max_tokens=TOOL_ANSWER_TOKENS).bind_tools(
        [WEATHER_TOOL], tool_choice="required", parallel_tool_calls=False
    )
    (whole,) = able.invoke(MESSAGES).tool_calls
    gathered = None
    for piece in able.stream(MESSAGES):
        gathered = piece if gathered is None else gathered + piece
    (streamed,) = gathered.tool_calls
    for call in (whole, streamed):
        assert call["name"] == "get_weather"
        assert call["args"]["city"] in ("Oslo", "Rome")


def test_embeddings_of_texts(fleet: ClientFleet) -> None:
    # Without check_embedding_ctx_length it would fetch OpenAI's tokenizer, and send tokens in place of text.
    embeddings = langchain_openai.OpenAIEmbeddings(
        model="tiny", base_url=f"{fleet.url}/v1", api_key="unused", check_embedding_ctx_length=False, max_retries=0
    )
    one, two = embeddings.embed_documents(["one", "two"])
    assert (len(one), len(two)) == (256, 256)
    assert embeddings.embed_query("one") == pytest.approx(one, abs=1e-4)


def test_a_stream_that_is_cancelled_frees_its_slot(fleet: ClientFleet) -> None:
    async def leave_in_the_middle() -> None:
        seen = asyncio.Event()
        pieces = []

        async def read() -> None:
            async for piece in chat(fleet, max_tokens=3000, extra_body={"ignore_eos": True}).astream(MESSAGES):
                pieces.append(piece)
                if len(pieces) == 3:
                    seen.set()

        reading = asyncio.create_task(read())
        await seen.wait()
        reading.cancel()
        await asyncio.wait([reading])                         # LangChain itself may lose the cancellation, and end

    with fleet.lines() as lines:
        asyncio.run(leave_in_the_middle())
        fleet.until_busy(0)
    assert [(line["outcome"], line["status"]) for line in lines] == [("client_gone", 499)]


def test_failures_are_exceptions_also_in_the_middle_of_a_stream(fleet: ClientFleet) -> None:
    for model, kind in [
        ("no-such-model", openai.NotFoundError),
        ("faulty:status_400", openai.BadRequestError),
        ("full-429", openai.RateLimitError),
        ("faulty:close_before_head", openai.InternalServerError),
    ]:
        with pytest.raises(kind):
            chat(fleet, model).invoke(MESSAGES)
        with pytest.raises(kind):
            list(chat(fleet, model).stream(MESSAGES))
    seen = []
    with pytest.raises(openai.APIError, match="the worker"):
        for piece in chat(fleet, "faulty:close_mid_stream").stream(MESSAGES):
            seen.append(piece.content)
    assert "".join(seen) == "one two three"


def test_it_asks_once_where_the_router_has_tried(fleet: ClientFleet) -> None:
    with fleet.lines(), pytest.raises(openai.InternalServerError):
        chat(fleet, "faulty:close_before_head", max_retries=2).invoke(MESSAGES)
