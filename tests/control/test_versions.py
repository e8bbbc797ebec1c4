"""Tests of the list of versions: what is kept, in which order, and which one is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rbeerouter.control.store import Store
from rbeerouter.control.versions import EDITED, UnknownVersion, Versions, full_hash


def versions(folder: Path, most: int = 20, log: Any = lambda *_, **fields: None) -> tuple[Store, Versions]:
    store = Store(folder, log, lambda: "now")
    return store, Versions(store, store.load().versions, most)


def texts(made: Versions) -> list[bytes]:
    return [version.text for version in made.newest_first()]


def activate(made: Versions, *given: bytes) -> None:
    for at, text in enumerate(given):
        made.became_active(text, "anna@desk", "reload", float(at))


def test_each_text_is_kept_once_at_the_place_of_its_last_time(tmp_path: Path) -> None:
    store, made = versions(tmp_path)
    activate(made, b"a", b"b", b"c", b"a")
    assert texts(made) == [b"a", b"c", b"b"]
    store.close()
    store, again = versions(tmp_path)
    store.close()
    assert again.newest_first() == made.newest_first()


def test_a_restart_with_the_same_script_does_not_hide_who_put_it_there(tmp_path: Path) -> None:
    store, made = versions(tmp_path)
    made.became_active(b"a", "anna@desk", "promote", 1.0)
    made.became_active(b"a", "start", "start", 2.0)
    store.close()
    (only,) = made.newest_first()
    assert (only.who, only.how, only.at) == ("anna@desk", "promote", 1.0)


def test_only_so_many_are_kept_on_disk_as_well(tmp_path: Path) -> None:
    store, made = versions(tmp_path, most=3)
    activate(made, b"a", b"b", b"c", b"d")
    assert texts(made) == [b"d", b"c", b"b"]
    made.keep(2)
    assert texts(made) == [b"d", b"c"]
    store.close()
    store, again = versions(tmp_path)
    store.close()
    assert texts(again) == [b"d", b"c"]


def test_the_one_before_is_the_last_that_was_active_and_another(tmp_path: Path) -> None:
    store, made = versions(tmp_path)
    activate(made, b"a", b"b")
    made.overwritten(b"edited", "anna@desk", 3.0)
    assert made.newest_first()[0].how == EDITED
    assert (made.before(b"b").text, made.before(b"a").text, made.before(None).text) == (b"a", b"b", b"b")
    store.close()


def test_an_edit_is_kept_once_and_what_was_active_stays_so(tmp_path: Path) -> None:
    store, made = versions(tmp_path)
    activate(made, b"a", b"b")
    made.overwritten(b"a", "anna@desk", 3.0)
    made.overwritten(b"edited", "anna@desk", 4.0)
    made.overwritten(b"edited", "anna@desk", 5.0)
    assert [(version.text, version.how) for version in made.newest_first()] == [
        (b"edited", EDITED), (b"b", "reload"), (b"a", "reload"),
    ]  # fmt: skip
    made.became_active(b"edited", "anna@desk", "rollback", 6.0)
    newest = made.newest_first()[0]
    assert (newest.text, newest.how) == (b"edited", "rollback")
    store.close()


def test_with_one_version_there_is_none_before(tmp_path: Path) -> None:
    store, made = versions(tmp_path)
    activate(made, b"a")
    with pytest.raises(UnknownVersion, match="no earlier version"):
        made.before(b"a")
    store.close()


def test_a_version_is_found_by_the_beginning_of_its_hash(tmp_path: Path) -> None:
    store, made = versions(tmp_path)
    activate(made, b"a", b"b")
    digits = full_hash(b"a")
    for wanted in (digits, digits[:4], digits[:12].upper()):
        assert made.find(wanted).text == b"a"
    store.close()


def test_a_beginning_of_two_hashes_names_neither(tmp_path: Path) -> None:
    store, made = versions(tmp_path, most=1000)
    activate(made, *(str(number).encode() for number in range(900)))
    starts = [version.hash[:4] for version in made.newest_first()]
    twice = next(start for start in starts if starts.count(start) == 2)
    with pytest.raises(UnknownVersion, match=f"{twice}: more than one version begins so: {twice}.*, {twice}"):
        made.find(twice)
    store.close()


@pytest.mark.parametrize(
    "wanted",
    ["", "abc", "ghij", "../../etc/passwd", "%00%00%00%00", "a" * 65, "a" * 10_000, "' OR 1=1 --", "\u0661\u0662\u0663\u0664", "abcd\n"],
)
def test_what_is_no_hash_is_told_so_shortly(wanted: str, tmp_path: Path) -> None:
    store, made = versions(tmp_path)
    activate(made, b"a")
    with pytest.raises(UnknownVersion, match="expected 4 to 64 hex digits") as refused:
        made.find(wanted)
    assert len(str(refused.value)) < 200
    store.close()


def test_without_a_folder_the_list_is_in_memory_and_that_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told: list[str] = []
    store, made = versions(tmp_path / "file" / "state", log=lambda event, **fields: told.append(event))
    activate(made, b"a", b"b")
    store.close()
    assert (texts(made), told, made.problem is not None) == ([b"b", b"a"], ["state_not_kept"], True)
