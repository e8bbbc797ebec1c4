"""A pretended Ollama's pages, over a real connection: what it tells may be changed at any time.

Called by tests of the pages that tell clients of Ollama what there is. It answers no prompts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

DETAILS = {"format": "gguf", "family": "llama", "parameter_size": "8B", "quantization_level": "Q4_0"}


def card(name: str, changed: str = "2026-05-04T10:00:00Z", **fields: Any) -> dict[str, Any]:
    """A model as /api/tags tells of it."""
    return {"name": name, "model": name, "modified_at": changed, "size": 5, "digest": "d1", "details": DETAILS, **fields}


class Machine:
    """Pages by path; None answers 500."""

    def __init__(self, *cards: dict[str, Any], ps: tuple[dict[str, Any], ...] = (), version: str = "0.12.0") -> None:
        self.pages: dict[str, Any] = {
            "/api/tags": {"models": list(cards)}, "/api/ps": {"models": list(ps)}, "/api/version": {"version": version},
        }  # fmt: skip
        self.asked: list[str] = []
        self.keys: set[str | None] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its URL."""
        application = web.Application()
        application.router.add_get("/api/{page}", self._answer)
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.keys.add(request.headers.get("authorization"))
        page = self.pages[request.path]
        return web.Response(status=500) if page is None else web.json_response(page)
