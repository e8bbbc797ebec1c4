"""Traffic of a file as the options say it: what is made of it, what is told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbeerouter.sim.traces import Cut
from tests.cli.test_scenario import prepare, refusal
from tests.support.daemon import REPOSITORY

DATA = REPOSITORY / "tests" / "sim" / "data"
AZURE, BURSTGPT, MOONCAKE, LOG = (
    str(DATA / name) for name in ("azure_2023.csv", "burstgpt.csv", "mooncake.jsonl", "routing.log")
)


@pytest.fixture(autouse=True)
def have_no_files_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_a_trace_is_taken_whole_with_its_own_times() -> None:
    made = prepare("--trace", AZURE)
    assert made.scenario.workload.count == 4
    assert made.scenario.start_wall == pytest.approx(1700158546.68059)
    told = " | ".join(made.notes)
    assert "the trace names no models, tiers, regions, users and the like: they are made up" in told
    assert "load: 0.05 requests/s, " in told and "of what these workers could serve at most" in told
    assert {one.request.model for one in made.scenario.workload} <= {"llama-3-8b", "llama-3.1-8b", "llama-3-70b"}


def test_the_model_can_be_said_and_tiers_left_out() -> None:
    made = prepare("--trace", AZURE, "--model", "llama-3-70b", "--workload", "tiers={}")
    assert {one.request.model for one in made.scenario.workload} == {"llama-3-70b"}
    assert all("tier" not in one.request.metadata for one in made.scenario.workload)


def test_every_cut_can_be_said() -> None:
    made = prepare("--trace", AZURE, "--format", "azure", "--from", "1s", "--to", "2m", "--skip", "1", "--requests", "5",
                   "--speed", "2", "--scale", "1.5")  # fmt: skip
    assert made.scenario.workload.cut == Cut(1.0, 120.0, 1, 5, 2.0, 1.5)
    assert made.scenario.workload.count == 5


def test_a_trace_that_is_too_much_is_told_with_the_speed_that_would_do() -> None:
    told = prepare("--trace", MOONCAKE, "--speed", "100").notes[-1]
    assert told.startswith("load: 66.7 requests/s, ") and "would make it 60%" in told


def test_models_that_nobody_has_are_mapped_or_refused() -> None:
    assert refusal("--trace", BURSTGPT) == (
        f"{BURSTGPT}: asks for ChatGPT, GPT-4, which no worker has; expected --map ChatGPT=MODEL with one of llama-3-8b, "
        "llama-3.1-8b, llama-3-70b"
    )
    assert "asks for ChatGPT, which no worker has" in refusal("--trace", BURSTGPT, "--map", "GPT-4=llama-3-70b")
    made = prepare("--trace", BURSTGPT, "--map", "GPT-4=llama-3-70b", "--map", "*=llama-3-8b").scenario
    assert [one.request.model for one in made.workload] == ["llama-3-8b", "llama-3-8b", "llama-3-70b"]


def test_a_log_of_ours_may_ask_for_what_nobody_has() -> None:
    made = prepare("--trace", LOG)
    assert "no worker has bge-m3: asked for in vain; --map bge-m3=MODEL changes that" in made.notes
    assert not any("made up" in note for note in made.notes)
    assert [one.request.id for one in made.scenario.workload] == ["r-1", "r-2", "r-3"]


def test_workers_that_list_no_models_have_those_of_the_trace(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[[workers]]\nurl = 'http://127.0.0.1:9000'\n")
    made = prepare("--trace", BURSTGPT, "--config", str(path))
    assert made.scenario.workers[0].spec.models == ("ChatGPT", "GPT-4")


def test_a_scenario_s_file_can_name_the_trace_and_options_go_before_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(Path(BURSTGPT).read_bytes())
    path = tmp_path / "s.toml"
    path.write_text("[trace]\nfile = 't.csv'\nspeed = 3\nto_s = 60\nmap = { '*' = 'llama-3-8b' }\n")
    made = prepare("--scenario", str(path)).scenario.workload
    assert (made.path, made.cut, made.count) == (tmp_path / "t.csv", Cut(to_s=60.0, speed=3.0), 2)
    made = prepare("--scenario", str(path), "--speed", "4", "--map", "ChatGPT=llama-3-70b").scenario.workload
    assert (made.cut.speed, made.models) == (4.0, {"*": "llama-3-8b", "ChatGPT": "llama-3-70b"})
    made = prepare("--scenario", str(path), "--trace", AZURE).scenario.workload
    assert (made.path, made.cut.speed) == (Path(AZURE), 3.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--trace", "/none"], "/none: cannot be read: No such file or directory"),
        (["--trace", AZURE, "--rate", "2"], "--rate: a trace has a rate of its own; --speed 2 lets time go twice as fast"),
        (["--trace", AZURE, "--speed", "0"], "--speed 0: expected more than 0, and at most 1000000"),
        (["--trace", AZURE, "--scale", "-1"], "--scale -1: expected more than 0"),
        (["--trace", AZURE, "--scale", "nan"], "--scale nan: expected more than 0"),
        (["--trace", AZURE, "--from", "later"], "--from: 'later': expected a time such as"),
        (["--trace", AZURE, "--from", "2h", "--to", "1h"], "--to 3600 s: expected more than 7200 s, where it begins"),
        (["--trace", AZURE, "--format", "csv"], "--format 'csv': expected one of azure, burstgpt, mooncake, log"),
        (["--trace", AZURE, "--map", "x"], "'x': expected NAME=VALUE"),
        (["--trace", AZURE, "--from", "2h"], "azure_2023.csv: no requests from 7200 s after skipping 0"),
        (["--speed", "2"], "--speed: is for traffic of a file; expected --trace FILE as well"),
        (["--from", "2h"], "--from: is for traffic of a file; expected --trace FILE as well"),
        (["--map", "a=b"], "--map: is for traffic of a file; expected --trace FILE as well"),
    ],
    ids=lambda given: " ".join(given[-2:]) if isinstance(given, list) else "",
)  # fmt: skip
def test_what_is_wrong_is_refused_with_the_option_and_the_value(given: list[str], said: str) -> None:
    assert said in refusal(*given)


@pytest.mark.parametrize(("text", "said"), [
    ("file = 'none.csv'", "/none.csv: cannot be read: No such file or directory"),
    ("speed = 2", "trace"),
    ("file = 'x'\nform = 'azure'", "s.toml: trace.form: unknown key; did you mean 'format'?"),
    ("file = 'x'\nformat = 'csv'", "s.toml: trace.format 'csv': expected one of azure"),
    ("file = 'x'\nspeed = 0", "s.toml: trace.speed = 0: expected `float` > 0.0"),
    ("file = 'x'\nfrom_s = 9\nto_s = 5", "s.toml: trace.to 5 s: expected more than 9 s, where it begins"),
])  # fmt: skip
def test_what_is_wrong_in_a_scenario_s_trace_is_refused_with_the_key(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(f"[trace]\n{text}\n")
    assert said in refusal("--scenario", str(tmp_path / "s.toml"))
