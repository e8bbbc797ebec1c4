"""What all pages of the control plane have in common: JSON out, bodies of a sensible size in, no web pages.

Used by `server.app` and `server.registration`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from rbeerouter.core.errors import RouterError

_encode = msgspec.json.Encoder().encode
_MOST_BODY_BYTES = 1 << 20


class Json(Response):
    """A JSON answer, encoded as the rest of the program encodes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _encode(content) + b"\n"


def not_for_web_pages(request: Request) -> Json | None:
    """The refusal of a request that a page in a browser made, else None."""
    return Json({"ok": False, "error": "not for web pages"}, 403) if "origin" in request.headers else None


async def read_body(request: Request) -> bytes:
    """A body of a sensible size. Raises RouterError."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > _MOST_BODY_BYTES:
            raise RouterError("request_too_large", f"the body is larger than {_MOST_BODY_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)
