"""Tests of `rbeerouter routing check` as a command: findings, unreachable workers, costs, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbeerouter import cli

GOOD = "function route_request(request, workers)\n  return nil\nend\n"
ONLY_GPUS = """
function route_request(request, workers)
  return workers:filter(function(w) return w.status == "ready" and w.backend == "cuda" end):min_by("load")
end
"""


def check(folder: Path, script: str, *options: str) -> int:
    path = folder / "routing.lua"
    path.write_text(script)
    return cli.main(["routing", "check", "--script", str(path), *options])


def test_a_good_script_has_its_cost_and_exit_code_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, GOOD) == 0
    cost, verdict = capsys.readouterr().out.splitlines()
    assert (cost.startswith("a decision takes "), verdict) == (True, "routing.lua: no errors, no warnings")


def test_an_error_is_shown_with_its_line_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, GOOD.replace("nil", "workers[1].lod")) == 1
    said = capsys.readouterr().out
    assert ("routing.lua:2:" in said, "^" in said, said.splitlines()[-1].startswith("routing.lua: 1 error")) == (True, True, True)


def test_a_program_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, GOOD.replace("nil", "wrkers[1]"), "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], [finding["code"] for finding in report["findings"]], report["decision_us"]) == (False, ["unknown-name"], {})
    assert check(tmp_path, GOOD, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], set(report["decision_us"]), len(report["hash"])) == (True, {"8", "64", "512"}, 12)


def test_reading_alone_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, GOOD, "--static") == 0
    assert capsys.readouterr().out == "routing.lua: no errors, no warnings\n"


def test_a_worker_that_no_request_reaches_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[[workers]]\nid = "gpu"\nurl = "http://127.0.0.1:1"\nbackend = "cuda"\n'
        '[[workers]]\nid = "cpu"\nurl = "http://127.0.0.1:2"\nbackend = "cpu"\n'
    )
    assert check(tmp_path, ONLY_GPUS, "--config", str(config), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [(finding["code"], finding["message"]) for finding in report["findings"]] == [
        ("never-chosen", "no request that was tried goes to the worker cpu"),
    ]  # fmt: skip


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["routing", "check", "--script", str(tmp_path / "none.lua")]) == 2
    assert "cannot be read" in capsys.readouterr().err
