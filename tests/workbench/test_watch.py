"""`--watch`: runs again after each save, and only then. Time is moved by hand."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rbeerouter.workbench import watch


class Hand:
    """Does one thing after each look at the files."""

    def __init__(self, *deeds: Callable[[], object]) -> None:
        self.deeds = list(deeds)
        self.waited = 0.0

    def __call__(self, seconds: float) -> None:
        self.waited += seconds
        if not self.deeds:
            raise KeyboardInterrupt
        self.deeds.pop(0)()


def save(path: Path, number: int) -> None:
    path.write_text(f"-- {number}")
    os.utime(path, ns=(number, number))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "routing.lua"
    save(path, 1)
    return path


def runs(script: Path, *deeds: Callable[[], object], test: Path | None = None, most: int = 100) -> int:
    ran: list[bool] = []
    watch.watch(script, test, lambda: bool(ran.append(True)), io.StringIO(), pause=Hand(*deeds), most=most)
    return len(ran)


def nothing() -> None:
    pass


def test_it_runs_once_and_then_after_each_save(script: Path) -> None:
    assert runs(script) == 1
    assert runs(script, nothing, nothing) == 1
    assert runs(script, lambda: save(script, 2), nothing, lambda: save(script, 3), nothing) == 3


def test_the_tests_beside_the_script_are_watched_also_when_they_come_later(script: Path) -> None:
    beside = script.with_name("routing_test.lua")
    assert runs(script, nothing, lambda: save(beside, 5), nothing, lambda: save(beside, 6)) == 3
    assert runs(script, beside.unlink, nothing) == 2


def test_another_file_of_tests_is_watched_instead(script: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.lua"
    save(other, 1)
    beside = script.with_name("routing_test.lua")
    assert runs(script, lambda: save(beside, 5), lambda: save(other, 5), test=other) == 2


def test_it_says_how_to_end_and_ends_quietly(script: Path) -> None:
    out = io.StringIO()
    watch.watch(script, None, lambda: True, out, pause=Hand())
    assert "Ctrl-C" in out.getvalue()


def test_it_looks_a_few_times_a_second_and_not_for_ever(script: Path) -> None:
    hand = Hand(*[nothing] * 50)
    watch.watch(script, None, lambda: True, io.StringIO(), pause=hand, most=20)
    assert hand.waited == pytest.approx(20 * 0.3)
    assert len(hand.deeds) == 30
