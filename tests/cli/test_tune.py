"""Tests of `routing tune` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbeerouter import cli
from rbeerouter.routing.syntax import params

LAB = Path(__file__).resolve().parents[2] / "docs" / "lab"
SCRIPT = LAB / "spill.lua"
COMMAND = (
    "routing", "tune", "--config", str(LAB / "home-and-cloud.toml"), "--requests", "60", "--jobs", "1", "--runs", "6",
)  # fmt: skip


def tuned(*more: str, script: Path = SCRIPT) -> int:
    return cli.main([*COMMAND, "--script", str(script), *more])


def test_a_sweep_is_drawn_and_its_lines_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned() == 0
    printed = capsys.readouterr().out
    for part in ("p95_ttft_s", "cost", "Worth choosing between", "recommended", "now"):
        assert part in printed
    lines = [line.partition(": ")[2] for line in printed.splitlines() if line.startswith("  spill.lua:4")]
    assert all(params(line.encode())[0].name == "full" for line in lines)


def test_json_is_one_object_and_the_same_each_time_and_with_any_number_of_processes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = []
    for jobs in ("1", "2"):
        assert tuned("--json", "--jobs", jobs) == 0
        printed.append(capsys.readouterr().out)
    found = json.loads(printed[0])
    assert printed[0] == printed[1]
    assert found["tried"][found["now"]]["params"] == {"full": 0.9}
    assert found["runs"] <= 6 and found["objectives"][0] == {"name": "p95_ttft_s", "largest": False}


def test_values_that_are_named_are_those_that_are_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned("--json", "--param", "full=0.2,0.5") == 0
    assert [point["params"]["full"] for point in json.loads(capsys.readouterr().out)["tried"]] == [0.9, 0.2, 0.5]


def test_a_param_that_is_fixed_is_not_swept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = tmp_path / "two.lua"
    script.write_text(SCRIPT.read_text().replace("-- At home", 'local other = param("other", 1, 0, 9)   -- At home'))
    assert tuned("--json", "--param", "full=0.5", script=script) == 0
    found = json.loads(capsys.readouterr().out)
    assert {tuple(point["params"]) for point in found["tried"]} == {("other",)}


def test_where_every_value_breaks_an_assertion_nothing_is_recommended(capsys: pytest.CaptureFixture[str]) -> None:
    assert tuned("--assert", "ok < 0") == 1
    assert "Nothing can be recommended: every point breaks ok < 0." in capsys.readouterr().out


def test_a_page_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert tuned("--report", str(page), "--maximise", "goodput", "--minimise", "cost") == 0
    assert "Params of spill.lua" in page.read_text()


@pytest.mark.parametrize(("more", "said"), [
    (("--runs", "1"), "--runs 1: expected 2 to"),
    (("--minimise", "costs"), "did you mean cost?"),
    (("--param", "ful=1,2"), "--param ful: the script has full; did you mean full?"),
    (("--param", "full=0.1..0.8/50"), "51 points, the present one included, are more than --runs 6"),
    (("--script", str(LAB / "affinity.lua")), 'affinity.lua has no param() to tune; name a number of it, as in\n  local most = param('),
    (("--strategy", "round-robin"), "there is no script"),
])  # fmt: skip
def test_what_cannot_be_tuned_is_refused(more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = list(COMMAND)
    if "--script" not in more and "--strategy" not in more:
        given += ["--script", str(SCRIPT)]
    assert cli.main([*given, *more]) == 2
    assert said in capsys.readouterr().err
