"""Tests of what the comparing commands do alike."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from rbeerouter.cli.judging import assert_option, progress, read_assertions, told, wants_help, write
from rbeerouter.config.sections import ConfigError


def options(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    assert_option(parser, "it fails")
    return parser.parse_args(given)


def test_assertions_are_read_in_order_and_refused_before_anything_runs() -> None:
    read = read_assertions(options("--assert", "ok > 1", "--assert", "moved < 2"), ["moved"])
    assert [one.expression for one in read] == ["ok > 1", "moved < 2"]
    with pytest.raises(ConfigError, match="no result has 'moved'"):
        read_assertions(options("--assert", "moved < 2"))


def test_help_lists_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert wants_help(options("--assert", "help")) and not wants_help(options())
    assert "p95_ttft_s" in capsys.readouterr().out


def test_each_verdict_has_its_line() -> None:
    verdicts = [one.judge({"ok": 2}) for one in read_assertions(options("--assert", "ok > 1", "--assert", "ok > 2"))]
    assert told(verdicts) == "holds: ok > 1   (ok = 2)\nFAILED: ok > 2   (ok = 2)\n"
    assert told([]) == ""


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    write(tmp_path / "page.html", "ö")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "ö"
    with pytest.raises(ConfigError, match="cannot be written: No such file"):
        write(tmp_path / "nowhere" / "page.html", "")


def test_without_a_terminal_nothing_is_drawn() -> None:
    assert progress(3, "simulating") is None
