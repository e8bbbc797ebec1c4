"""Tests of `routing diff` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbeerouter import cli

LAB = Path(__file__).resolve().parents[2] / "docs" / "lab"
COMMAND = ("routing", "diff", "--config", str(LAB / "home-and-cloud.toml"), "--requests", "60", "--jobs", "1", "--seeds", "2")
A, B = str(LAB / "spill.lua"), str(LAB / "spill-by-length.lua")


def test_two_scripts_are_compared_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, A, B]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("spill.lua -> spill-by-length.lua on generated")
    assert "What changes" in printed and "p95_ttft_s" in printed


def test_the_same_script_is_told_apart_and_moves_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, A, A, "--assert", "moved == 0 and worse == 0 and before.ok == ok"]) == 0
    printed = capsys.readouterr().out
    assert "spill.lua (A) -> spill.lua (B)" in printed and "0 of 120 requests (0%)" in printed
    assert "holds: moved == 0" in printed


def test_json_is_one_object_and_the_same_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        assert cli.main([*COMMAND, A, B, "--json", "--assert", "moved < 0"]) == 1
        printed.append(capsys.readouterr().out)
    found = json.loads(printed[0])
    assert printed[0] == printed[1]
    assert (found["requests"], found["seeds"], found["before"]) == (120, [1, 2], "spill.lua")
    assert [verdict["ok"] for verdict in found["assertions"]] == [False]
    assert found["moved"] == sum(move["requests"] for move in found["moves"])


def test_strategies_and_the_live_script_can_be_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main([*COMMAND, "round-robin", "least_request"]) == 0
    assert "round-robin -> least-request" in capsys.readouterr().out
    config = tmp_path / "config.toml"
    script = f'[routing]\nscript = "{A}"\n\n'
    config.write_text(script + (LAB / "home-and-cloud.toml").read_text())
    assert cli.main([*COMMAND, "--config", str(config), "live", B]) == 0
    assert "spill.lua -> spill-by-length.lua" in capsys.readouterr().out


def test_a_page_and_markdown_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page, words = tmp_path / "page.html", tmp_path / "words.md"
    assert cli.main([*COMMAND, A, B, "--report", str(page), "--markdown", str(words)]) == 0
    assert "What changes" in page.read_text() and "| p95\\_ttft\\_s |" in words.read_text()
    assert "Who moves" in capsys.readouterr().out
    assert cli.main([*COMMAND, A, B, "--markdown"]) == 0
    assert capsys.readouterr().out == words.read_text()


def test_a_param_is_set_where_a_script_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, A, B, "--param", "full=0.9"]) == 0
    assert cli.main([*COMMAND, A, A, "--param", "fulll=0.9"]) == 2
    assert "--param fulll: neither side has it" in capsys.readouterr().err


@pytest.mark.parametrize(("more", "said"), [
    ((A, "nowhere.lua"), "nowhere.lua: there is no such file; as a strategy, 'nowhere.lua': expected one of "),
    ((A, B, "--script", A), "diff: A and B say who decides"),
    ((A, B, "--seeds", "0"), "--seeds 0: expected 1 to"),
    ((A, B, "--assert", "moovd < 1"), "did you mean moved?"),
    ((A, B, "--report", "/nowhere/page.html"), "/nowhere/page.html: cannot be written"),
])  # fmt: skip
def test_what_cannot_be_compared_is_refused(more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, *more]) == 2
    assert said in capsys.readouterr().err


def test_what_can_be_asserted_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*COMMAND, A, B, "--assert", "help"]) == 0
    printed = capsys.readouterr().out
    assert "p95_ttft_s" in printed and "moved" in printed
