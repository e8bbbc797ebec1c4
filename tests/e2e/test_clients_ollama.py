"""Ollama's own Python client in front of the daemon, with a fake Ollama behind it: no real one can be had.

Run by pytest; skipped where the client (the extra `clients`) or the engines' package is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client_fleet import WEATHER_TOOL, ClientFleet
from tests.support.ollama_fake import BUSY, CRASHED, TEXT

ollama: Any = pytest.importorskip("ollama", reason="`scripts/install test` brings ollama")

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(name="client")
def make_client(fleet: ClientFleet) -> Iterator[Any]:
    client = ollama.Client(host=fleet.url, timeout=20)
    yield client
    client.close()


def test_chat_and_generate_whole_and_streamed(fleet: ClientFleet, client: Any) -> None:
    with fleet.lines(4) as lines:
        assert client.chat("llama3.2", HELLO).message.content == TEXT
        pieces = list(client.chat("llama3.2", HELLO, stream=True))
        assert client.generate("llama3.2", "hello").response == TEXT
        parts = list(client.generate("llama3.2", "hello", stream=True))
    assert "".join(piece.message.content for piece in pieces) == TEXT
    assert "".join(part.response for part in parts) == TEXT
    assert (pieces[-1].done, pieces[-1].eval_count, len(pieces)) == (True, 5, 6)
    shown = [(line["outcome"], line["worker"], line["tokens_in"], line["tokens_out"]) for line in lines]
    assert shown == [("ok", "ollama", 26, 5)] * 4


def test_a_tool_is_called_whole_and_streamed(client: Any) -> None:
    whole = client.chat("llama3.2", HELLO, tools=[WEATHER_TOOL])
    streamed = list(client.chat("llama3.2", HELLO, tools=[WEATHER_TOOL], stream=True))
    for message in (whole.message, streamed[0].message):
        (call,) = message.tool_calls
        assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Oslo"})


def test_embeddings(client: Any) -> None:
    assert len(client.embed("llama3.2", ["one", "two"]).embeddings) == 2


def test_the_models_of_all_machines_are_listed(client: Any) -> None:
    names = {row.model for row in client.list().models}
    assert {"llama3.2:latest", "llama3.2:busy"} <= names
    client.chat("llama3.2", HELLO)
    assert "llama3.2:latest" in {row.model for row in client.ps().models}
    shown = client.show("llama3.2")
    assert "tools" in shown.capabilities


def test_a_stream_that_the_client_leaves_is_ended(fleet: ClientFleet, client: Any) -> None:
    left = len(fleet.ollama.closed_by_peer)
    with fleet.lines() as lines:
        stream = client.chat("llama3.2:endless", HELLO, stream=True)
        for _ in range(5):
            next(stream)
        stream.close()
        fleet.loop.run(fleet.ollama.wait_closed_by_peer(1.0, left + 1))
    assert [(line["outcome"], line["status"]) for line in lines] == [("client_gone", 499)]


def test_failures_are_told_in_words(client: Any) -> None:
    for model, status, words in [
        ("no-such-model", 404, "no-such-model"),
        ("llama3.2:busy", 503, BUSY),
    ]:
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match=words) as caught:
                list(client.chat(model, HELLO, stream=stream))
            assert caught.value.status_code == status
            assert isinstance(caught.value.error, str)


@pytest.mark.parametrize(("tag", "words"), [("breaks", CRASHED), ("dies", "the worker")])
def test_a_stream_that_breaks_off_is_an_error_and_never_a_short_answer(client: Any, tag: str, words: str) -> None:
    seen = []
    with pytest.raises(ollama.ResponseError, match=words):
        for piece in client.chat(f"llama3.2:{tag}", HELLO, stream=True):
            seen.append(piece.message.content)
    assert seen == ["one", " two"]
