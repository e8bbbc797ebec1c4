"""Tests of `routing bench` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbeerouter import cli

SCRIPT = str(Path(__file__).resolve().parents[2] / "routing.example.lua")


def test_each_number_of_workers_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["routing", "bench", "--script", SCRIPT, "--workers", "1,4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "One decision of routing.example.lua"
    assert [line.split()[0] for line in lines[3:5]] == ["1", "4"]


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["routing", "bench", "--script", SCRIPT, "--workers", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (cost,) = found["decisions"]
    assert (found["script"], cost["workers"]) == ("routing.example.lua", 2)
    assert 0 < cost["median_us"] <= cost["p99_us"] and cost["script_us"] > 0


def test_what_is_no_number_of_workers_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["routing", "bench", "--script", SCRIPT, "--workers", "many"]) == 2
    assert "--workers many: expected whole numbers" in capsys.readouterr().err
