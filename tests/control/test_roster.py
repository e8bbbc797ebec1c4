"""Tests of the roster: whose word counts, what a failing source leaves behind, and what is told of it."""

from __future__ import annotations

from typing import Any

from rbeerouter.control.roster import CONFIG, CONTROLLER, DNS, FILE, REGISTERED, Roster
from rbeerouter.core.types import WorkerSpec


class Told:
    """A log."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


def spec(name: str, url: str | None = None, **fields: Any) -> WorkerSpec:
    return WorkerSpec(name, url or f"http://{name}:1", **fields)


def roster(told: Told | None = None, wall: Any = lambda: 100.0) -> Roster:
    return Roster(wall, told or Told())


def test_of_two_with_one_id_the_more_certain_source_counts() -> None:
    kinds = (DNS, CONTROLLER, REGISTERED, FILE, CONFIG)
    under_test = roster()
    for number, kind in enumerate(kinds):
        under_test.put(kind, [spec("same", f"http://{kind}:1"), spec(f"only-{kind}")], kind)
        assert [found.url for found in under_test.merged() if found.id == "same"] == [f"http://{kind}:1"], kind
        assert len(under_test.merged()) == number + 2


def test_one_place_under_two_names_is_one_worker_unless_one_source_says_both() -> None:
    under_test = roster()
    under_test.put(CONFIG, [spec("a", "http://gpu:1"), spec("b", "http://gpu:1")], CONFIG)
    under_test.put(REGISTERED, [spec("gpu-1", "http://gpu:1")], REGISTERED)
    assert [found.id for found in under_test.merged()] == ["a", "b"]


def test_a_source_that_fails_keeps_its_list_and_is_told_of_once() -> None:
    told = Told()
    now = [100.0]
    under_test = Roster(lambda: now[0], told)
    under_test.put(CONTROLLER, [spec("a")], CONTROLLER)
    now[0] = 160.0
    for _ in range(3):
        under_test.failed(CONTROLLER, CONTROLLER, "away")
    assert [found.id for found in under_test.merged()] == ["a"]
    assert under_test.describe() == [
        {"source": CONTROLLER, "kind": CONTROLLER, "workers": ["a"], "age_s": 60.0, "problem": "away"}
    ]
    under_test.put(CONTROLLER, [spec("a")], CONTROLLER)
    under_test.put(CONTROLLER, [spec("a")], CONTROLLER)
    assert told.lines == [
        ("source_failed", {"source": CONTROLLER, "error": "away", "workers": 1}),
        ("source_recovered", {"source": CONTROLLER, "workers": 1}),
    ]
    assert under_test.describe()[0]["problem"] is None


def test_only_another_list_is_a_change() -> None:
    under_test = roster()
    under_test.put(FILE, [spec("a")], FILE)
    assert under_test.changed.is_set()
    under_test.changed.clear()
    under_test.put(FILE, [spec("a")], FILE)
    under_test.failed(FILE, FILE, "broken")
    assert not under_test.changed.is_set()
    under_test.put(FILE, [spec("a", vram=8.0)], FILE)
    assert under_test.changed.is_set()


def test_sources_that_are_not_configured_any_more_are_forgotten() -> None:
    under_test = roster()
    under_test.put(CONFIG, [spec("a")], CONFIG)
    under_test.put(FILE, [spec("b")], FILE)
    under_test.changed.clear()
    under_test.keep_only([CONFIG])
    assert ([found.id for found in under_test.merged()], under_test.changed.is_set()) == (["a"], True)


def test_what_would_be_with_other_lists_changes_nothing() -> None:
    under_test = roster()
    under_test.put(CONFIG, [spec("a")], CONFIG)
    under_test.put(DNS, [spec("c")], DNS)
    assert [found.id for found in under_test.merged({CONFIG: (spec("x"),), FILE: (spec("y"),)})] == ["x", "y", "c"]
    assert [found.id for found in under_test.merged()] == ["a", "c"]
