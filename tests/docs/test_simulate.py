"""docs/simulate.md tells every option and every key, and its commands run."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest

from rbeerouter import cli
from rbeerouter.config.sections import Section
from rbeerouter.sim import scenario_file, workload
from rbeerouter.sim.draws import ARRIVALS, NEEDS, Lengths
from rbeerouter.sim.faults import KINDS
from rbeerouter.sim.trace_formats import FORMATS
from tests.docs.pages import REPOSITORY, read

PAGE = read("docs/simulate.md")
DATA, SHARED = REPOSITORY / "tests" / "sim" / "data", REPOSITORY.parent / "shared" / "data"
FILES = {
    "routing.example.lua": (REPOSITORY / "routing.example.lua",),
    "config.example.toml": (REPOSITORY / "config.example.toml",),
    "routing.log": (DATA / "routing.log",),
    "AzureLLMInferenceTrace_conv.csv": (SHARED / "azure_llm_inference_2023_conv.csv", DATA / "azure_2023.csv"),
    "conversation_trace.jsonl": (SHARED / "mooncake_conversation.jsonl", DATA / "mooncake.jsonl"),
    "BurstGPT_1.csv": (DATA / "burstgpt.csv",),
}
"""{what the page calls it: the first of these that is there}"""
COMMANDS = [
    line.removeprefix("rbeerouter ")
    for block in PAGE.blocks if block.language == "sh"
    for line in block.text.splitlines() if line.startswith("rbeerouter routing simulate")
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for name, sources in FILES.items():
        shutil.copy(next(source for source in sources if source.exists()), tmp_path / name)
    (tmp_path / "workers.toml").write_text("[workers.worker-mini]\nslots = 2\n")
    code = cli.main([*shlex.split(command), "--requests", "200", "--no-ledger"])
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert "average latency: " in printed.out


def test_the_page_has_its_commands() -> None:
    assert len(COMMANDS) == 10


def test_every_option_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._parser().parse_args(["routing", "simulate", "--help"])
    options = {word.strip("[],;.:()'") for word in capsys.readouterr().out.split() if word.strip("[(").startswith("--")}
    told = {word.strip("`") for span in PAGE.spans for word in span.split()}
    assert {option for option in options if option.startswith("--")} - {"--help", "--"} - told == set()


@pytest.mark.parametrize(
    ("section", "title"),
    [
        (workload.Traffic, "Keys of [workload]"), (Lengths, "Lengths"), (workload.Sessions, "Conversations"),
        (scenario_file.TraceTable, "Scenario files"), (scenario_file.WorkerTable, "Scenario files"),
        (scenario_file.FaultEntry, "Scenario files"),
    ],
)  # fmt: skip
def test_every_key_has_its_row(section: type[Section], title: str) -> None:
    told = set(PAGE.table(title.replace("[workload]", "`[workload]`")))
    assert set(section.__struct_fields__) - told == set()


def test_the_keys_of_a_mix_and_of_the_targets_are_told() -> None:
    told = set(PAGE.spans)
    for section in (workload.Mix, scenario_file.TargetsTable, scenario_file.ScenarioFile):
        assert {name for name in section.__struct_fields__ if name not in told and f"[{name}]" not in told} <= {
            "workload", "trace", "workers", "faults",
        }  # fmt: skip


def test_every_kind_of_arrivals_lengths_faults_and_files_is_told() -> None:
    told = {span.strip('"') for span in PAGE.spans}
    assert {*ARRIVALS, *NEEDS, *KINDS, *FORMATS} - told == set()


def test_the_defaults_are_those_of_the_code() -> None:
    rows = PAGE.table("Keys of `[workload]`")
    for name in ("requests", "cv", "burst_times", "swing", "users", "zipf", "stream", "max_tokens"):
        assert float(rows[name][0]) == getattr(workload.Traffic(), name), name
    assert rows["tokens_in"][0] == "lognormal, mean 600, sigma 1.0" and rows["tokens_out"][0] == "lognormal, mean 200, sigma 0.8"
    traffic = workload.Traffic()
    for name in ("tiers", "regions", "priorities"):
        assert rows[name][0] == ", ".join(f"{key} {value}" for key, value in getattr(traffic, name).items())
    assert (traffic.tokens_in.mean, traffic.tokens_in.sigma, traffic.tokens_out.mean, traffic.tokens_out.sigma) == (600, 1.0, 200, 0.8)
    rows = PAGE.table("Conversations")
    sessions = workload.Sessions()
    assert [float(rows[name][0]) for name in ("turns", "think_s", "answer_tokens_per_s", "most_tokens")] == [
        sessions.turns, sessions.think_s, sessions.answer_tokens_per_s, sessions.most_tokens,
    ]  # fmt: skip
    assert rows["system_tokens"][0] == str(list(sessions.system_tokens))


def test_the_scenario_that_is_shown_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (shown,) = [block.text for block in PAGE.blocks if block.language == "toml"]
    (tmp_path / "s.toml").write_text(shown)
    given = ["routing", "simulate", "--scenario", str(tmp_path / "s.toml"), "--requests", "200", "--no-ledger"]
    assert cli.main(given) == 0
    assert "average latency: " in capsys.readouterr().out
