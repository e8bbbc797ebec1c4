"""`rbeerouter routing replay` on logs as the core writes them: what it prints, its JSON and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbeerouter.cli import main
from tests.sim.test_replay import LEAST, World

OTHER = b"""
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  if request.user_id == "alice" then return ready:last(), "alice's own" end
  return ready:min_by("load")
end
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with routing.log and the script that decided it."""
    folder = tmp_path_factory.mktemp("recorded")
    World(LEAST, seed=3).play(200).write(folder)
    (folder / "routing.lua").write_bytes(LEAST)
    (folder / "new.lua").write_bytes(OTHER)
    return folder


def run(folder: Path, *arguments: str, script: str = "routing.lua") -> int:
    log, path = str(folder / "routing.log"), str(folder / script)
    return main(["routing", "replay", "--log", log, "--script", path, *arguments])


def test_the_same_script_changes_nothing(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recorded, "--json", "--max-changed", "0") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["total"], found["changed"], found["reasons"], found["uncertain"]) == (200, 0, 0, 0)
    assert run(recorded, "--fail-over", "0%") == 0
    assert capsys.readouterr().out.startswith("200 decisions made again, 0 changed (0.00%)\n")


def test_a_changed_script_shows_who_moves_and_by_which_line(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recorded, script="new.lua") == 0
    told = capsys.readouterr().out
    assert "requests  from -> to" in told and "-> new.lua:4: alice's own; such as r-" in told
    assert run(recorded, "--max-changed", "3", script="new.lua") == 1
    assert run(recorded, "--fail-over", "1%", script="new.lua") == 1
    assert run(recorded, "--fail-over", "100%", script="new.lua") == 0


def test_only_a_stretch_of_time_may_be_compared(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = [json.loads(line)["time"] for line in (recorded / "routing.log").read_bytes().splitlines()]
    middle = sorted(times)[100]
    assert run(recorded, "--json", "--from", middle) == 0
    later = json.loads(capsys.readouterr().out)["total"]
    assert run(recorded, "--json", "--to", middle) == 0
    assert 0 < later < 200 and later + json.loads(capsys.readouterr().out)["total"] == 200


def test_without_a_configuration_it_says_what_is_not_known(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(recorded)
    assert "no configuration: rules of [[models]], the split and limits are the defaults" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--from", "noon"], "argument --from: 'noon': expected a time such as 2026-03-01T12:00:00Z"),
        (["--fail-over", "many"], "argument --fail-over: 'many': expected a percentage such as 5%"),
        (["--max-changed", "-1"], "expected"),
    ],
)
def test_options_that_say_nothing_are_told(
    arguments: list[str], told: str, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(recorded, *arguments)
    assert told in capsys.readouterr().err


def test_a_log_and_a_script_that_are_not_there_are_told(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recorded, script="nowhere.lua") == 2
    assert "nowhere.lua: cannot be read" in capsys.readouterr().err
    assert main(["routing", "replay", "--log", "/nowhere.log", "--script", str(recorded / "new.lua")]) == 2
    assert "/nowhere.log: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("limit", ["--max-changed", "--fail-over"])
def test_a_limit_is_not_kept_where_nothing_was_compared(limit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "routing.log").write_bytes(b"")
    (tmp_path / "routing.lua").write_bytes(LEAST)
    assert run(tmp_path, limit, "5") == 1 and run(tmp_path) == 0
    assert "no decision could be compared" in capsys.readouterr().err
