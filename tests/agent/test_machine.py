"""Tests of asking a machine's tools, which are scripts on the PATH here."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbeerouter.agent import machine
from rbeerouter.agent.readings import Reading
from tests.support.aio import story


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}")
    return tmp_path


@story
async def test_a_machine_without_tools_tells_nothing(tools: Path) -> None:
    assert (await machine.measure(), await machine.owner_active(60)) == ((None, Reading()), None)


@story
async def test_the_tool_that_is_there_tells(tools: Path) -> None:
    tool(tools, "rocm-smi", """echo '{"card0": {"VRAM Total Memory (B)": "17163091968"}}'""")
    assert await machine.measure() == ("rocm", Reading(15.984))
    tool(tools, "nvidia-smi", 'case "$1" in --query-gpu=*) echo "24564, 18230, 61, 287.45";; esac')
    assert await machine.measure() == ("cuda", Reading(23.988, 17.803, 61.0, 287.45))
    tool(tools, "nvidia-smi", "echo 24564, 18230, 61, 287.45; exit 9")
    assert (await machine.measure())[0] == "rocm"


@story
async def test_a_tool_that_hangs_is_given_up(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_TIMEOUT_S", 0.2)
    tool(tools, "nvidia-smi", "exec /bin/sleep 30")
    assert (await machine.measure())[0] is None


@story
async def test_who_has_just_typed_is_there_and_who_has_not_is_not(tools: Path) -> None:
    tool(tools, "xprintidle", "echo 59000")
    assert (await machine.owner_active(60), await machine.owner_active(30)) == (True, False)
    tool(tools, "nvidia-smi", "echo '|    0   N/A  N/A   9911    G   /home/a/steamapps/x    6000MiB |'")
    assert await machine.owner_active(30) is True
