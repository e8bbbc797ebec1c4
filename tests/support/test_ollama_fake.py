"""Tests that Ollama's own client takes the fake for an Ollama.

Run by pytest; skipped where the client (the extra `clients`) is not installed. It must not involve the daemon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.aio import LoopThread
from tests.support.client_fleet import WEATHER_TOOL, in_thread
from tests.support.ollama_fake import BUSY, CRASHED, TEXT, OllamaFake

ollama: Any = pytest.importorskip("ollama", reason="`scripts/install test` brings ollama")

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(name="client")
def make_client() -> Iterator[Any]:
    models = ["llama3.2:latest", "llama3.2:busy", "llama3.2:breaks"]
    with LoopThread() as loop, in_thread(loop, OllamaFake(models)) as fake:
        client = ollama.Client(host=fake.url)
        yield client
        client.close()


def test_the_client_understands_all_that_it_answers(client: Any) -> None:
    assert [row.model for row in client.list().models] == ["llama3.2:latest", "llama3.2:busy", "llama3.2:breaks"]
    assert list(client.ps().models) == []
    assert client.chat("llama3.2", HELLO).message.content == TEXT
    assert [(row.model, row.context_length) for row in client.ps().models] == [("llama3.2:latest", 4096)]
    pieces = list(client.chat("llama3.2", HELLO, stream=True))
    assert "".join(piece.message.content for piece in pieces) == TEXT
    assert (pieces[-1].done, pieces[-1].done_reason, pieces[-1].eval_count) == (True, "stop", 5)
    assert client.generate("llama3.2", "hello").response == TEXT
    assert "".join(piece.response for piece in client.generate("llama3.2", "hello", stream=True)) == TEXT
    (call,) = client.chat("llama3.2", HELLO, tools=[WEATHER_TOOL]).message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", {"city": "Oslo"})
    assert len(client.embed("llama3.2", ["one", "two"]).embeddings) == 2
    assert client.show("llama3.2").capabilities == ["completion", "tools"]


def test_the_client_understands_its_errors(client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as missing:
        client.chat("nope", HELLO)
    with pytest.raises(ollama.ResponseError) as busy:
        client.chat("llama3.2:busy", HELLO)
    assert (missing.value.status_code, busy.value.status_code, busy.value.error) == (404, 503, BUSY)
    seen = []
    with pytest.raises(ollama.ResponseError) as broken:
        for piece in client.chat("llama3.2:breaks", HELLO, stream=True):
            seen.append(piece.message.content)
    assert (seen, broken.value.error) == (["one", " two"], CRASHED)
