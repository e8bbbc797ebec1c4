"""Tests of the command `rbeerouter routing calibrate` as it is typed."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from rbeerouter.cli import main
from tests.sim.logged import SLOW, line_of, seen_of, write_log


@pytest.fixture(name="log")
def write(tmp_path: Path) -> Path:
    return write_log(tmp_path / "routing.log", [line_of(one, at) for at, one in enumerate(seen_of(SLOW, 60, 2.0))])


def calibrate(*arguments: object) -> int:
    return main(["routing", "calibrate", *map(str, arguments)])


def test_it_prints_a_table_and_writes_what_simulate_reads(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = log.with_name("workers.toml")
    assert calibrate("--log", log, "--slots", 4, "--out", out) == 0
    said = capsys.readouterr()
    assert said.out.startswith("gpu: 60 requests of 60 lines\n")
    assert said.err == ""                                     # no progress where nobody looks
    values = tomllib.loads(out.read_text())["workers"]["gpu"]
    assert values["slots"] == 4
    assert values["step_s"] == pytest.approx(SLOW.step_s, rel=0.2)


def test_json_is_nothing_but_json(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate("--log", log, "--slots", 4, "--json") == 0
    assert json.loads(capsys.readouterr().out)["workers"]["gpu"]["counting"] == 60


def test_where_no_worker_can_be_told_it_fails_and_says_why(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate("--log", log, "--most", 20) == 1
    assert "not fitted: 20 requests count, expected 30 or more" in capsys.readouterr().out


def test_bad_input_is_refused(tmp_path: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate("--log", tmp_path / "none.log") == 2
    assert "none.log: cannot be read" in capsys.readouterr().err
    assert calibrate("--log", log, "--worker", "cpu") == 2
    assert "--worker cpu: is not in the log; there are gpu" in capsys.readouterr().err
    assert calibrate("--log", log, "--slots", 0) == 2
    assert "--slots 0: expected" in capsys.readouterr().err
