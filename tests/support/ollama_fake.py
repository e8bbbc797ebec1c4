"""A worker that speaks Ollama's own API as its documentation has it, because no Ollama can be had from a registry.

Called by tests in their own event loop: `async with OllamaFake() as ollama`. No model runs behind it: it answers five
words, a call of the first tool it is offered, or vectors. The tag of a model picks a fault, as in `llama3.2:busy`; the
table FAULTS has them. Source of the shapes: Ollama's docs/api.md, api/types.go and server/routes.go, and what its
Python client reads. It must not do anything that Ollama does not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from tests.support.behaviours import CHUNKED, LAST_CHUNK, Behaviour, chunk, head, whole
from tests.support.fault_worker import Connection, FaultWorker, Request

NDJSON = ("content-type", "application/x-ndjson")
PIECES = ("one", " two", " three", " four", " five")
TEXT = "".join(PIECES)
CREATED_AT = "2026-11-21T07:12:24.341507Z"
DIGEST = "a80c4f17acd55265feec403c7aef86be0c25983ab279d83f3bcd3abbcb5b8b72"
DETAILS = {
    "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "3.2B",
    "quantization_level": "Q4_K_M",
}  # fmt: skip
SIZE_BYTES = 2_019_393_189
COUNTS = {
    "total_duration": 4_883_583_458, "load_duration": 1_334_875, "prompt_eval_count": 26,
    "prompt_eval_duration": 342_546_000, "eval_count": len(PIECES), "eval_duration": 4_535_599_000,
}  # fmt: skip
DURATIONS = {name: COUNTS[name] for name in ("total_duration", "load_duration", "prompt_eval_count")}
BUSY = "server busy, please try again.  maximum pending requests exceeded"
CRASHED = "llama runner process has terminated: exit status 2"

FAULTS: dict[str, str] = {
    "busy": "503, its queue is full",
    "breaks": "an error in a line of its own after two pieces, under status 200",
    "dies": "the connection ends after two pieces",
    "endless": "pieces until the client leaves",
    "quiet": "nothing for `delay_s`, as while it loads a model, and then an answer",
}


class OllamaFake(FaultWorker):
    """`models` are those on its disk; one that is asked something is in memory from then on, for /api/ps."""

    def __init__(self, models: Iterable[str] = ("llama3.2:latest",), *, name: str = "ollama") -> None:
        super().__init__(models=models, name=name)
        self.loaded: list[str] = []

    def _pick(self, request: Request) -> tuple[Behaviour, str]:
        answer = PATHS.get(request.path.partition("?")[0])
        if answer is None:
            return super()._pick(request)
        return answer, answer.__name__

    def _page(self, path: str) -> bytes:
        if path == "/":
            text = b"Ollama is running"
            return head(200, ("content-type", "text/plain"), ("content-length", str(len(text)))) + text
        if path == "/api/version":
            return whole(200, {"version": "0.12.9"})
        if path == "/api/tags":
            return whole(200, {"models": [on_disk(model) for model in self.models]})
        if path == "/api/ps":
            return whole(200, {"models": [in_memory(model) for model in self.loaded]})
        if path in ("/health", "/metrics", "/slots", "/props"):
            return whole(404, {"error": "404 page not found"})
        return super()._page(path)

    def find(self, model: str) -> str | None:
        """The full name of a model; without a tag it is `latest`."""
        full = model if ":" in model else f"{model}:latest"
        return full if full in self.models else None


def on_disk(model: str) -> dict[str, Any]:
    return {
        "name": model, "model": model, "modified_at": CREATED_AT, "size": SIZE_BYTES, "digest": DIGEST,
        "details": DETAILS,
    }  # fmt: skip


def in_memory(model: str) -> dict[str, Any]:
    return {
        "name": model, "model": model, "size": SIZE_BYTES, "digest": DIGEST, "details": DETAILS,
        "expires_at": "2318-06-04T14:38:31.83753-07:00", "size_vram": SIZE_BYTES, "context_length": 4096,
    }  # fmt: skip


Answer = Callable[[Connection, Request, dict[str, Any], str], Awaitable[None]]


def path_of_a_model(answer: Answer) -> Behaviour:
    """What all paths have in common: the body, and a model that must be there."""

    async def checked(connection: Connection, request: Request) -> None:
        ollama = connection.worker
        assert isinstance(ollama, OllamaFake)
        body = request.json()
        model = ollama.find(body.get("model", ""))
        if model is None:
            await connection.write(whole(404, {"error": f"model '{body.get('model', '')}' not found"}))
            return
        if request.path != "/api/show":
            if model.endswith(":busy"):
                await connection.write(whole(503, {"error": BUSY}))
                return
            if model.endswith(":quiet"):
                await asyncio.sleep(ollama.delay_s)
            if model not in ollama.loaded:
                ollama.loaded.append(model)
        await answer(connection, request, body, model)

    checked.__name__ = answer.__name__
    return checked


async def chat(connection: Connection, request: Request, body: dict[str, Any], model: str) -> None:
    if not body.get("messages"):
        unload = body.get("keep_alive") == 0
        message = {"role": "assistant", "content": ""}
        reason = "unload" if unload else "load"
        await connection.write(whole(200, {**envelope(body), "message": message, "done_reason": reason, "done": True}))
        return

    def said(**fields: Any) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": "", **fields}}

    if body.get("tools"):
        await send(connection, body, model, [said(tool_calls=[called(body["tools"][0]["function"])])], said())
    else:
        await send(connection, body, model, [said(content=piece) for piece in PIECES], said(), said(content=TEXT))


async def generate(connection: Connection, request: Request, body: dict[str, Any], model: str) -> None:
    pieces = [{"response": piece} for piece in PIECES]
    await send(connection, body, model, pieces, {"response": "", "context": [1, 2, 3]}, {"response": TEXT})


async def send(
    connection: Connection, body: dict[str, Any], model: str, pieces: list[dict[str, Any]], last: dict[str, Any],
    text: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """A stream of lines, unless the body says `"stream": false`: then one object."""
    ending = {"done_reason": "stop", "done": True, **COUNTS}
    if body.get("stream") is False:
        await connection.write(whole(200, {**envelope(body), **last, **(text or pieces[0]), **ending}))
        return
    lines = [line({**envelope(body), **piece, "done": False}) for piece in pieces]
    await connection.write(head(200, NDJSON, CHUNKED))
    if model.endswith(":endless"):
        while True:
            await connection.write(chunk(lines[0]))
            await asyncio.sleep(0.01)
    if model.endswith((":breaks", ":dies")):
        for piece in lines[:2]:
            await connection.write(chunk(piece))
        if model.endswith(":dies"):
            connection.close()
        else:
            await connection.write(chunk(line({"error": CRASHED})) + LAST_CHUNK)
        return
    for piece in [*lines, line({**envelope(body), **last, **ending})]:
        await connection.write(chunk(piece))
    await connection.write(LAST_CHUNK)


def envelope(body: dict[str, Any]) -> dict[str, Any]:
    return {"model": body["model"], "created_at": CREATED_AT}


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def called(function: dict[str, Any]) -> dict[str, Any]:
    """A call of a tool: for each parameter the first value that it may have. Arguments are an object, not a text."""
    properties = function.get("parameters", {}).get("properties", {})
    arguments = {name: rule.get("enum", ["something"])[0] for name, rule in properties.items()}
    return {"function": {"index": 0, "name": function["name"], "arguments": arguments}}


async def embed(connection: Connection, request: Request, body: dict[str, Any], model: str) -> None:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vectors = [[0.1, 0.2, 0.3] for _ in texts]
    await connection.write(whole(200, {"model": body["model"], "embeddings": vectors, **DURATIONS}))


async def embeddings(connection: Connection, request: Request, body: dict[str, Any], model: str) -> None:
    await connection.write(whole(200, {"embedding": [0.1, 0.2, 0.3]}))


async def show(connection: Connection, request: Request, body: dict[str, Any], model: str) -> None:
    described = {
        "modelfile": f"FROM {model}", "parameters": 'stop "<|eot_id|>"', "template": "{{ .Prompt }}",
        "details": DETAILS, "model_info": {"general.architecture": "llama", "llama.context_length": 131_072},
        "capabilities": ["completion", "tools"], "modified_at": CREATED_AT,
    }  # fmt: skip
    await connection.write(whole(200, described))


PATHS: dict[str, Behaviour] = {
    f"/api/{answer.__name__}": path_of_a_model(answer) for answer in (chat, generate, embed, embeddings, show)
}
