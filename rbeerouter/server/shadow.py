"""Runs the shadow script beside the live one: loads it, gives it its share of the loop's time, tells what came of it.

`server.daemon` owns one `Shadowing` and calls `apply` at the start, after each reload, and when the live script was
taken out of service; `server.app` mounts the pages. Whatever is wrong with the shadow is told here and harms nobody.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from rbeerouter.config.sections import Routing
from rbeerouter.control.versions import SHOWN_DIGITS, full_hash
from rbeerouter.core.mirror import Mirror
from rbeerouter.record import timestamp
from rbeerouter.routing.script import Script, ScriptError
from rbeerouter.routing.shadow import RESULTS, Shadow, Tally
from rbeerouter.server.answers import Json, reloading
from rbeerouter.server.scripts import Proposal, source_of
from rbeerouter.workbench.suite import suite_path

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon

OFF, ON, SAME, BROKEN, SUSPENDED = "off", "on", "same", "broken", "suspended"
_FIRST_S = 0.001
"""After the first request that waits: its own bytes, and those of others at this moment, go first."""
_SLICE_S = 0.001
"""The loop is held up for about so long at a time, or for one decision."""
_SUMMARY_S = 600.0


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a promotion. hash: the shadow that is meant, so that nobody gets another one than they looked at."""

    hash: str | None = None
    force: bool = False


class Shadowing:
    """The shadow of one daemon.

    Attributes:
        state: OFF: none is configured. ON: it decides. SAME: it is the live script, so there is nothing to compare.
            BROKEN: it cannot be loaded. SUSPENDED: it failed too often in a row.
        error: why it is broken or suspended.
        script: the loaded one. source: the text of its file, where that could be read.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.state = OFF
        self.error: str | None = None
        self.script: Script | None = None
        self.source: bytes | None = None
        self.tally = Tally()
        self.since = 0.0
        self._daemon = daemon
        self._shadow: Shadow | None = None
        self._live: bytes | None = None
        self._loaded_by: Routing | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._summary: asyncio.TimerHandle | None = None
        self._told = 0
        self._rests_until = 0.0

    @property
    def decides(self) -> Script | None:
        """The script, while it decides: what it reads of requests must be there."""
        return self.script if self.state == ON else None

    def apply(self) -> None:
        """Looks at configuration, file and live script, and goes on by them. What was counted stays if both scripts do;
        what the shadow keeps in `state` goes over to its next text, as the live one's does."""
        daemon = self._daemon
        path, live = daemon.config.shadow, daemon.decider.script
        problem_before = self.error if self.state == BROKEN else None
        self._pause()
        source, state, problem = None, OFF, None
        if path is not None:
            try:
                source = source_of(path)
            except ScriptError as error:
                state, problem = BROKEN, str(error)
        self._count_anew(source, live.source if live is not None else None)
        if source is not None:
            try:
                state = SAME if live is not None and live.source == source else self._begin(source)
            except ScriptError as error:
                state, problem = BROKEN, str(error)
        self.state, self.error = state, problem
        if state != ON:
            self._drop()
        if problem is not None and problem != problem_before:
            daemon.log.error("shadow_broken", file=str(path), error=problem)
        daemon.show()

    def close(self) -> None:
        self._pause()
        self._summarise()
        self._drop()

    def _count_anew(self, source: bytes | None, live: bytes | None) -> None:
        if (source, live) != (self.source, self._live):
            self._summarise()
            self.tally, self.since, self._told = Tally(), self._daemon.env.wall(), 0
        self.source, self._live = source, live

    def _begin(self, source: bytes) -> str:
        """Lets it decide from here on. Raises ScriptError when it is broken."""
        daemon, before, mirror = self._daemon, self.script, Mirror()
        config, live = daemon.config, daemon.decider
        stays = before is not None and before.source == source and self._loaded_by == config.routing
        decider = daemon.scripts.shadow(config, live, mirror, source, before if stays else None)
        self.script, self._loaded_by = decider.script, config.routing
        assert self.script is not None
        if not stays:
            if before is not None:
                self.script.adopt(before)
                before.close()
            hash_ = live.script.hash if live.script is not None else None
            daemon.log.info("shadow_begins", script=self.script.hash, live=hash_, file=str(config.shadow))
        self._shadow = Shadow(decider, mirror, config.routing.shadow_buffer, self._wake, daemon.env.now, self.tally)
        live.listen(self._shadow.listener())
        self._summary = asyncio.get_running_loop().call_later(_SUMMARY_S, self._summarise_again)
        return ON

    def _pause(self) -> None:
        """Nothing is listened to from here on, and what waits is forgotten."""
        self._daemon.decider.listen(None)
        for timer in (self._timer, self._summary):
            if timer is not None:
                timer.cancel()
        self._timer = self._summary = self._shadow = None

    def _drop(self) -> None:
        if self.script is not None:
            self.script.close()
        self.script = None

    # Its share of the time

    def _wake(self) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_at(max(loop.time() + _FIRST_S, self._rests_until), self._work)

    def _work(self) -> None:
        """Decides for about a millisecond, and then leaves the loop to others for so long that it has its share."""
        shadow, share = self._shadow, self._daemon.config.routing.shadow_share
        self._timer = None
        if shadow is None:
            return
        spent_s = shadow.run(_SLICE_S)
        self._rests_until = asyncio.get_running_loop().time() + spent_s * (1 / share - 1)
        stopped = shadow.stopped
        if stopped is not None:
            self._suspend(stopped)
        elif shadow.waiting:
            self._wake()

    def _suspend(self, error: str) -> None:
        daemon, script = self._daemon, self.script
        self._pause()
        self.state, self.error = SUSPENDED, error
        daemon.log.error("shadow_suspended", script=script.hash if script is not None else None, error=error)
        self._summarise()
        daemon.show()

    # What came of it

    def _summarise_again(self) -> None:
        self._summarise()
        self._summary = asyncio.get_running_loop().call_later(_SUMMARY_S, self._summarise_again)

    def _summarise(self) -> None:
        """A line of the log, if there is anything new to tell."""
        tally = self.tally
        if tally.requests + tally.skipped + tally.unsure == self._told:
            return
        self._told = tally.requests + tally.skipped + tally.unsure
        self._daemon.log.info(
            "shadow_summary", script=full_hash(self.source or b"")[:SHOWN_DIGITS], requests=tally.requests,
            results=dict(tally.results), skipped=tally.skipped, unsure=tally.unsure,
            us_per_request=self._us_per_request(),
        )  # fmt: skip

    def _us_per_request(self) -> float | None:
        tally = self.tally
        return round(tally.spent_s * 1e6 / tally.requests, 1) if tally.requests else None

    def describe(self) -> dict[str, Any]:
        """All that is known, for the page."""
        tally, daemon, path = self.tally, self._daemon, self._daemon.config.shadow
        live = daemon.decider.script
        elapsed_s = daemon.env.wall() - self.since
        return {
            "state": self.state, "file": str(path) if path is not None else None,
            "hash": full_hash(self.source)[:SHOWN_DIGITS] if self.source is not None else None,
            "live": live.hash if live is not None else None, "error": self.error,
            "since": timestamp(self.since), "requests": tally.requests,
            "results": {result: tally.results[result] for result in RESULTS},
            "skipped": tally.skipped, "unsure": tally.unsure, "missed_calls": tally.missed,
            "waiting": self._shadow.waiting if self._shadow is not None else 0,
            "us_per_request": self._us_per_request(),
            "share": round(tally.spent_s / elapsed_s, 5) if elapsed_s > 0 else 0.0,
            "pairs": [
                {"live": theirs, "shadow": ours, "result": result, "requests": count}
                for (theirs, ours, result), count in tally.pairs.most_common()
            ],
            "workers": tally.shares(),
            "last": [
                {"time": timestamp(one.wall), **_without(one, "wall")} for one in reversed(tally.last)
            ],
        }  # fmt: skip

    # Becoming the live one

    def proposal(self, asked: Asked) -> Proposal:
        """The shadow's text, if it may be promoted. Raises ScriptError."""
        path, script, source = self._daemon.config.shadow, self.script, self.source
        if path is None:
            raise ScriptError("there is no shadow; set [routing] shadow")
        if self.state == SAME:
            raise ScriptError(f"{path}: is the live script already")
        if self.state != ON or script is None or source is None:
            raise ScriptError(f"the shadow is {self.state}: {self.error}")
        if asked.hash is not None and asked.hash != script.hash:
            raise ScriptError(f"{path}: the shadow is {script.hash} now, not {asked.hash[:70]}; look at it again")
        if not asked.force and self._file_says() != source:
            raise ScriptError(f"{path}: was changed since it was loaded; reload, so that what is promoted was watched")
        return Proposal(source, asked.force, (suite_path(path),))

    def _file_says(self) -> bytes | None:
        path = self._daemon.config.shadow
        try:
            return source_of(path) if path is not None else None
        except ScriptError:
            return None


def _without(one: Any, name: str) -> dict[str, Any]:
    return {field: value for field, value in msgspec.structs.asdict(one).items() if field != name}


def routes(daemon: Daemon) -> list[Route]:
    """The pages of one daemon."""

    async def shadow(request: Request) -> Json:
        return Json(daemon.shadowing.describe())

    async def promote(asked: Asked, who: str) -> dict[str, Any]:
        return await daemon.reload("control plane", who, "promote", lambda: daemon.shadowing.proposal(asked))

    return [
        Route("/api/v1/shadow", shadow),
        Route("/api/v1/promote", reloading(Asked, promote), methods=["POST"]),
    ]
