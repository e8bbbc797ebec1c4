"""docs/policy-lab.md can be walked: its commands run one after the other, and its pictures are there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from rbeerouter import cli
from tests.docs.pages import REPOSITORY, read
from tests.docs.test_simulate import FILES

PAGE = read("docs/policy-lab.md")
COMMANDS = [
    line.removeprefix("rbeerouter ")
    for block in PAGE.blocks if block.language == "sh"
    for line in block.text.splitlines() if line.startswith("rbeerouter routing")
]  # fmt: skip
LESS = {"simulate": ("--requests", "200"), "diff": ("--seeds", "3"), "tune": ("--runs", "6")}
"""So that a walk takes seconds; the lab's scenario has two thousand requests."""


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With what the page copies into it, and the public traces."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (copied,) = [line for block in PAGE.blocks for line in block.text.splitlines() if line.startswith("cp ")]
    for pattern in copied.removeprefix("cp ").removesuffix(" .").split():
        for path in REPOSITORY.glob(pattern.removeprefix("~/rbeerouter/")):
            shutil.copy(path, tmp_path)
    for name in ("routing.example.lua", "AzureLLMInferenceTrace_conv.csv", "conversation_trace.jsonl"):
        shutil.copy(next(source for source in FILES[name] if source.exists()), tmp_path / name)
    return tmp_path


def test_the_walk_can_be_walked(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = empty_folder / "home-and-cloud-scenario.toml"
    scenario.write_text(scenario.read_text().replace("requests = 2000", "requests = 200"))
    printed = {}
    for command in COMMANDS:
        words = shlex.split(command)
        code = cli.main([*words, *LESS.get(words[1], ()), *(["--jobs", "1"] if words[1] in ("diff", "tune") else [])])
        told = capsys.readouterr()
        assert (code, told.err) == (0, ""), command
        printed[words[1]] = told.out
    assert [shlex.split(command)[1] for command in COMMANDS] == [
        "simulate", "calibrate", "simulate", "replay", "diff", "diff", "tune", "simulate", "simulate",
    ]  # fmt: skip
    assert {"report.html", "diff.html", "diff.md", "trade-off.html", "azure.html", "mooncake.html"} <= {
        path.name for path in empty_folder.iterdir()
    }
    assert printed["replay"].startswith("200 decisions made again, ") and "spill.lua:7 -> " in printed["replay"]
    assert "recommended: full = " in printed["tune"]


def test_all_pictures_are_shown_and_described() -> None:
    shown = re.findall(r"!\[([^\]]+)\]\(images/([\w.-]+)\)", PAGE.text)
    assert {name for _, name in shown} == {path.name for path in (REPOSITORY / "docs" / "images").glob("*.png")}
    assert all(len(words) > 20 for words, _ in shown)


def test_each_test_that_proves_a_claim_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE.text)
    assert len(named) >= 6 and all((REPOSITORY / name).exists() for name in named)
