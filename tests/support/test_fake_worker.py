"""Tests of the demo's pretend GPU server, run as a process of its own as its users run it.

Run by pytest. It must not involve the daemon.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from openai import OpenAI

from tests.support.aio import run
from tests.support.llama import REPOSITORY
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import post

CHAT = "/v1/chat/completions"
PROMPT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}]}
STREAMED = {**PROMPT, "stream": True}
ONE_TOKEN = {**PROMPT, "max_tokens": 1}


@contextmanager
def fake_worker(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and the port that its first line names."""
    command = [sys.executable, "-m", "rbeerouter.demo.fake_worker", "--port", "0", *arguments]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        first_line = process.stdout.readline()
        assert first_line.startswith("listening http://127.0.0.1:"), first_line
        yield process, int(first_line.rpartition(":")[2])
    finally:
        process.kill()
        process.communicate()


def test_it_answers_every_surface_to_the_official_client() -> None:
    models = ["--model", "small", "--model", "large"]
    with (
        fake_worker("--name", "gpu1", *models, "--speed", "2000", "--ttft-ms", "1") as (_, port),
        OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
    ):
        ask: dict[str, Any] = {"model": "large", "messages": [{"role": "user", "content": "one two three"}]}
        whole = client.chat.completions.create(**ask)
        chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
        short = client.completions.create(model="small", prompt="hello", max_tokens=3)
        vectors = client.embeddings.create(model="small", input=["a", "b", "a"]).data
        images = client.images.generate(model="small", prompt="a bee").data
        assert [model.id for model in client.models.list()] == ["small", "large"]
    text = whole.choices[0].message.content
    assert text is not None
    assert text.startswith("This is gpu1 with large. Your prompt had 3 words. ")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
    assert whole.usage == chunks[-1].usage
    assert (short.choices[0].text, short.choices[0].finish_reason) == ("This is gpu1", "length")
    assert vectors[0].embedding == vectors[2].embedding != vectors[1].embedding
    assert images is not None
    assert (images[0].b64_json or "").startswith("iVBOR")


def test_refusals_have_the_shape_of_the_api() -> None:
    async def story(port: int) -> None:
        unknown = await post(port, CHAT, {**PROMPT, "model": "other"})
        broken = await post(port, CHAT, b"{")
        empty = await post(port, CHAT, {"model": "tiny", "messages": []})
        seen = [(answer.status, answer.json()["error"]["code"]) for answer in (unknown, broken, empty)]
        assert seen == [(404, "model_not_found"), (400, "invalid_json"), (400, "missing_messages")]

    with fake_worker("--model", "tiny") as (_, port):
        run(story(port))


def test_tokens_come_at_the_speed_that_was_asked_for() -> None:
    async def story(port: int) -> None:
        async with Client(port) as client:
            times = [event.when async for event in client.stream(CHAT, {**STREAMED, "max_tokens": 11}) if event.content]
            assert 0.18 < times[-1] - times[0] < 0.4

    with fake_worker("--model", "tiny", "--speed", "50", "--ttft-ms", "1") as (_, port):
        run(story(port))


def test_the_slot_of_a_client_that_left_goes_to_the_next() -> None:
    async def story(port: int) -> None:
        async with Client(port) as streaming, Client(port) as waiting:
            async for event in streaming.stream(CHAT, STREAMED):
                if event.content:
                    break
            waiting.send_request("POST", CHAT, PROMPT)
            with pytest.raises(TimeoutError):
                await post(port, CHAT, ONE_TOKEN, timeout_s=0.1)
            streaming.abort()
            await waiting.close()
            assert (await post(port, CHAT, ONE_TOKEN, timeout_s=2)).complete

    with fake_worker("--model", "tiny", "--slots", "1", "--speed", "10", "--ttft-ms", "1") as (_, port):
        run(story(port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_quietly_in_the_middle_of_a_stream(number: signal.Signals) -> None:
    async def story(process: subprocess.Popen[str], port: int) -> None:
        async with Client(port) as idle, Client(port) as busy:
            await idle.get("/health")
            async for event in busy.stream(CHAT, STREAMED):
                if event.content == "This":
                    process.send_signal(number)
            assert busy.answer is not None
            assert not busy.answer.complete

    with fake_worker("--model", "tiny", "--speed", "10") as (process, port):
        run(story(process, port))
        assert process.stdout is not None
        assert (process.wait(3), process.stdout.read()) == (0, "")
