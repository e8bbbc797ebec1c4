"""LiteLLM's SDK in front of the daemon, with genuine llama.cpp servers behind it.

Run by pytest; skipped where LiteLLM (the extra `clients`) or the engine's package is not installed.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from tests.support.client_fleet import ONE_TOOL_CALL, ClientFleet

# Else it fetches a list of prices from GitHub when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
litellm: Any = pytest.importorskip("litellm", reason="`scripts/install test` brings litellm")
litellm.suppress_debug_info = True

pytestmark = pytest.mark.filterwarnings("default")
"""Its own warnings, of pydantic and of coroutines that it leaves, are not ours to mend."""

MESSAGES = [{"role": "user", "content": "hello"}]


def asking(fleet: ClientFleet, model: str = "tiny", **options: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{model}", "api_base": f"{fleet.url}/v1", "api_key": "unused", "messages": MESSAGES,
        "temperature": 0, "seed": 1, "max_tokens": 30, "max_retries": 0, "timeout": 20, **options,
    }  # fmt: skip


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_an_answer_is_the_same_whole_and_streamed(fleet: ClientFleet) -> None:
    whole = litellm.completion(**asking(fleet))
    chunks = list(litellm.completion(**asking(fleet, stream=True, stream_options={"include_usage": True})))
    assert len(chunks) > 20
    assert whole.choices[0].message.content == text_of(chunks)
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens == 30


def test_a_tool_is_called_whole_and_streamed(fleet: ClientFleet) -> None:
    whole = litellm.completion(**asking(fleet, "caller", **ONE_TOOL_CALL))
    chunks = list(litellm.completion(**asking(fleet, "caller", **ONE_TOOL_CALL, stream=True)))
    streamed = litellm.stream_chunk_builder(chunks)
    for answer in (whole, streamed):
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")


def test_embeddings(fleet: ClientFleet) -> None:
    answer = litellm.embedding(
        model="openai/tiny", api_base=f"{fleet.url}/v1", api_key="unused", input=["one", "two"], encoding_format="float"
    )
    assert [len(row["embedding"]) for row in answer.data] == [256, 256]


def test_a_stream_that_is_cancelled_frees_its_slot(fleet: ClientFleet) -> None:
    async def leave_in_the_middle() -> None:
        seen = asyncio.Event()

        async def read() -> None:
            asked = asking(fleet, max_tokens=3000, stream=True, extra_body={"ignore_eos": True})
            async for _ in await litellm.acompletion(**asked):
                seen.set()

        reading = asyncio.create_task(read())
        await seen.wait()
        reading.cancel()
        await asyncio.wait([reading])

    with fleet.lines() as lines:
        asyncio.run(leave_in_the_middle())
        fleet.until_busy(0)
    assert [(line["outcome"], line["status"]) for line in lines] == [("client_gone", 499)]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("no-such-model", "NotFoundError"),
        ("faulty:status_400", "ContextWindowExceededError"),
        ("full-429", "RateLimitError"),
        ("faulty:status_500", "InternalServerError"),
        ("full-503", "ServiceUnavailableError"),
        ("faulty:close_before_head", "BadGatewayError"),
    ],
)
def test_each_failure_is_an_exception_of_its_kind(fleet: ClientFleet, model: str, kind: str) -> None:
    for stream in (False, True):
        with pytest.raises(getattr(litellm, kind)) as caught:
            litellm.completion(**asking(fleet, model, stream=stream))
        assert type(caught.value).__name__ == kind


def test_a_stream_that_breaks_off_is_an_error_and_never_a_short_answer(fleet: ClientFleet) -> None:
    seen = []
    with pytest.raises(litellm.exceptions.MidStreamFallbackError) as caught:
        for chunk in litellm.completion(**asking(fleet, "faulty:close_mid_stream", stream=True)):
            seen.append(chunk)
    assert "the worker" in str(caught.value)
    assert text_of(seen) == "one two three"


def test_it_asks_once_where_the_router_has_tried(fleet: ClientFleet) -> None:
    with fleet.lines(), pytest.raises(litellm.BadGatewayError):
        litellm.completion(**asking(fleet, "faulty:close_before_head", max_retries=2))
