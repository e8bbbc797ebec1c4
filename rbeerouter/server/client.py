"""Talking to a running daemon's control plane, for the commands that do."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from rbeerouter.config import Access, ConfigError

_TIMEOUT_S = 30
RELOAD = "/api/v1/reload"


def call(access: Access, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """One call of the control plane and its JSON answer. Raises ConfigError when no daemon answers there."""
    return asyncio.run(_call(access, method, path, body))


def verdict_text(verdict: dict[str, Any]) -> str:
    """A verdict as a person reads it."""
    if not verdict["ok"]:
        return f"rejected, nothing has changed: {verdict['error']}"
    script = verdict["active"]["script"]
    what = f"script {script['file']} ({script['hash']})" if script else "no script"
    lines = [f"reloaded: {what}, strategy {verdict['active']['strategy']}, {verdict['workers']} workers"]
    if "examined" in verdict:
        lines.append(verdict["examined"])
    return "\n".join([*lines, *verdict["notes"]])


async def _call(access: Access, method: str, path: str, body: Any) -> dict[str, Any]:
    bind, token = access.bind, access.token or access.registration_token
    over_socket = bind.startswith("unix:")
    connector = aiohttp.UnixConnector(bind.removeprefix("unix:")) if over_socket else aiohttp.TCPConnector()
    base = "http://localhost" if over_socket else f"http://{bind}"
    patient = path == RELOAD                                   # it may run tests, for as long as [routing] gate_s says
    timeout = aiohttp.ClientTimeout(total=None if patient else _TIMEOUT_S, sock_connect=_TIMEOUT_S)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, base + path, json=body, headers=headers) as answer,
        ):
            return await answer.json()
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ConfigError(f"control.bind = {bind!r}: no daemon answers there: {error}") from None
