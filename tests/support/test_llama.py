"""Tests of the real engine: that it starts, answers the official client, ends, and says what it misses.

Run by pytest; what needs the engine is skipped where its package is not installed. It must not involve the daemon.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.support.llama import EngineMissing, llama_server, need, write_tiny_gguf


@pytest.fixture(name="model")
def write_model(tmp_path: Path) -> Path:
    try:
        need("xllamacpp")
        return write_tiny_gguf(tmp_path / "tiny.gguf")
    except EngineMissing as missing:
        pytest.skip(str(missing))


def test_it_streams_to_the_official_client(model: Path) -> None:
    with (
        llama_server(model, alias="tiny-llama", api_key="secret") as url,
        OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0) as client,
    ):
        ask: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
        chunks = list(client.chat.completions.create(model="tiny-llama", **ask, stream=True))
        assert [card.id for card in client.models.list()] == ["tiny-llama"]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.isprintable()
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def test_it_ends_with_its_block_also_when_the_test_fails(model: Path) -> None:
    with pytest.raises(ZeroDivisionError), llama_server(model) as url:
        raise ZeroDivisionError
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"{url}/health", timeout=1)


def test_an_engine_that_does_not_start_says_why(model: Path) -> None:
    model.write_bytes(b"this is not a model")
    with (
        pytest.raises(RuntimeError, match=r"the llama server ended with code 1; its last words:\n"),
        llama_server(model),
    ):
        pass


def test_the_same_seed_writes_the_same_model(model: Path, tmp_path: Path) -> None:
    again = write_tiny_gguf(tmp_path / "again.gguf")
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=1)
    assert model.read_bytes() == again.read_bytes() != other.read_bytes()


def test_a_missing_engine_is_named() -> None:
    with pytest.raises(EngineMissing, match="'no_such_engine' cannot be imported"):
        need("no_such_engine")
