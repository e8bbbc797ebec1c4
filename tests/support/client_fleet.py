"""A daemon in front of real engines, for the programs that people use to talk to models.

Called by tests/e2e/conftest.py once for all tests of clients: two llama.cpp servers that share the model `tiny`, and
one with `caller`, which calls tools; two of these a second time, as workers that speak nothing but OpenAI's API, with
the models `plain` and `plain-caller`; a fault worker with a model `faulty:NAME` for each of its behaviours; one that always
says with 429 or 503 that it is full (`full-429`, `full-503`); and a fake Ollama with a model `llama3.2:NAME` for each of
its own. What the daemon is asked here may block, as most clients do. It
must not import the clients themselves, because not all of them need be installed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.aio import LoopThread
from tests.support.behaviours import refusal
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_worker import BEHAVIOURS, Behaviour, FaultWorker, Request
from tests.support.llama import llama_server, need, write_tiny_gguf
from tests.support.ollama_fake import FAULTS, OllamaFake

ENGINE_KEY = "engine-key"
SOON_S = 1.0
COMMENT_S = 2
LOG_S = 5.0
POLL_S = 0.02

TOOL_ANSWER_TOKENS = 300
"""Room for one call by a model of random weights, which puts spaces wherever they may be."""
WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
        },
    },
}
ONE_TOOL_CALL: dict[str, Any] = {
    "tools": [WEATHER_TOOL], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": TOOL_ANSWER_TOKENS,
}  # fmt: skip
"""What the model `caller` answers with one call."""


@dataclass
class ClientFleet:
    router: DaemonProcess
    engines: list[str]
    faulty: FaultWorker
    ollama: OllamaFake
    loop: LoopThread
    marks: Iterator[int] = field(default_factory=itertools.count)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.router.port}"

    def busy_slots(self) -> int:
        """How many answers the engines are writing now."""
        return sum(slot["is_processing"] for url in self.engines for slot in engine_page(url, "/slots"))

    def until_busy(self, count: int, timeout_s: float = SOON_S) -> None:
        until(lambda: self.busy_slots() == count, f"{count} busy slots", timeout_s)

    @contextlib.contextmanager
    def lines(self, count: int = 1) -> Iterator[list[dict[str, Any]]]:
        """The lines of routing.log that the block causes; exactly `count`, which are there after it."""
        start = self._mark()
        found: list[dict[str, Any]] = []
        yield found
        until(lambda: len(self.router.requests()) >= start + count, f"{count} lines in the log", LOG_S)
        end = self._mark()
        found += self.router.requests()[start : end - 1]
        assert len(found) == count, found

    def _mark(self) -> int:
        """Lets a line into the log, which is written a few times a second; how many lines there are with it."""
        mark = f"mark-{next(self.marks)}"
        asked = urllib.request.Request(f"{self.url}/v1/chat/completions", b"no JSON", {"x-request-id": mark})
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(asked, timeout=5.0).close()
        until(lambda: mark in self._names(), f"{mark} in the log", LOG_S)
        return self._names().index(mark) + 1

    def _names(self) -> list[str]:
        return [line["request_id"] for line in self.router.requests()]


def until(condition: Any, what: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s} s still not {what}"
        time.sleep(POLL_S)


def engine_page(url: str, path: str) -> Any:
    asked = urllib.request.Request(url + path, headers={"authorization": f"Bearer {ENGINE_KEY}"})
    with urllib.request.urlopen(asked, timeout=5.0) as answer:
        return json.load(answer)


def too_much(request: Request) -> Behaviour:
    """It is full, for so short a time that the daemon may well try it again."""
    status = int(request.model.removeprefix("full-"))
    return refusal(status, "Slow down.", "rate_limit_error", "rate_limited", ("retry-after-ms", "50"))


@contextlib.contextmanager
def client_fleet(folder: Path) -> Iterator[ClientFleet]:
    """Start all of it in `folder`.

    Raises:
        EngineMissing: a package that the engines need is not installed.
    """
    need("xllamacpp")
    # Large enough to take seconds for an answer as long as its context, so that there is something to cancel.
    model = write_tiny_gguf(folder / "tiny.gguf", width=256, layers=8, heads=4, feed_forward=1024)
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(llama_server(model, api_key=ENGINE_KEY, embeddings=True)) for _ in range(2)]
        calling = write_tiny_gguf(folder / "caller.gguf", calls_tools=True)
        caller = stack.enter_context(llama_server(calling, alias="caller", api_key=ENGINE_KEY))
        loop = stack.enter_context(LoopThread())
        faulty = FaultWorker(models=[f"faulty:{name}" for name in BEHAVIOURS], name="faulty")
        stack.enter_context(in_thread(loop, faulty))
        ollama = OllamaFake([f"llama3.2:{tag}" for tag in ("latest", *FAULTS)])
        stack.enter_context(in_thread(loop, ollama))
        full = FaultWorker(too_much, models=["full-429", "full-503"], name="full")
        stack.enter_context(in_thread(loop, full))
        workers = [
            *({"id": f"gpu{at}", "url": url, "api_key": ENGINE_KEY} for at, url in enumerate(engines)),
            {"id": "caller", "url": caller, "api_key": ENGINE_KEY},
            *(
                {"id": name, "url": url, "api_key": ENGINE_KEY, "engine": "openai", "models": [name]}
                for name, url in (("plain", engines[0]), ("plain-caller", caller))
            ),
            {"id": "ollama", "url": ollama.url, "engine": "ollama"},
        ]
        router = stack.enter_context(in_thread(loop, daemon(folder, *workers, faulty, full, limits={"queue_s": 5, "comment_s": COMMENT_S})))
        yield ClientFleet(router, engines, faulty, ollama, loop)


@contextlib.contextmanager
def in_thread(loop: LoopThread, manager: Any) -> Iterator[Any]:
    """An async context manager, entered and left in the loop's thread."""

    async def enter() -> Any:
        return await manager.__aenter__()

    async def leave() -> None:
        await manager.__aexit__(None, None, None)

    entered = loop.run(enter())
    try:
        yield entered
    finally:
        loop.run(leave())
