"""A genuine llama.cpp server reads prompts as it reads its requests. Skipped where its package is not installed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.config.sections import KvEventOptions
from rbeerouter.control.sessions import Sessions
from rbeerouter.control.tokenizers import Tokenizers
from rbeerouter.routing.strategies.exact import Exact
from tests.control.test_tokenizers import asking
from tests.support.aio import run
from tests.support.builders import fleet, worker
from tests.support.llama import EngineMissing, llama_server, need, write_tiny_gguf
from tests.support.raw_client import post

SAYS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there"}]


def test_llamacpp_counts_as_many_tokens_as_were_read(tmp_path: Path) -> None:
    try:
        need("xllamacpp")
    except EngineMissing as missing:
        pytest.skip(str(missing))
    with llama_server(write_tiny_gguf(tmp_path / "tiny.gguf"), alias="tiny") as url:
        run(compare(url))


async def compare(url: str) -> None:
    sessions = Sessions()
    made = fleet(worker("w", url=url, engine="llamacpp", models=("tiny",)))
    reader = Tokenizers(
        lambda asked: made.ordered, Exact(), KvEventOptions(tokenizer_s=5.0), sessions, time.monotonic, lambda asked: True
    )
    for path, said in (("/v1/chat/completions", {"messages": SAYS}), ("/v1/completions", {"prompt": "hello there"})):
        body: dict[str, Any] = {"model": "tiny", "max_tokens": 1, **said}
        answer = await post(int(url.rpartition(":")[2]), path, body)
        tokens = await reader.tokens_of(asking(path=path, model="tiny"), json.dumps(body).encode())
        assert tokens is not None, path
        assert len(tokens) == answer.json()["usage"]["prompt_tokens"], path
    await sessions.close()
