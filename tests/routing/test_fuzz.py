"""`scripts/fuzz` for some seconds: made-up scripts do nothing that no script may do.

An hour by hand: scripts/fuzz --seconds 3600. What it finds it can make again: scripts/fuzz --seed N --only NUMBER.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.hostile import corpus
from tests.support import lua_fuzz

FUZZ = Path(__file__).resolve().parents[2] / "scripts" / "fuzz"
SECONDS = 20


def fuzz(*arguments: str, limit_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    command = [str(FUZZ), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)


def test_made_up_scripts_find_nothing() -> None:
    done = fuzz("--seconds", str(SECONDS), limit_s=SECONDS + 60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 found" in done.stdout


def test_the_same_seed_makes_the_same_programs() -> None:
    sources = [one.path.read_text("utf-8", "replace") for one in corpus.scripts(corpus.OURS)]
    for number in range(50):
        assert lua_fuzz.program(f"5-{number}", sources) == lua_fuzz.program(f"5-{number}", sources)
    assert len({lua_fuzz.program(f"5-{number}", sources) for number in range(50)}) == 50


def test_one_program_can_be_shown_and_played_alone() -> None:
    done = fuzz("--seed", "5", "--only", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("-- {")


@pytest.mark.parametrize("arguments", [["--seconds", "x"], ["--nothing"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    assert fuzz(*arguments).returncode == 2
