"""What outlives a restart: one SQLite file in the state folder. Registered workers, drains, the controller's last list,
the scripts that were active, and what was set at run time.

`server.discovery` reads it once at the start; it and `control.versions` hand it every change. A thread of its own
writes them, so that no disk ever holds up a request. Each change is a transaction in write-ahead mode: a killed process
leaves whole ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

FILE_NAME = "state.db"
_STEPS = (
    """
CREATE TABLE registered (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE drained (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lists (name TEXT PRIMARY KEY, taken_at REAL NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;
""",
    """
CREATE TABLE versions (
    number INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, at REAL NOT NULL, who TEXT NOT NULL, how TEXT NOT NULL,
    text BLOB NOT NULL
);
""",
    """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
""",
)
"""What makes a file of version n one of version n + 1; a new file takes all of them. Each only adds."""
_BUSY_S = 2.0


class StateError(Exception):
    """The state cannot be kept; the message says why and what to do."""


class Version(msgspec.Struct, frozen=True):
    """A script's text that was active, or that stood in its file as it was overwritten.

    hash: SHA-256 of the text, all 64 hex digits. at: Unix seconds of when that was, the last time. how: "start",
    "reload", "rollback", "promote", or "edited" for one that never was active.
    """

    hash: str
    at: float
    who: str
    how: str
    text: bytes


class Kept(msgspec.Struct, frozen=True):
    """All that the file holds. The bytes are for whoever wrote them. `versions`: the oldest first. `settings`: what was
    set at run time in the place of the configuration."""

    registered: dict[str, bytes] = {}
    drained: frozenset[str] = frozenset()
    lists: dict[str, tuple[float, bytes]] = {}
    versions: tuple[Version, ...] = ()
    settings: dict[str, str] = {}


class Store:
    """The file, made when there is something to keep.

    Args:
        folder: made with mode 0700 when it is missing; the file in it has 0600, as it may hold keys of workers.
        log: writes an event with its fields, from any thread.
        stamp: text of the time now, for the name of a file that is set aside.
    """

    def __init__(self, folder: Path, log: Callable[..., Any], stamp: Callable[[], str]) -> None:
        self.path = folder / FILE_NAME
        self.problem: str | None = None
        self._log = log
        self._stamp = stamp
        self._database: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._thread = ThreadPoolExecutor(1, "state")
        self._told = False

    def load(self) -> Kept:
        """What was kept, for the start of the daemon. A file that is no good is set aside. Raises StateError."""
        return self._thread.submit(self._load).result()

    def require(self) -> None:
        """Makes the file now, for features that must not run without it. Raises StateError."""
        self._thread.submit(self._open).result()

    def keep_registered(self, worker_id: str, data: bytes) -> Future[None]:
        return self._write("INSERT OR REPLACE INTO registered VALUES (?, ?)", worker_id, data)

    def forget_registered(self, worker_id: str) -> Future[None]:
        return self._write("DELETE FROM registered WHERE id = ?", worker_id)

    def set_drained(self, worker_id: str, drained: bool) -> Future[None]:
        if drained:
            return self._write("INSERT OR REPLACE INTO drained VALUES (?)", worker_id)
        return self._write("DELETE FROM drained WHERE id = ?", worker_id)

    def set_setting(self, name: str, value: str | None) -> Future[None]:
        if value is not None:
            return self._write("INSERT OR REPLACE INTO settings VALUES (?, ?)", name, value)
        return self._write("DELETE FROM settings WHERE name = ?", name)

    def keep_list(self, name: str, taken_at: float, data: bytes) -> Future[None]:
        return self._write("INSERT OR REPLACE INTO lists VALUES (?, ?, ?)", name, taken_at, data)

    def keep_version(self, version: Version) -> Future[None]:
        """As the newest one; a text that is kept already is not kept twice."""
        return self._write(
            "INSERT OR REPLACE INTO versions "
            "VALUES ((SELECT coalesce(max(number), 0) + 1 FROM versions), ?, ?, ?, ?, ?)",
            version.hash, version.at, version.who, version.how, version.text,
        )  # fmt: skip

    def forget_version(self, hash_: str) -> Future[None]:
        return self._write("DELETE FROM versions WHERE hash = ?", hash_)

    def close(self) -> None:
        """Writes what waits, then closes."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    # In the thread

    def _load(self) -> Kept:
        if not self.path.exists():
            return Kept()
        self._open()
        try:
            return self._read()
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
            return Kept()

    def _read(self) -> Kept:
        database = self._database
        assert database is not None
        return Kept(
            {worker_id: bytes(data) for worker_id, data in database.execute("SELECT id, data FROM registered")},
            frozenset(worker_id for (worker_id,) in database.execute("SELECT id FROM drained")),
            {name: (at, bytes(data)) for name, at, data in database.execute("SELECT name, taken_at, data FROM lists")},
            tuple(
                Version(hash_, at, who, how, bytes(text))
                for hash_, at, who, how, text in database.execute(
                    "SELECT hash, at, who, how, text FROM versions ORDER BY number"
                )
            ),
            dict(database.execute("SELECT name, value FROM settings")),
        )

    def _write(self, statement: str, *values: Any) -> Future[None]:
        return self._thread.submit(self._execute, statement, values)

    def _execute(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            self._open()
            assert self._database is not None
            self._database.execute(statement, values)
            self.problem, self._told = None, False
        except (StateError, sqlite3.Error) as error:
            self.problem = str(error)
            if not self._told:                                # one line for a full disk, not one for each heartbeat
                self._told = True
                self._log("state_not_kept", file=str(self.path), error=self.problem)

    def _open(self) -> None:
        if self._database is not None:
            return
        folder = self.path.parent
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
            self._claim(folder)
        except OSError as error:
            raise StateError(f"state.folder = {str(folder)!r}: cannot be written: {error.strerror}") from None
        try:
            self._connect()
        except OSError as error:
            raise StateError(f"{self.path}: cannot be written: {error.strerror}") from None
        except sqlite3.OperationalError as error:
            raise StateError(f"{self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            self._set_aside(error)

    def _connect(self) -> None:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        database = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > len(_STEPS):
                raise StateError(f"{self.path}: was written by a newer rbeerouter; set another [state] folder")
            if version < len(_STEPS):
                steps = " ".join(_STEPS[version:])
                database.executescript(f"BEGIN; {steps} PRAGMA user_version = {len(_STEPS)}; COMMIT;")
        except BaseException:
            database.close()
            raise
        self._database = database

    def _claim(self, folder: Path) -> None:
        """Two daemons with one folder would take each other's workers for their own."""
        if self._lock is not None:
            return
        lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StateError(
                f"state.folder = {str(folder)!r}: another daemon uses it; give each its own [state] folder"
            ) from None
        self._lock = lock

    def _set_aside(self, error: Exception) -> None:
        """A broken file must not keep the daemon from serving, and must not be lost: somebody may mend it."""
        if self._database is not None:
            self._database.close()
            self._database = None
        aside = self.path.with_name(f"{FILE_NAME}.broken-{self._stamp()}")
        for end in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{end}", f"{aside}{end}")
        os.replace(self.path, aside)
        self._log("state_set_aside", file=str(aside), error=str(error))
        self._connect()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        if self._lock is not None:
            os.close(self._lock)
