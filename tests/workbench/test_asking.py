"""Tests of `rbeerouter explain` on a fleet file: the request comes out of a file or flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rbeerouter import cli
from rbeerouter.config.sections import ConfigError
from rbeerouter.workbench.asking import asked

SCRIPT = """
function route_request(request, workers)
  if request.metadata:get("tier") == "free" then return "slow" end
  return "fast", request.headers["user-agent"]
end
"""


def files(folder: Path) -> list[str]:
    (folder / "fleet.json").write_text('[{"id": "fast", "models": ["m"]}, {"id": "slow", "models": ["m"]}]')
    (folder / "routing.lua").write_text(SCRIPT)
    return ["--fleet", str(folder / "fleet.json"), "--script", str(folder / "routing.lua")]


def test_flags_make_a_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = files(tmp_path)
    assert cli.main(["explain", "--model", "m", "--meta", "tier=free", *given]) == 0
    assert capsys.readouterr().out.startswith("slow   by script: routing.lua:3\n")
    assert cli.main(["explain", "--model", "m", "--header", "User-Agent=curl", "--json", *given]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == "routing.lua:4: curl"


def test_a_file_holds_a_body_or_all_of_a_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = files(tmp_path)
    path = tmp_path / "request.json"
    for content in ({"model": "m", "metadata": {"tier": "free"}}, {"body": {"model": "m"}, "headers": {"x-rbee-meta-tier": "free"}}):
        path.write_text(json.dumps(content))
        assert cli.main(["explain", str(path), *given]) == 0
        assert capsys.readouterr().out.startswith("slow ")


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_what_is_no_request_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "request.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError):
        asked(path, "/v1/chat/completions", {})


@pytest.mark.parametrize("given", [["--meta", "tier"], ["--path", "/v1/nowhere"], ["--max-tokens", "99999999999999999999"]])
def test_a_wrong_flag_is_refused(tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "--model", "m", *given, *files(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("rbeerouter: ")


def test_the_models_and_the_split_of_a_config_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = tmp_path / "fleet.json"
    fleet.write_text('[{"id": "fast", "models": ["m"]}, {"id": "slow", "models": ["m"]}]')
    config = tmp_path / "config.toml"
    config.write_text('[[models]]\nname = "m"\naliases = ["default"]\nworkers = ["s*"]\n[routing.split]\nlocal_fraction = 1\n')
    for _ in range(4):
        assert cli.main(["explain", "--model", "default", "--fleet", str(fleet), "--config", str(config)]) == 0
        said = capsys.readouterr().out
        assert said.startswith("slow   by strategy") and "the model 'm' is for s* only" in said
