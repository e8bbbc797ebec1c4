"""Anthropic's official Python client in front of the daemon, with genuine llama.cpp servers behind it.

Run by pytest; skipped where the client (the extra `clients`) or the engine's package is not installed. Most tests
run twice: with engines that speak the Messages API themselves, and with one that is said not to, for which the daemon
translates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client_fleet import TOOL_ANSWER_TOKENS, WEATHER_TOOL, ClientFleet

anthropic: Any = pytest.importorskip("anthropic", reason="`scripts/install test` brings anthropic")

SAME = {"extra_body": {"temperature": 0, "seed": 1}}
HELLO = [{"role": "user", "content": "hello"}]
TOOL = {
    "name": WEATHER_TOOL["function"]["name"], "description": WEATHER_TOOL["function"]["description"],
    "input_schema": WEATHER_TOOL["function"]["parameters"],
}  # fmt: skip
CALLING: dict[str, Any] = {
    "tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    "max_tokens": TOOL_ANSWER_TOKENS, "messages": HELLO,
}  # fmt: skip
CALLERS = {"tiny": "caller", "plain": "plain-caller"}


@pytest.fixture(name="claude")
def make_client(fleet: ClientFleet) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=fleet.url, api_key="the-client's-own", max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture(name="model", params=["tiny", "plain"])
def each_model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_message_is_the_same_whole_and_streamed(fleet: ClientFleet, claude: Any, model: str) -> None:
    ask = {"model": model, "max_tokens": 30, "messages": HELLO, "system": "You are terse.", **SAME}
    with fleet.lines(2) as lines:
        whole = claude.messages.create(**ask)
        with claude.messages.stream(**ask) as stream:
            pieces = list(stream.text_stream)
            last = stream.get_final_message()
    assert (whole.role, whole.stop_reason, whole.usage.output_tokens) == ("assistant", "max_tokens", 30)
    assert len(pieces) > 20
    assert "".join(pieces) == last.content[0].text == whole.content[0].text
    assert (last.stop_reason, last.usage.output_tokens) == ("max_tokens", 30)
    assert [(line["outcome"], line["tokens_out"]) for line in lines] == [("ok", 30), ("ok", 30)]


def test_a_tool_is_called_and_its_result_goes_back(claude: Any, model: str) -> None:
    whole = claude.messages.create(model=CALLERS[model], **CALLING)
    with claude.messages.stream(model=CALLERS[model], **CALLING) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        # llama.cpp itself does not heed disable_parallel_tool_use here, and may call until the last token.
        assert message.stop_reason == "tool_use" or (model, message.stop_reason) == ("tiny", "max_tokens")
        call = next(block for block in message.content if block.type == "tool_use")
        assert call.name == "get_weather"
        assert call.input["city"] in ("Oslo", "Rome")
    assert len(pieces) > 5
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "4 degrees, rain"}
    after = claude.messages.create(
        model=model, max_tokens=5, tools=[TOOL],
        messages=[*HELLO, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}],
    )  # fmt: skip
    assert after.content


def test_a_stream_that_the_client_closes_frees_its_slot(fleet: ClientFleet, claude: Any, model: str) -> None:
    with fleet.lines() as lines:
        with claude.messages.stream(
            model=model, max_tokens=3000, messages=HELLO, extra_body={"ignore_eos": True}
        ) as stream:
            for _, _ in zip(range(5), stream.text_stream, strict=False):
                pass
        fleet.until_busy(0)
    assert [(line["outcome"], line["status"]) for line in lines] == [("client_gone", 499)]


def test_failures_are_the_client_s_own_exceptions(claude: Any) -> None:
    for model, kind, status in [
        ("no-such-model", anthropic.NotFoundError, 404),
        ("faulty:status_400", anthropic.BadRequestError, 400),
        ("full-429", anthropic.RateLimitError, 429),
        ("faulty:close_before_head", anthropic.InternalServerError, 502),
    ]:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                claude.messages.create(model=model, max_tokens=5, messages=HELLO, stream=stream)
            assert (type(caught.value), caught.value.status_code) == (kind, status)
            assert caught.value.body["type"] == "error"


def test_a_stream_that_breaks_off_is_an_error_and_never_a_short_answer(claude: Any) -> None:
    seen = []
    with pytest.raises(anthropic.APIError, match="the worker"):
        with claude.messages.stream(model="faulty:close_mid_stream", max_tokens=5, messages=HELLO) as stream:
            for text in stream.text_stream:
                seen.append(text)
    assert "".join(seen) == "one two three"


def test_it_asks_once_where_the_router_has_tried(fleet: ClientFleet, claude: Any) -> None:
    with fleet.lines(), pytest.raises(anthropic.InternalServerError):
        claude.with_options(max_retries=2).messages.create(
            model="faulty:close_before_head", max_tokens=5, messages=HELLO
        )


def test_tokens_are_counted_by_engines_that_can(claude: Any) -> None:
    counted = claude.messages.count_tokens(model="tiny", messages=HELLO)
    assert counted.input_tokens > 5
