"""Talking to a running daemon's control plane, for the commands that do."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from rbeerouter.config import ConfigError

_TIMEOUT_S = 30


def reload(bind: str) -> dict[str, Any]:
    """Asks for a reload and returns the verdict. Raises ConfigError when no daemon answers at `bind`."""
    return asyncio.run(_post(bind, "/api/v1/reload"))


def verdict_text(verdict: dict[str, Any]) -> str:
    """A verdict as a person reads it."""
    if not verdict["ok"]:
        return f"rejected, nothing has changed: {verdict['error']}"
    script = verdict["active"]["script"]
    what = f"script {script['file']} ({script['hash']})" if script else "no script"
    lines = [f"reloaded: {what}, strategy {verdict['active']['strategy']}, {verdict['workers']} workers"]
    return "\n".join([*lines, *verdict["notes"]])


async def _post(bind: str, path: str) -> dict[str, Any]:
    over_socket = bind.startswith("unix:")
    connector = aiohttp.UnixConnector(bind.removeprefix("unix:")) if over_socket else aiohttp.TCPConnector()
    base = "http://localhost" if over_socket else f"http://{bind}"
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post(base + path) as answer,
        ):
            return await answer.json()
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ConfigError(f"control.bind = {bind!r}: no daemon answers there: {error}") from None
