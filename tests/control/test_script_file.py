"""Tests of writing over a script: whole, with its mode, through links, and never over an edit."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rbeerouter.control.script_file import NotWritten, put, text_of


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_text_is_replaced_and_the_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "routing.lua"
    path.write_bytes(b"old")
    path.chmod(0o640)
    put(path, b"new\xff", b"old")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode), names(tmp_path)) == (b"new\xff", 0o640, ["routing.lua"])


def test_who_has_it_open_reads_the_old_text_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "routing.lua"
    path.write_bytes(b"old text")
    with path.open("rb") as reader:
        put(path, b"new", b"old text")
        assert reader.read() == b"old text"


def test_a_file_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "routing.lua"
    assert text_of(path) is None
    put(path, b"new", None)
    assert text_of(path) == b"new"


def test_a_link_stays_and_leads_to_the_new_text(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a.lua", tmp_path / "routing.lua"
    target.write_bytes(b"old")
    link.symlink_to(target)
    put(link, b"new", b"old")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"new")


@pytest.mark.parametrize("seen", [b"old", None])
def test_an_edit_that_was_not_seen_is_not_lost(seen: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "routing.lua"
    path.write_bytes(b"edited")
    with pytest.raises(NotWritten, match="was changed by somebody"):
        put(path, b"new", seen)
    assert (path.read_bytes(), names(tmp_path)) == (b"edited", ["routing.lua"])


def test_a_folder_that_is_gone_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match=r"gone/routing\.lua: cannot be written: No such file"):
        put(tmp_path / "gone" / "routing.lua", b"new", None)


def test_a_folder_in_the_files_place_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "routing.lua"
    path.mkdir()
    with pytest.raises(NotWritten, match="cannot be read: Is a directory"):
        text_of(path)
    with pytest.raises(NotWritten, match="cannot be read: Is a directory"):
        put(path, b"new", None)
    assert names(tmp_path) == ["routing.lua"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything; tests/server/test_versions.py drops that")
def test_a_file_that_is_read_only_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "routing.lua"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(NotWritten, match="read-only"):
        put(path, b"new", b"old")
    assert path.read_bytes() == b"old"


def test_what_is_no_ordinary_file_or_far_too_large_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.lua")
    (device := tmp_path / "zero.lua").symlink_to("/dev/zero")
    (large := tmp_path / "large.lua").write_bytes(b"-" * 32_769)
    for path, why in ((pipe, "no ordinary file"), (device, "no ordinary file"), (large, "at most 32768 bytes"), (tmp_path, "directory")):
        with pytest.raises(NotWritten, match=why):
            text_of(path)
