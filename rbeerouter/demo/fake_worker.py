"""A pretend GPU server that speaks the OpenAI API, so that routing can be watched without a GPU.

Called as `python -m rbeerouter.demo.fake_worker --port 9001 --name gpu1 --model llama-3-8b --speed 60 --slots 4`, by
people and by the demo scripts. The first line on stdout is `listening http://127.0.0.1:PORT`, also with `--port 0`.
It must not log requests, must not misbehave on purpose (scripts/faulting/worker.py does that) and must not import
anything else of rbeerouter.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import math
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Send

Json = dict[str, Any]

ONE_PIXEL_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
EMBEDDING_LENGTH = 8
CLOSING_WORDS = (
    "I am a pretend model: I read nothing, I know nothing, and every answer of mine ends with these same words. "
    "What you can watch is how fast they come, which worker sends them, and what happens when one of us stops."
)
STOP_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says about this worker."""

    name: str
    models: tuple[str, ...]
    tokens_per_s: float
    ttft_ms: float
    slots: int

    def due_after_s(self, token_number: int) -> float:
        """Seconds from the start of an answer until its token of that number (from 0) is due."""
        return self.ttft_ms / 1000 + token_number / self.tokens_per_s


class Refusal(Exception):
    """A request that gets an OpenAI-shaped error instead of an answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True, slots=True)
class Answer:
    """One text answer: what it says and how each of the two text surfaces spells it."""

    settings: Settings
    model: str
    is_chat: bool
    tokens: tuple[str, ...]
    prompt_words: int
    finish_reason: str
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> Json:
        written = len(self.tokens)
        return {
            "prompt_tokens": self.prompt_words,
            "completion_tokens": written,
            "total_tokens": self.prompt_words + written,
        }

    def envelope(self, choices: list[Json], *, streamed: bool) -> Json:
        identity = hashlib.sha256(f"{self.settings.name} {self.model} {time.time_ns()}".encode()).hexdigest()[:24]
        kind = "chat.completion" if self.is_chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.is_chat else 'cmpl'}-{identity}",
            "object": f"{kind}.chunk" if streamed and self.is_chat else kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.settings.name,
            "choices": choices,
        }

    def whole(self) -> Json:
        text = "".join(self.tokens)
        said: Json = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self.envelope([choice], streamed=False), "usage": self.usage}

    def piece(self, text: str, *, role: bool = False, finish_reason: str | None = None) -> Json:
        """The choice of one streamed event."""
        said: Json
        if not self.is_chat:
            said = {"text": text}
        elif finish_reason is not None:
            said = {"delta": {}}
        else:
            said = {"delta": {"role": "assistant", "content": text} if role else {"content": text}}
        return {"index": 0, **said, "logprobs": None, "finish_reason": finish_reason}

    async def events(self, *, include_usage: bool) -> AsyncIterator[bytes]:
        """The server-sent events of a streamed answer, each when it is due."""
        envelope = self.envelope([], streamed=True)
        started = time.monotonic()
        for number, token in enumerate(self.tokens):
            await asyncio.sleep(started + self.settings.due_after_s(number) - time.monotonic())
            if number == 0 and self.is_chat:
                yield as_event({**envelope, "choices": [self.piece("", role=True)]})
            yield as_event({**envelope, "choices": [self.piece(token)]})
        yield as_event({**envelope, "choices": [self.piece("", finish_reason=self.finish_reason)]})
        if include_usage:
            yield as_event({**envelope, "choices": [], "usage": self.usage})
        yield b"data: [DONE]\n\n"


class SlottedStream(StreamingResponse):
    """An event stream that holds a slot from its head to its last byte, and gives it back when the client leaves."""

    def __init__(self, slots: asyncio.Semaphore, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._slots = slots

    async def stream_response(self, send: Send) -> None:
        # Starlette cancels this coroutine when the client leaves, so the slot cannot stay taken.
        async with self._slots:
            await super().stream_response(send)


class Worker:
    """The endpoints of one pretend GPU server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._slots = asyncio.Semaphore(settings.slots)
        self._started_at = int(time.time())

    def app(self) -> Starlette:
        routes = [
            Route("/health", self.health, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/chat/completions", self.chat_completions, methods=["POST"]),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/embeddings", self.embeddings, methods=["POST"]),
            Route("/v1/images/generations", self.images, methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={Refusal: answer_refusal})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        cards = [
            {"id": model, "object": "model", "created": self._started_at, "owned_by": "rbeerouter-demo"}
            for model in self.settings.models
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def chat_completions(self, request: Request) -> Response:
        body = await self.read_body(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refusal(400, "missing_messages", "'messages' must be a list with at least one message.")
        said = [message.get("content") for message in messages if isinstance(message, dict)]
        return await self.answer_text(request, body, count_words(said), is_chat=True)

    async def completions(self, request: Request) -> Response:
        body = await self.read_body(request)
        return await self.answer_text(request, body, count_words(body.get("prompt", "")), is_chat=False)

    async def answer_text(self, request: Request, body: Json, prompt_words: int, *, is_chat: bool) -> Response:
        tokens = self.compose(body["model"], prompt_words)
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        kept = tokens[:limit] if isinstance(limit, int) and limit > 0 else tokens
        reason = "stop" if len(kept) == len(tokens) else "length"
        answer = Answer(self.settings, body["model"], is_chat, kept, prompt_words, reason)
        if body.get("stream") is True:
            options = body.get("stream_options")
            include_usage = isinstance(options, dict) and options.get("include_usage") is True
            return SlottedStream(self._slots, answer.events(include_usage=include_usage))
        return await self.answer_json(request, answer.whole(), self.settings.due_after_s(len(kept)))

    async def embeddings(self, request: Request) -> Response:
        body = await self.read_body(request)
        given = body.get("input", "")
        texts = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
        as_base64 = body.get("encoding_format") == "base64"
        rows = [
            {"object": "embedding", "index": index, "embedding": embed(str(text), as_base64=as_base64)}
            for index, text in enumerate(texts)
        ]
        words = count_words(given)
        usage = {"prompt_tokens": words, "total_tokens": words}
        payload = {"object": "list", "model": body["model"], "data": rows, "usage": usage}
        return await self.answer_json(request, payload, self.settings.due_after_s(0))

    async def images(self, request: Request) -> Response:
        body = await self.read_body(request)
        wanted = body.get("n")
        count = wanted if isinstance(wanted, int) and 1 <= wanted <= 10 else 1
        payload = {"created": int(time.time()), "data": [{"b64_json": ONE_PIXEL_PNG} for _ in range(count)]}
        return await self.answer_json(request, payload, self.settings.due_after_s(0))

    async def read_body(self, request: Request) -> Json:
        """The request's JSON object, whose `model` is one that this worker serves."""
        try:
            body = await request.json()
        except ValueError:
            raise Refusal(400, "invalid_json", "The request body is not JSON.") from None
        if not isinstance(body, dict):
            raise Refusal(400, "invalid_json", "The request body must be a JSON object.")
        if body.get("model") not in self.settings.models:
            served = ", ".join(self.settings.models)
            message = f"The model {body.get('model')!r} does not exist on {self.settings.name}, which serves: {served}."
            raise Refusal(404, "model_not_found", message)
        return body

    def compose(self, model: str, prompt_words: int) -> tuple[str, ...]:
        """The answer's tokens: words, each but the first with the space before it."""
        plural = "" if prompt_words == 1 else "s"
        greeting = f"This is {self.settings.name} with {model}. Your prompt had {prompt_words} word{plural}."
        first, *others = f"{greeting} {CLOSING_WORDS}".split()
        return (first, *(f" {word}" for word in others))

    async def answer_json(self, request: Request, payload: Json, takes_s: float) -> Response:
        async def hold_slot() -> None:
            async with self._slots:
                await asyncio.sleep(takes_s)

        await until_client_leaves(request, hold_slot())
        return JSONResponse(payload)


async def until_client_leaves(request: Request, work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, and drop it when the client disconnects: a plain handler is not told of that by itself."""

    async def client_left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(client_left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        leaving.cancel()


async def answer_refusal(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    error = {"message": str(refusal), "type": "invalid_request_error", "param": None, "code": refusal.code}
    return JSONResponse({"error": error}, status_code=refusal.status)


def as_event(payload: Json) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"


def count_words(prompt: object) -> int:
    """The words in any of the shapes a prompt comes in: text, token numbers, lists of them, content parts."""
    if isinstance(prompt, str):
        return len(prompt.split())
    if isinstance(prompt, list):
        return sum(count_words(part) for part in prompt)
    if isinstance(prompt, dict):
        return count_words(prompt.get("text", ""))
    return 1 if isinstance(prompt, int) else 0


def embed(text: str, *, as_base64: bool) -> list[float] | str:
    """A unit vector that depends on the text alone; base64 is what the official client asks for by default."""
    digest = hashlib.sha256(text.encode()).digest()
    raw = [(byte - 127.5) / 127.5 for byte in digest[:EMBEDDING_LENGTH]]
    length = math.sqrt(sum(value * value for value in raw))
    vector = [value / length for value in raw]
    return base64.b64encode(struct.pack(f"<{EMBEDDING_LENGTH}f", *vector)).decode() if as_base64 else vector


def listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    return listener


async def run(settings: Settings, port: int) -> None:
    """Serve until SIGTERM or SIGINT; answers still being written then are cut."""
    listener = listen(port)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    config.graceful_timeout = STOP_GRACE_S / 2
    print(f"listening {address}", flush=True)
    serving = asyncio.ensure_future(serve(Worker(settings).app(), config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    # Cutting connections makes asyncio complain about each on stderr, which nobody who pressed Ctrl-C wants to read.
    loop.set_exception_handler(lambda _loop, _context: None)
    # Hypercorn 0.18 ignores graceful_timeout from Python 3.12 on, so the end is bounded here as well.
    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
        await asyncio.wait_for(serving, STOP_GRACE_S)
    stopping.cancel()


def parse(arguments: Sequence[str] | None = None) -> tuple[Settings, int]:
    parser = argparse.ArgumentParser(prog="python -m rbeerouter.demo.fake_worker", description="A pretend GPU server.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one (default)")
    parser.add_argument("--name", default="fake", help="what the worker calls itself in its answers")
    parser.add_argument("--model", action="append", metavar="MODEL", help="a model to serve; may be repeated")
    parser.add_argument("--speed", type=float, default=60.0, help="tokens per second of each answer (default 60)")
    parser.add_argument("--ttft-ms", type=float, default=80.0, help="milliseconds to the first token (default 80)")
    parser.add_argument("--slots", type=int, default=4, help="answers written at once; others wait (default 4)")
    given = parser.parse_args(arguments)
    if given.speed <= 0 or given.slots < 1 or given.ttft_ms < 0:
        parser.error("--speed must be above 0, --slots at least 1 and --ttft-ms not negative")
    models = tuple(given.model or ("llama-3-8b",))
    return Settings(given.name, models, given.speed, given.ttft_ms, given.slots), given.port


def main() -> None:
    settings, port = parse()
    try:
        asyncio.run(run(settings, port))
    except OSError as error:
        sys.exit(f"fake_worker: cannot serve on port {port}: {error}")


if __name__ == "__main__":
    main()
