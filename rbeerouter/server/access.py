"""Who may use the control plane: the tokens of [control] and [registration], and what each opens.

`server.app` puts `Access` before its pages. Without `[control] token` the address that the control plane is bound to is
the only lock, and everything passes here.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rbeerouter.wire.relay import PUBLIC_PATHS, relayed

if TYPE_CHECKING:
    from rbeerouter.config.sections import Config

_MEMBERS = re.compile(r"(GET|POST) /api/v1/workers|POST /api/v1/workers/[^/]+/heartbeat|DELETE /api/v1/workers/[^/]+")
"""What the token of registration opens: what an agent needs, and the list for those that follow this daemon."""
_REFUSAL = b'{"ok":false,"error":"needs the header Authorization: Bearer TOKEN"}\n'

Headers = Iterable[tuple[bytes, bytes]]


class Access:
    """Refuses requests without the token that their page needs; all refusals are alike."""

    def __init__(self, app: ASGIApp, config: Callable[[], Config]) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._may(scope):
            await self._app(scope, receive, send)
        else:
            await refuse(send)

    def _may(self, scope: Scope) -> bool:
        config = self._config()
        if config.control.token is None or _is_public(scope["path"]):
            return True
        if carries(scope["headers"], config.control.token):
            return True
        token = config.registration.token
        wanted = f"{scope['method']} {scope['path']}"
        return token is not None and _MEMBERS.fullmatch(wanted) is not None and carries(scope["headers"], token)


def _is_public(path: str) -> bool:
    """Does the public listener show this page to everybody anyway?"""
    return relayed(path.encode()) is not None or path.encode() in PUBLIC_PATHS.values()


def carries(headers: Headers, *tokens: str | None) -> bool:
    """Is one of these tokens the request's? Each is compared in a time that does not depend on how much is right. Of
    two headers, a proxy in front may have judged the other one: neither counts."""
    found = [value for name, value in headers if name == b"authorization"]
    given = found[0] if len(found) == 1 else b""
    scheme, _, credentials = given.partition(b" ")
    candidate = credentials.strip() if scheme.lower() == b"bearer" else b""
    return any(hmac.compare_digest(candidate, token.encode()) for token in tokens if token)


async def refuse(send: Send) -> None:
    """401, the same whatever was wrong."""
    head: Message = {
        "type": "http.response.start", "status": 401,
        "headers": [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")],
    }  # fmt: skip
    await send(head)
    await send({"type": "http.response.body", "body": _REFUSAL})
