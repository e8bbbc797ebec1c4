"""The official Python client of OpenAI in front of the daemon, with genuine llama.cpp servers behind it.

Run by pytest; skipped where the engine's package is not installed. The fleet is shared by all tests of clients.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
import pytest
from openai import OpenAI

from tests.support.client_fleet import ONE_TOOL_CALL, WEATHER_TOOL, ClientFleet

HELLO: Any = [{"role": "user", "content": "hello"}]
ASK: dict[str, Any] = {"model": "tiny", "messages": HELLO, "temperature": 0, "seed": 1}
CALLING: dict[str, Any] = {**ASK, "model": "caller", **ONE_TOOL_CALL}
LONG: dict[str, Any] = {**ASK, "max_tokens": 3000, "stream": True, "extra_body": {"ignore_eos": True}}


@pytest.fixture(name="ai")
def make_client(fleet: ClientFleet) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{fleet.url}/v1", api_key="the-client's-own", max_retries=0, timeout=20) as client:
        yield client


def text_of(stream: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_an_answer_is_the_same_whole_and_streamed(fleet: ClientFleet, ai: OpenAI) -> None:
    with fleet.lines(2) as lines:
        whole = ai.chat.completions.create(**ASK, max_tokens=30)
        chunks = list(
            ai.chat.completions.create(**ASK, max_tokens=30, stream=True, stream_options={"include_usage": True})
        )
    assert whole.choices[0].message.content == text_of(chunks)
    assert len(chunks) > 20
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens == 30
    assert [(line["outcome"], line["tokens_out"]) for line in lines] == [("ok", 30), ("ok", 30)]


def test_completions_and_embeddings(ai: OpenAI) -> None:
    completion = ai.completions.create(model="tiny", prompt="hello", max_tokens=5)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5
    # The client asks for base64 and decodes it, unless told otherwise.
    packed, plain = (
        ai.embeddings.create(model="tiny", input=["one", "two"], **form).data  # type: ignore[call-overload]
        for form in ({}, {"encoding_format": "float"})
    )
    assert [len(row.embedding) for row in packed] == [256, 256]
    assert packed[1].embedding == pytest.approx(plain[1].embedding, abs=1e-4)


def test_responses_whole_and_streamed(ai: OpenAI) -> None:
    response = ai.responses.create(model="tiny", input="hello", max_output_tokens=5)
    assert response.output_text
    events = list(ai.responses.create(model="tiny", input="hello", max_output_tokens=5, stream=True))
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta")


def test_models_are_listed_and_each_can_be_asked_for(ai: OpenAI) -> None:
    assert {"tiny", "faulty:ok"} <= {card.id for card in ai.models.list()}
    assert ai.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as caught:
        ai.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


def test_a_tool_is_called_and_its_result_goes_back(ai: OpenAI) -> None:
    (choice,) = ai.chat.completions.create(**CALLING).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    result = {"role": "tool", "tool_call_id": call.id, "content": "4 degrees, rain"}
    after = ai.chat.completions.create(
        **{**ASK, "messages": [*HELLO, choice.message, result]}, tools=[WEATHER_TOOL], max_tokens=5
    )
    assert after.choices[0].message.content


def test_a_tool_call_is_streamed_in_pieces(ai: OpenAI) -> None:
    with ai.chat.completions.stream(**CALLING) as stream:
        pieces = [event.arguments_delta for event in stream if event.type == "tool_calls.function.arguments.delta"]
        (choice,) = stream.get_final_completion().choices
    assert len(pieces) > 5
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].function.arguments == "".join(pieces)
    assert json.loads("".join(pieces))["city"] in ("Oslo", "Rome")


class Weather(pydantic.BaseModel):
    # Short words only: the model is random, and would write a name until its last token.
    city: str = pydantic.Field(max_length=8)
    rain: bool


def test_an_answer_that_must_fit_a_schema_is_parsed(ai: OpenAI) -> None:
    (choice,) = ai.chat.completions.parse(**ASK, response_format=Weather, max_tokens=300).choices
    assert isinstance(choice.message.parsed, Weather)


def test_a_stream_that_the_client_closes_frees_its_slot(fleet: ClientFleet, ai: OpenAI) -> None:
    with fleet.lines() as lines:
        stream = ai.chat.completions.create(**LONG)
        for _ in range(5):
            next(stream)
        assert fleet.busy_slots() == 1
        stream.close()
        fleet.until_busy(0)
    assert [(line["outcome"], line["status"]) for line in lines] == [("client_gone", 499)]


def test_a_stream_that_breaks_off_is_an_error_and_never_a_short_answer(fleet: ClientFleet, ai: OpenAI) -> None:
    for fault in ("close_mid_stream", "reset_mid_stream"):
        seen = []
        with fleet.lines() as lines, pytest.raises(openai.APIError, match="the worker"):
            for chunk in ai.chat.completions.create(model=f"faulty:{fault}", messages=HELLO, stream=True):
                seen.append(chunk)
        assert text_of(seen) == "one two three"
        assert lines[0]["outcome"] == "upstream_failed"


@pytest.mark.parametrize(
    ("model", "kind", "status", "code"),
    [
        ("no-such-model", openai.NotFoundError, 404, "model_not_found"),
        ("faulty:status_400", openai.BadRequestError, 400, "context_length_exceeded"),
        ("full-429", openai.RateLimitError, 429, "rate_limited"),
        ("faulty:status_500", openai.InternalServerError, 500, "engine_failed"),
        ("full-503", openai.InternalServerError, 503, "rate_limited"),
        ("faulty:close_before_head", openai.InternalServerError, 502, "upstream_disconnected"),
        ("faulty:garbage", openai.InternalServerError, 502, "upstream_protocol_error"),
    ],
)
def test_each_failure_is_the_client_s_own_exception(
    ai: OpenAI, model: str, kind: type[openai.APIStatusError], status: int, code: str
) -> None:
    for stream in (False, True):
        with pytest.raises(kind) as caught:
            ai.chat.completions.create(model=model, messages=HELLO, stream=stream)
        assert (type(caught.value), caught.value.status_code, caught.value.code) == (kind, status, code)
        assert caught.value.request_id


def test_a_body_that_is_wrong_is_named(ai: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ai.chat.completions.create(model="tiny", messages=HELLO, max_tokens="many")  # type: ignore[call-overload]
    assert (caught.value.code, caught.value.param) == ("invalid_json", "max_tokens")


def test_a_prompt_that_is_too_long_is_told_in_the_engine_s_words(ai: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
        ai.chat.completions.create(**{**ASK, "messages": [{"role": "user", "content": "hello " * 4000}]})


def test_a_client_that_retries_asks_once_where_the_router_has_tried(fleet: ClientFleet, ai: OpenAI) -> None:
    with fleet.lines() as lines, pytest.raises(openai.InternalServerError):
        ai.with_options(max_retries=2).chat.completions.create(model="faulty:close_before_head", messages=HELLO)
    assert lines[0]["error"] == "upstream_disconnected"
