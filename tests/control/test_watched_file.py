"""Tests of the workers file: each way of changing it is seen, and a broken one changes nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.control.roster import Roster
from rbeerouter.control.watched_file import WatchedFile

ONE = '[[workers]]\nid = "a"\nurl = "http://a:1"\n'


class Story:
    def __init__(self, path: Path) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.roster = Roster(lambda: 0.0, lambda event, **fields: self.told.append((event, fields)))
        self.file = WatchedFile(path, 2, self.roster)

    def look(self) -> list[str]:
        self.file.look()
        return [spec.id for spec in self.roster.merged()]


def test_a_file_that_is_written_over_or_put_in_place_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "workers.toml"
    story = Story(path)
    assert story.look() == []
    path.write_text(ONE)
    assert story.look() == ["a"]
    other = tmp_path / "other"
    other.write_text(ONE.replace('"a"', '"b"'))
    stamp = path.stat()
    os.utime(other, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    other.replace(path)
    assert story.look() == ["b"], "the same time and size, another inode"
    assert story.roster.sources["file"].specs[0].source == "file"


def test_a_broken_file_changes_nothing_and_says_where_it_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "workers.toml"
    path.write_text(ONE)
    story = Story(path)
    assert story.look() == ["a"]
    for text, told in (
        (ONE + '[[workers]]\nurl = "http://b:1"\nvram = "much"\n', "workers[1].vram = 'much'"),
        ("[[workers]\n", "(at line 1, column 10)"),
        ("a = " + "[" * 10_000, "is not valid TOML"),
        (ONE + ONE, "workers[1].id = 'a': another worker has this id"),
        (ONE + "zzz = 1\n", "workers[0].zzz: unknown key"),
        (ONE.replace("workers", "worker"), "worker: unknown key; did you mean 'workers'?"),
    ):
        story.told.clear()
        story.roster.sources["file"].problem = None
        path.write_text(text)
        assert story.look() == ["a"]
        (event, fields) = story.told[0]
        assert (event, told in fields["error"], str(path) in fields["error"]) == ("source_failed", True, True), fields
    path.unlink()
    assert story.look() == ["a"]
    path.write_text(ONE.replace('"a"', '"c"'))
    assert story.look() == ["c"]
    assert story.told[-1][0] == "source_recovered"


@pytest.mark.parametrize("whole", [True, False])
def test_a_json_list_will_do(tmp_path: Path, whole: bool) -> None:
    path = tmp_path / "workers.json"
    workers = [{"id": "a", "url": "http://a:1", "metadata": {"rack": 3}}]
    path.write_text(json.dumps({"workers": workers} if whole else workers))
    story = Story(path)
    assert story.look() == ["a"]
    path.write_text("[1]")
    assert story.look() == ["a"]
    assert "workers[0] = 1" in story.told[0][1]["error"]


def test_a_file_that_has_not_changed_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "workers.toml"
    path.write_text(ONE)
    story = Story(path)
    story.look()
    story.roster.sources.clear()
    assert story.look() == []
