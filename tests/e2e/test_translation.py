"""Our translation of Anthropic's requests held against an engine that speaks both protocols: llama.cpp's server.

The same request goes to it twice, as it came and translated; what a client would read must be the same. Run by pytest;
skipped where the engine's package is not installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from rbeerouter.dialects import anthropic
from rbeerouter.dialects.surfaces import SURFACES
from tests.support.aio import story
from tests.support.llama import EngineMissing, llama_server, need, write_tiny_gguf

TOOLS = [{
    "name": "get_weather", "description": "Weather",
    "input_schema": {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"]},
}]  # fmt: skip
PLAIN: dict[str, Any] = {
    "model": "tiny", "max_tokens": 24, "temperature": 0, "system": "Be brief.",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
}  # fmt: skip
USED = {**PLAIN, "tools": TOOLS, "messages": [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"place": "SF"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "59 F"}]},
]}  # fmt: skip
CALL = {**PLAIN, "max_tokens": 200, "tools": TOOLS, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}


@pytest.fixture(name="engine", scope="module")
def start_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    try:
        need("xllamacpp")
        path = write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", calls_tools=True)
    except EngineMissing as missing:
        pytest.skip(str(missing))
    with llama_server(path) as url:
        yield url


async def ask(url: str, path: bytes, body: bytes) -> tuple[int, bytes]:
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    async with aiohttp.ClientSession() as session, session.post(url + path.decode(), data=body, headers=headers) as answer:
        return answer.status, await answer.read()


async def both(url: str, path: bytes, asked: dict[str, Any]) -> tuple[bytes, bytes]:
    """(the engine's own answer, the translated one)."""
    translation = SURFACES[path].translation({"openai"})
    assert translation is not None
    body = json.dumps(asked).encode()
    own_status, own = await ask(url, path, body)
    status, other = await ask(url, translation.path, translation.body(body, None))
    assert own_status == status
    if not asked.get("stream") or status >= 400:
        return own, translation.answer(status, other)
    rewriter = translation.stream()
    return own, rewriter.feed(other) + rewriter.finish()


def said(message: dict[str, Any]) -> Any:
    """What a message says, without what differs from answer to answer: ids, and how much came out of the cache."""
    usage = message["usage"]
    read = usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
    content = [{name: value for name, value in block.items() if name != "id"} for block in message["content"]]
    return (message["type"], message["role"], content, message["stop_reason"], message["stop_sequence"], read,
            usage["output_tokens"])  # fmt: skip


def put_together(stream: bytes) -> tuple[list[str], dict[str, Any]]:
    """(types of the events, each run of deltas once; the message that they make), as an SDK puts it together."""
    kinds: list[str] = []
    message: dict[str, Any] = {}
    for text in stream.decode().split("\n\n"):
        lines = [line for line in text.splitlines() if line and not line.startswith(":")]
        if not lines:
            continue
        event = json.loads(lines[1].removeprefix("data: "))
        assert lines[0] == f"event: {event['type']}"
        if kinds[-1:] != [event["type"]] or event["type"] != "content_block_delta":
            kinds.append(event["type"])
        if event["type"] == "message_start":
            message = event["message"]
        elif event["type"] == "content_block_start":
            message["content"].append({**event["content_block"], "pieces": ""})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            message["content"][event["index"]]["pieces"] += next(v for k, v in delta.items() if k not in ("type", "index"))
        elif event["type"] == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
    return kinds, message


@pytest.mark.parametrize("asked", [PLAIN, USED], ids=["plain", "used"])
@story
async def test_a_whole_answer_is_the_one_that_the_engine_itself_gives(asked: dict[str, Any], engine: str) -> None:
    own, translated = map(json.loads, await both(engine, b"/v1/messages", asked))
    assert said(translated) == said(own)
    assert own.keys() - translated.keys() == set()


@pytest.mark.parametrize("asked", [PLAIN, USED], ids=["plain", "used"])
@story
async def test_a_stream_is_the_one_that_the_engine_itself_gives(asked: dict[str, Any], engine: str) -> None:
    own, translated = await both(engine, b"/v1/messages", {**asked, "stream": True})
    assert anthropic.is_finished(own) and anthropic.has_content(own) and anthropic.error_in(own) is None
    own_kinds, own_message = put_together(own)
    kinds, message = put_together(translated)
    assert kinds == own_kinds
    own_message["usage"]["input_tokens"] = message["usage"]["input_tokens"]      # its stream tells it at the beginning
    own_message["usage"]["cache_read_input_tokens"] = message["usage"]["cache_read_input_tokens"]
    assert said(message) == said(own_message)


@pytest.mark.parametrize("asked", [PLAIN, USED], ids=["plain", "used"])
@story
async def test_the_count_of_tokens_is_the_engines_own(asked: dict[str, Any], engine: str) -> None:
    own, translated = map(json.loads, await both(engine, b"/v1/messages/count_tokens", asked))
    assert translated == own


@story
async def test_a_call_is_the_one_that_the_engine_itself_makes(engine: str) -> None:
    """It does not heed `disable_parallel_tool_use`, so it makes the same call again and again until it is cut off."""
    own, translated = map(json.loads, await both(engine, b"/v1/messages", CALL))
    assert said(translated)[2] == said(own)[2][:1] == [{"type": "tool_use", "name": "get_weather", "input": {"unit": "F"}}]
    assert translated["stop_reason"] == "tool_use"
    own_stream, stream = await both(engine, b"/v1/messages", {**CALL, "stream": True})
    (block,), first = put_together(stream)[1]["content"], put_together(own_stream)[1]["content"][0]
    assert (block["type"], block["name"], json.loads(block["pieces"])) == ("tool_use", first["name"], {"unit": "F"})
    assert json.loads(first["pieces"]) == {"unit": "F"}
    assert put_together(stream)[0] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
