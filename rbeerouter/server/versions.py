"""The control plane's pages on the versions of the script: the list, one text, and going back to one.

`server.app` mounts them. What is done is a reload of the daemon's with another text; nothing here writes a file.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rbeerouter import tasks
from rbeerouter.control.script_file import NotWritten, text_of
from rbeerouter.control.versions import SHOWN_DIGITS, UnknownVersion
from rbeerouter.core.errors import RouterError
from rbeerouter.record import timestamp
from rbeerouter.routing.script import ScriptError
from rbeerouter.server.answers import Json, not_for_web_pages, read_body, verdict_answer, who_asks
from rbeerouter.server.scripts import Proposal

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a rollback. version: a hash or its beginning; None: the one before the active one."""

    version: str | None = None
    force: bool = False


_decode = msgspec.json.Decoder(Asked).decode


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

    async def rollback(request: Request) -> Json:
        refused = not_for_web_pages(request)
        if refused is not None:
            return refused
        try:
            body = await read_body(request)
            asked = _decode(body) if body.strip() else Asked()
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Json({"ok": False, "error": f"the body: {error}"}, 422)
        except RouterError as error:
            return Json({"ok": False, "error": error.message}, error.failure.status)
        return verdict_answer(await roll_back(daemon, asked, who_asks(request)))

    return [
        Route("/api/v1/versions", versions),
        Route("/api/v1/versions/{version}", text),
        Route("/api/v1/rollback", rollback, methods=["POST"]),
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


async def roll_back(daemon: Daemon, asked: Asked, who: str) -> dict[str, Any]:
    """Puts an earlier text over the script's file and loads it, as a reload does. The verdict is a reload's."""

    def propose() -> Proposal:
        loaded, versions = daemon.scripts.loaded, daemon.versions
        try:
            version = versions.before(loaded) if asked.version is None else versions.find(asked.version)
        except UnknownVersion as error:
            raise ScriptError(str(error)) from None
        active = daemon.decider.script
        if active is not None and version.text == active.source == loaded and not asked.force:
            raise ScriptError(f"{version.hash[:SHOWN_DIGITS]} is active already")
        return Proposal(version.text, "rollback", asked.force)

    # To its end, also when whoever asked has left: half of it would be a file that nobody has loaded.
    return await asyncio.shield(tasks.start("rollback", daemon.reload("control plane", who, propose)))
