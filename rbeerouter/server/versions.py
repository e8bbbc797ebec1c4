"""The control plane's pages on the versions of the script: the list, one text, and going back to one.

`server.app` mounts them. What is done is a reload of the daemon's with another text; nothing here writes a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rbeerouter.control.script_file import NotWritten, text_of
from rbeerouter.control.versions import SHOWN_DIGITS, UnknownVersion
from rbeerouter.record import timestamp
from rbeerouter.routing.script import ScriptError
from rbeerouter.server.answers import Json, reloading
from rbeerouter.server.scripts import Proposal

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a rollback. version: a hash or its beginning; None: the one before the active one."""

    version: str | None = None
    force: bool = False


def routes(daemon: Daemon) -> list[Route]:
    """The pages of one daemon."""

    async def versions(request: Request) -> Json:
        return Json(describe(daemon))

    async def text(request: Request) -> Response:
        try:
            version = daemon.versions.find(request.path_params["version"])
        except UnknownVersion as error:
            return Json({"ok": False, "error": str(error)}, 404)
        return Response(version.text, media_type="text/x-lua; charset=utf-8")

    async def rollback(asked: Asked, who: str) -> dict[str, Any]:
        return await daemon.reload("control plane", who, "rollback", lambda: proposal(daemon, asked))

    return [
        Route("/api/v1/versions", versions),
        Route("/api/v1/versions/{version}", text),
        Route("/api/v1/rollback", reloading(Asked, rollback), methods=["POST"]),
    ]


def describe(daemon: Daemon) -> dict[str, Any]:
    """The list, the newest first. `edited`: the script's file is another one now than was loaded."""
    script, active = daemon.config.script, daemon.decider.script
    edited = False
    if script is not None:
        try:
            edited = text_of(script) != daemon.scripts.loaded
        except NotWritten:
            edited = True
    return {
        "file": str(script) if script is not None else None,
        "active": active.hash if active is not None else None,
        "edited": edited,
        "kept": daemon.config.routing.versions_kept,
        "problem": daemon.versions.problem,
        "versions": [
            {
                "hash": version.hash[:SHOWN_DIGITS], "time": timestamp(version.at), "who": version.who,
                "how": version.how, "lines": len(version.text.splitlines()),
                "active": active is not None and version.text == active.source,
            }
            for version in daemon.versions.newest_first()
        ],
    }  # fmt: skip


def proposal(daemon: Daemon, asked: Asked) -> Proposal:
    """The version that is meant, to be loaded in the place of what is active. Raises ScriptError."""
    loaded, versions = daemon.scripts.loaded, daemon.versions
    try:
        version = versions.before(loaded) if asked.version is None else versions.find(asked.version)
    except UnknownVersion as error:
        raise ScriptError(str(error)) from None
    active = daemon.decider.script
    if active is not None and version.text == active.source == loaded and not asked.force:
        raise ScriptError(f"{version.hash[:SHOWN_DIGITS]} is active already")
    return Proposal(version.text, asked.force)
