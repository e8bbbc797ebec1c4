"""The pages by which clients of Ollama find out what there is: models on disk and in memory, the version.

Routes of the control plane that the public listener relays. What stands in them comes from `control.ollama_cards`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from rbeerouter.control.ollama_cards import OllamaCards

_encode = msgspec.json.Encoder().encode


def routes(cards: OllamaCards) -> list[Route]:
    """The routes over these workers."""

    async def tags(request: Request) -> Response:
        return _json({"models": await cards.tags()})

    async def running(request: Request) -> Response:
        return _json({"models": await cards.running()})

    async def version(request: Request) -> Response:
        return _json({"version": await cards.version()})

    async def alive(request: Request) -> Response:
        if not cards.any():
            return Response(_encode({"error": "no worker speaks Ollama's API"}), 404, media_type="application/json")
        return PlainTextResponse("Ollama is running")

    return [
        Route("/api/tags", tags),
        Route("/api/ps", running),
        Route("/api/version", version),
        Route("/api/alive", alive),
    ]


def _json(content: object) -> Response:
    return Response(_encode(content), media_type="application/json; charset=utf-8")
