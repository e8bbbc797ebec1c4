"""What all pages of the control plane have in common: JSON out, bodies of a sensible size in, no web pages, who asks.

Used by `server.app` and the modules that add pages to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbeerouter import tasks
from rbeerouter.core.errors import RouterError

_encode = msgspec.json.Encoder().encode
_MOST_BODY_BYTES = 1 << 20
WHO_HEADER = "x-rbee-who"
"""Who the person says that they are: the commands send user@host."""
_MOST_WHO = 100
_Asked = TypeVar("_Asked", bound=msgspec.Struct)


class Json(Response):
    """A JSON answer, encoded as the rest of the program encodes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _encode(content) + b"\n"


def verdict_answer(verdict: dict[str, Any]) -> Json:
    """What became of a reload."""
    return Json(verdict, 200 if verdict["ok"] else 422)


def not_for_web_pages(request: Request) -> Json | None:
    """The refusal of a request that a page in a browser made, else None."""
    return Json({"ok": False, "error": "not for web pages"}, 403) if "origin" in request.headers else None


def who_asks(request: Request) -> str:
    """Who asks, as far as they say so: a note for colleagues, not a proof. Only the token proves something, and it is
    one for all who may."""
    said = "".join(char for char in request.headers.get(WHO_HEADER, "") if char.isprintable()).strip()[:_MOST_WHO]
    return said or ("holder of the token" if "authorization" in request.headers else "control plane")


def reloading(
    kind: type[_Asked], act: Callable[[_Asked, str], Coroutine[Any, Any, dict[str, Any]]]
) -> Callable[[Request], Awaitable[Json]]:
    """The page of a POST that ends in a reload: `act` gets the body and who asks, and gives the verdict."""
    decode = msgspec.json.Decoder(kind).decode

    async def answer(request: Request) -> Json:
        refused = not_for_web_pages(request)
        if refused is not None:
            return refused
        try:
            asked = decode(await read_body(request) or b"{}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Json({"ok": False, "error": f"the body: {error}"}, 422)
        except RouterError as error:
            return Json({"ok": False, "error": error.message}, error.failure.status)
        # To its end, also when whoever asked has left: half of it would be a file that nobody has loaded.
        return verdict_answer(await asyncio.shield(tasks.start("reload", act(asked, who_asks(request)))))

    return answer


async def read_body(request: Request) -> bytes:
    """A body of a sensible size. Raises RouterError."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_BODY_BYTES:
            raise RouterError("request_too_large", f"the body is larger than {_MOST_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
