"""Tests of the state file: what is kept, over a kill as well, and what becomes of a file that is no good."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.control.store import Kept, StateError, Store, Version


class Told:
    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.events.append(event)


def opened(folder: Path, told: Told | None = None) -> Store:
    return Store(folder, told or Told(), lambda: "now")


def kept(folder: Path, told: Told | None = None) -> Kept:
    store = opened(folder, told)
    try:
        return store.load()
    finally:
        store.close()


def test_what_is_kept_comes_back_and_what_is_forgotten_does_not(tmp_path: Path) -> None:
    store = opened(tmp_path / "deep" / "state")
    assert store.load() == Kept()
    for name in ("a", "b"):
        store.keep_registered(name, name.encode())
        store.set_drained(name, True)
    store.keep_registered("a", b"newer")
    store.forget_registered("b")
    store.set_drained("b", False)
    store.keep_list("http://c", 1.5, b"[]")
    for value in ("random", "round-robin"):
        store.set_setting("strategy", value)
    store.set_setting("other", "x")
    store.set_setting("other", None)
    store.close()
    assert kept(tmp_path / "deep" / "state") == Kept(
        {"a": b"newer"}, frozenset({"a"}), {"http://c": (1.5, b"[]")}, settings={"strategy": "round-robin"}
    )


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    store = opened(folder)
    store.keep_registered("a", b"secret").result()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.iterdir()]}
    store.close()
    assert modes["state"] == 0o700
    assert {mode for name, mode in modes.items() if name != "state"} == {0o600}


def test_a_daemon_that_keeps_nothing_leaves_nothing(tmp_path: Path) -> None:
    assert kept(tmp_path / "state") == Kept()
    assert not (tmp_path / "state").exists()


def test_a_killed_process_leaves_every_change_that_it_had_finished(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from rbeerouter.control.store import Store
store = Store(Path({str(tmp_path)!r}), print, lambda: "now")
for number in range(200):
    done = store.keep_registered(f"w{{number}}", b"x" * 1000)
done.result()
store.keep_registered("late", b"y")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL
    assert {f"w{number}" for number in range(200)} <= kept(tmp_path).registered.keys()


@pytest.mark.parametrize("garbage", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_broken_file_is_set_aside_and_a_new_one_made(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "state.db").write_bytes(garbage)
    told = Told()
    store = opened(tmp_path, told)
    assert store.load() == Kept()
    store.keep_registered("a", b"1")
    store.close()
    assert told.events == ["state_set_aside"]
    assert (tmp_path / "state.db.broken-now").read_bytes() == garbage
    assert kept(tmp_path).registered == {"a": b"1"}


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StateError, match="newer rbeerouter"):
        kept(tmp_path)


def test_two_daemons_do_not_share_a_folder(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.require()
    second = opened(tmp_path)
    with pytest.raises(StateError, match="another daemon uses it"):
        second.require()
    second.close()
    first.close()
    third = opened(tmp_path)
    third.require()
    third.close()


def test_a_folder_that_cannot_be_made_is_an_error_only_for_who_needs_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = Told()
    store = opened(tmp_path / "file" / "state", told)
    with pytest.raises(StateError, match="cannot be written"):
        store.require()
    for _ in range(3):
        store.set_drained("a", True).result()
    store.close()
    assert (told.events, store.problem is not None) == (["state_not_kept"], True)


def test_a_file_that_cannot_be_opened_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    told = Told()
    store = opened(tmp_path, told)
    with pytest.raises(StateError, match="cannot be written"):
        store.load()
    store.keep_registered("a", b"a").result()
    store.keep_registered("b", b"b").result()
    assert (told.events, "cannot be written" in str(store.problem)) == (["state_not_kept"], True)
    store.close()


# Versions of the script.


def version(hash_: str, at: float = 1.0, how: str = "reload") -> Version:
    return Version(hash_, at, "anna@desk", how, hash_.encode() + b"\xff\n")


def test_versions_come_back_in_the_order_in_which_they_were_kept(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for name in ("b", "a", "c"):
        store.keep_version(version(name, at=9.0))
    store.keep_version(version("a", at=3.0, how="rollback"))  # a clock that went back is no matter
    store.forget_version("b")
    store.close()
    assert kept(tmp_path).versions == (version("c", 9.0), version("a", 3.0, "rollback"))


VERSION_1 = """
CREATE TABLE registered (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE drained (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE lists (name TEXT PRIMARY KEY, taken_at REAL NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO registered VALUES ('a', x'31');
INSERT INTO drained VALUES ('a');
INSERT INTO lists VALUES ('http://c', 1.5, x'5b5d');
PRAGMA user_version = 1;
"""


def test_a_file_of_version_1_loses_nothing_and_can_keep_versions(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "state.db")
    database.executescript(VERSION_1)
    database.close()
    before = Kept({"a": b"1"}, frozenset({"a"}), {"http://c": (1.5, b"[]")})
    store = opened(tmp_path)
    assert store.load() == before
    store.keep_version(version("x"))
    store.close()
    told = Told()
    after = kept(tmp_path, told)
    assert (after.registered, after.drained, after.lists) == (before.registered, before.drained, before.lists)
    assert (after.versions, told.events) == ((version("x"),), [])
