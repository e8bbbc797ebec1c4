"""The workers file: looked at every few seconds, read again when it has changed.

`server.discovery` runs one `WatchedFile`. It looks at time, size and inode, which works on every file system and shows
both a file that is written over and one that is put in its place.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from rbeerouter.config.sections import ConfigError
from rbeerouter.config.workers import read_workers_file
from rbeerouter.control.roster import FILE, Roster, Specs
from rbeerouter.dialects.engines import ENGINES

NAME = FILE


class WatchedFile:
    """One file of [[workers]] blocks. A broken one is refused as a whole, and the workers stay as they were."""

    def __init__(self, path: Path, every_s: float, roster: Roster) -> None:
        self._path = path
        self._every_s = every_s
        self._roster = roster
        self._seen: tuple[int, ...] | str | None = None

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(self._every_s)
            mark, before = self._mark(), self._seen
            if mark != before:
                found = await asyncio.to_thread(self._read)               # thousands would hold up requests
                if self._seen is before:                                  # else a reload has read it meanwhile
                    self._take(mark, found)

    def look(self) -> None:
        """Reads the file if it is another one than before."""
        mark = self._mark()
        if mark != self._seen:
            self._take(mark, self._read())

    def _read(self) -> Specs | ConfigError:
        try:
            return read_workers_file(self._path, tuple(ENGINES))
        except ConfigError as error:
            return error

    def _take(self, mark: tuple[int, ...] | str, found: Specs | ConfigError) -> None:
        if isinstance(found, ConfigError):
            self._roster.failed(NAME, FILE, str(found))
        else:
            self._roster.put(NAME, found, FILE)
        self._seen = mark

    def _mark(self) -> tuple[int, ...] | str:
        try:
            found = os.stat(self._path)
        except OSError as error:
            return str(error)
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
