"""`rbeerouter routing simulate`, in this process, as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbeerouter.cli import main


@pytest.fixture(autouse=True)
def have_no_files_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_what_was_chosen_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routing", "simulate", "--requests", "10"]) == 0
    printed = capsys.readouterr().out
    assert "note: no config: the built-in home lab is simulated" in printed
    assert "note: rate: " in printed


def test_bad_input_is_refused_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["routing", "simulate", "--rate", "0"]) == 2
    assert capsys.readouterr() == ("", "rbeerouter: --rate 0: expected more than 0\n")
