"""From the name of a behaviour to the behaviour: the table BEHAVIOURS, and names that say where or what, as `die@3`.

Called by worker.py and cli.py. Names may be written with `-` for `_`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import behaviours as _behaviours  # fills the table
from .behaviours import refusal
from .nonsense import GARBAGE, spew
from .parts import BEHAVIOURS, Behaviour, begin, end_well, error_object, sse
from .request_reader import Request

if TYPE_CHECKING:
    from .worker import Connection

__all__ = ["BEHAVIOURS", "find", "listed"]
assert _behaviours

PLACED = re.compile(r"(die|reset|hang|end|error)@(start|headers|\d{1,6})")
STATUS = re.compile(r"(?:status_)?([45]\d\d)(?:@(\d{1,6}))?")
ALIASES = {"late_extra": "late_data", "keepalives": "only_comments"}
FAMILIES = {
    "die@WHERE": "The connection ends at WHERE: start (not a byte), headers (after the head), or a number of events "
    "with content (tenths of the body, when the answer is not a stream).",
    "reset@WHERE": "A TCP reset at WHERE.",
    "hang@WHERE": "Silence from WHERE on; the connection stays open.",
    "end@WHERE": "The framing ends well at WHERE, `worker.delay_s` later, without the finish and without [DONE].",
    "error@WHERE": "An error event at WHERE, then a good end: all under status 200.",
    "STATUS": "A refusal with that status, 400 to 599; with a Retry-After as in 429@7.",
    "garbage:KIND": f"Bytes no HTTP client may take: {', '.join(GARBAGE)}.",
}


def find(name: str) -> Behaviour | None:
    """The behaviour of that name, or None."""
    spelled = name.replace("-", "_")
    known = BEHAVIOURS.get(ALIASES.get(spelled, spelled))
    if known is not None:
        return known
    if placed := PLACED.fullmatch(spelled):
        return at_place(placed[1], placed[2])
    if status := STATUS.fullmatch(spelled):
        after = [("retry-after", status[2])] if status[2] else []
        kind = "rate_limit_error" if status[1] == "429" else "server_error"
        return refusal(int(status[1]), f"The worker refuses with {status[1]}.", kind, f"refused_{status[1]}", *after)
    family, _, kind = spelled.partition(":")
    return spew(GARBAGE[kind]) if family == "garbage" and kind in GARBAGE else None


def named_by(model: str) -> Behaviour | None:
    """What a model's name asks for: all of it, or what stands behind a `:` (`tiny:die@3`, `tiny:garbage:te`)."""
    while model:
        if found := find(model):
            return found
        model = model.partition(":")[2]
    return None


def listed() -> Iterator[tuple[str, str]]:
    """(name, what it does) of all there are."""
    for name in sorted(BEHAVIOURS):
        yield name, " ".join((BEHAVIOURS[name].__doc__ or "").split())
    yield from FAMILIES.items()


def at_place(what: str, where: str) -> Behaviour:
    async def behave(connection: Connection, request: Request) -> None:
        if where != "start":
            await begin(connection, request, -1 if where == "headers" else int(where))
        if what == "die":
            connection.close()
        elif what == "reset":
            await connection.reset(settle_s=0.0 if where == "start" else 0.02)
        elif what == "hang":
            await connection.until_peer_leaves()
        else:
            await asyncio.sleep(connection.worker.delay_s)         # what came before is on its way by then
            if where == "start":
                await begin(connection, request, -1)
            if what == "error":
                failed = error_object("The engine failed.", "server_error", "engine_failed")
                await end_well(connection, request, sse(failed))
            else:
                await end_well(connection, request, b"")

    return behave
