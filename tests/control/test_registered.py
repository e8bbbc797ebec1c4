"""Tests of registered workers: how long they stay, and what a restart brings back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rbeerouter.config.sections import Secret
from rbeerouter.control.registered import Registered
from rbeerouter.control.roster import Roster
from rbeerouter.control.store import Store
from rbeerouter.core.types import WorkerSpec


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(folder: Path, clock: Clock) -> tuple[Registered, Roster, Store]:
    def silent(event: str, **fields: Any) -> None:
        pass

    store = Store(folder, silent, lambda: "now")
    roster = Roster(clock, silent)
    registered = Registered(roster, store, clock)
    registered.recall(store.load().registered)
    return registered, roster, store


def ids(roster: Roster) -> list[str]:
    return [spec.id for spec in roster.merged()]


A = WorkerSpec("a", "http://a:1", api_key=Secret("key-of-a"), metadata={"rack": 3}, source="registered")


def test_a_worker_that_is_not_heard_of_in_time_goes(tmp_path: Path) -> None:
    clock = Clock()
    registered, roster, store = made(tmp_path, clock)
    registered.register(A, 90)
    clock.now += 80
    assert registered.heard_of("a")
    clock.now += 80
    assert (registered.expire(), ids(roster)) == ([], ["a"])
    clock.now += 11
    assert (registered.expire(), ids(roster), registered.heard_of("a")) == (["a"], [], False)
    store.close()
    _, roster, store = made(tmp_path, clock)
    assert ids(roster) == []
    store.close()


def test_one_without_a_time_stays_until_it_is_removed(tmp_path: Path) -> None:
    clock = Clock()
    registered, roster, store = made(tmp_path, clock)
    registered.register(A, None)
    clock.now += 1e9
    assert (registered.expire(), ids(roster)) == ([], ["a"])
    assert (registered.remove("a"), registered.remove("a"), ids(roster)) == (True, False, [])
    store.close()


def test_a_restart_brings_everything_back_and_each_has_its_whole_time_again(tmp_path: Path) -> None:
    clock = Clock()
    registered, _, store = made(tmp_path, clock)
    registered.register(A, 90)
    registered.heard_of("a", yielding=True)
    store.close()
    clock.now += 10_000
    registered, roster, store = made(tmp_path, clock)
    (found,) = roster.merged()
    assert (found, repr(found.api_key), registered.yielding()) == (A, "'(hidden)'", {"a"})
    clock.now += 89
    assert registered.expire() == []
    clock.now += 2
    assert registered.expire() == ["a"]
    store.close()


def test_heartbeats_that_change_nothing_are_no_change(tmp_path: Path) -> None:
    registered, roster, store = made(tmp_path, Clock())
    registered.register(A, 90)
    roster.changed.clear()
    registered.register(A, 90)
    registered.heard_of("a")
    assert not roster.changed.is_set()
    store.close()


def test_what_cannot_be_read_again_is_forgotten(tmp_path: Path) -> None:
    _, _, store = made(tmp_path, Clock())
    store.keep_registered("odd", b"{")
    store.close()
    registered, _, store = made(tmp_path, Clock())
    assert registered.entries == {}
    store.close()
    assert Store(tmp_path, print, lambda: "now").load().registered == {}
