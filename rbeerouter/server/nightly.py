"""The savings ledger of the last day, made at a time of the night from routing.log, in a process of its own.

`server.daemon` runs `Ledgers.run` beside its other tasks; `server.app` mounts the page. The command is the one that a
person would run, at the lowest priority, so that nobody who is served waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import signal
import sys
import tempfile
import threading
import zlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.routing import Route

from rbeerouter.config.sections import Config
from rbeerouter.config.values import minutes_of_day
from rbeerouter.record import Line, timestamp
from rbeerouter.recorded import LogError, in_order, opened, read_all, read_log, seconds
from rbeerouter.server.answers import Json

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon

_LOOK_S = 20.0
_DAY_S = 86_400.0
_APART_S = 6 * 3600.0
_KEPT = 30
_NICE = 19
_COPIED_BYTES = 1 << 20
_MOST_ERROR_CHARS = 2000


class LedgerError(Exception):
    """There is no ledger; the message says why."""


class Ledgers:
    """The last ledgers, newest first in `last`, and why there was none the last time in `problem`."""

    def __init__(self, daemon: Daemon) -> None:
        self.last: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self.problem: str | None = None
        self._begun_at = float("-inf")
        self._daemon = daemon
        self._looked_s = self._local_s()

    async def run(self) -> None:
        """Looks at the clock for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Makes a ledger if its time has come since the last look."""
        at, before, now = self._daemon.config.routing.ledger_at, self._looked_s, self._local_s()
        self._looked_s = now
        if at is None or not passed(minutes_of_day(at) * 60.0, before, now):
            return
        wall = self._daemon.env.wall()
        if wall - self._begun_at > _APART_S:                   # clocks that are put back come by the same hour twice
            self._begun_at = wall
            await self.make()

    async def make(self) -> None:
        daemon = self._daemon
        try:
            made = await ledger_of(daemon.config, daemon.env.wall())
        except LedgerError as error:
            self.problem = str(error)
            daemon.log.error("ledger_failed", error=self.problem)
            return
        self.problem = None
        self.last.appendleft({"time": timestamp(daemon.env.wall()), **made})
        daemon.log.info("ledger", **made)

    def describe(self) -> dict[str, Any]:
        return {"at": self._daemon.config.routing.ledger_at, "problem": self.problem, "last": list(self.last)}

    def _local_s(self) -> float:
        env = self._daemon.env
        return env.wall() + env.utc_offset_s()


def passed(at_s: float, before_s: float, now_s: float) -> bool:
    """Has that time of day (seconds after midnight) come between two moments of local time?"""
    return (now_s - at_s) // _DAY_S > (before_s - at_s) // _DAY_S


async def ledger_of(config: Config, now: float) -> dict[str, Any]:
    """The ledger of the day until `now` (Unix seconds), as sim.ledger has it. Raises LedgerError."""
    stopped = threading.Event()
    try:
        with tempfile.TemporaryDirectory(prefix=".rbeerouter-ledger-", dir=config.log.parent) as folder:
            log = await asyncio.to_thread(_whole_day, config.log, now - _DAY_S, Path(folder), stopped)
            begin_s = await asyncio.to_thread(_beginning, log, now - _DAY_S)
            arguments = ["--trace", str(log), "--from", f"{begin_s:.0f}s", "--json"]
            settings = ["--config", str(config.source)] if config.source is not None else []
            output = await _run([*settings, *arguments], config.routing.ledger_s)
    except LogError as error:
        raise LedgerError(str(error)) from None
    except OSError as error:
        raise LedgerError(f"{config.log}: cannot be put together: {error.strerror or error}") from None
    finally:
        stopped.set()                                          # a daemon that stops waits for its threads
    try:
        found = msgspec.json.decode(output)["ledger"]
        return {"requests": found["requests"], "sampled": found["sampled"], "entries": found["entries"]}
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise LedgerError(f"routing simulate said nothing of a ledger: {error!r}") from None


def _whole_day(log: Path, since: float, folder: Path, stopped: threading.Event) -> Path:
    """The log, or, where it was rotated since then, a file in the folder with all of its parts; less of them when it is
    stopped. Raises LogError, OSError."""
    parts = rotated_parts(log, since)
    if len(parts) < 2:
        return log
    with (folder / log.name).open("wb") as file:
        for part in parts:
            with opened(part) as source, contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):
                while not stopped.is_set() and (piece := source.read(_COPIED_BYTES)):
                    file.write(piece)                          # mostly without the interpreter, which serves
            file.write(b"\n")                                  # a part may be cut within a line
    return folder / log.name


def rotated_parts(log: Path, since: float) -> list[Path]:
    """The log and what was rotated out of it (`routing.log.1`, `routing.log-20260301.gz`) and written to since then, in
    the order of their time. A copy of a part is none of its own. Raises LogError, OSError."""
    beside = [
        path for path in log.parent.iterdir()
        if path.name.startswith((f"{log.name}.", f"{log.name}-")) and path.is_file() and path.stat().st_mtime >= since
    ]  # fmt: skip
    begun: dict[str, Path] = {}
    for path in [*sorted(beside), log]:
        first = next(read_all(path), None)
        if first is not None:
            begun[first.time if isinstance(first, Line) else first["time"]] = path
    return in_order(begun.values())


def _beginning(log: Path, since: float) -> float:
    """Seconds from the first request in the log until the day begins. Raises LogError, LedgerError."""
    first = next(read_log(log), None)
    if first is None:
        raise LedgerError(f"{log}: has no requests")
    return max(0.0, since - seconds(first.time))


async def _run(arguments: list[str], limit_s: float) -> bytes:
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rbeerouter", "routing", "simulate", *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise LedgerError(f"routing simulate could not be started: {error.strerror or error}") from None
    try:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)
        async with asyncio.timeout(limit_s):
            output, complaint = await process.communicate()
    except TimeoutError:
        raise LedgerError(f"routing simulate took longer than {limit_s:g} s ([routing] ledger_s)") from None
    finally:
        if process.returncode is None:                         # also when the daemon stops meanwhile
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        raise LedgerError(f"routing simulate failed: {complaint.decode(errors='replace').strip()[-_MOST_ERROR_CHARS:]}")
    return output


def routes(daemon: Daemon) -> list[Route]:
    """The page of one daemon."""

    async def ledger(request: Request) -> Json:
        return Json(daemon.ledgers.describe())

    return [Route("/api/v1/ledger", ledger)]
