"""Serves the control plane's application with Hypercorn, HTTP/1.1 only, inside the daemon's loop.

`server.daemon` opens it before the public listener and closes it last. The daemon owns the signals; Hypercorn installs
none of its own because it is given something to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import hypercorn.protocol.h11

from rbeerouter import tasks
from rbeerouter.config.sections import ConfigError
from rbeerouter.wire.relay import Asgi

_STOP_S = 1.0


async def _only_http_1_1(self: Any, event: Any) -> None:
    """Hypercorn 0.18 turns any plaintext connection into HTTP/2 when asked to, and no setting turns that off."""


hypercorn.protocol.h11.H11Protocol._check_protocol = _only_http_1_1  # type: ignore[method-assign]


class ControlPlane:
    """An application on an address.

    Args:
        bind: HOST:PORT or unix:PATH; a socket file is made for its user alone.

    Raises:
        ConfigError: the address cannot be had.
    """

    def __init__(self, app: Asgi, bind: str) -> None:
        settings = hypercorn.config.Config()
        settings.bind = [bind]
        settings.umask = 0o177
        settings.accesslog = settings.errorlog = None
        settings.include_server_header = False
        settings.graceful_timeout = _STOP_S
        self._socket_file = bind.removeprefix("unix:") if bind.startswith("unix:") else None
        if self._socket_file and _answers(self._socket_file):
            raise ConfigError(f"control.bind = {bind!r}: another process answers there")
        try:
            (opened,) = settings.create_sockets().insecure_sockets
            opened.listen(100)                                # from here on connections wait rather than fail
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"control.bind = {bind!r}: cannot listen: {why}") from None
        settings.bind = [f"fd://{opened.detach()}"]
        self._stop = asyncio.Event()
        self._serving = tasks.start(
            "control plane",
            hypercorn.asyncio.serve(app, settings, shutdown_trigger=self._stop.wait, mode="asgi"),  # type: ignore[arg-type]
        )

    async def close(self) -> None:
        """Ends it, with about a second for requests under way."""
        self._stop.set()
        await asyncio.wait({self._serving}, timeout=2 * _STOP_S)
        if self._socket_file:
            with contextlib.suppress(OSError):
                os.unlink(self._socket_file)


def _answers(path: str) -> bool:
    """Is somebody listening on this socket file? One that a killed daemon left behind answers nobody."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
        return True
