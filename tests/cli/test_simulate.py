"""`rbeerouter routing simulate`, in this process, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rbeerouter import recorded
from rbeerouter.cli import main
from tests.support.daemon import REPOSITORY

EXAMPLES = sorted(path for path in (REPOSITORY / "docs" / "examples").glob("*.lua") if not path.stem.endswith("_test"))
EXAMPLE = REPOSITORY / "routing.example.lua"
SHARED = REPOSITORY.parent / "shared" / "data"
AZURE, MOONCAKE = "azure_llm_inference_2023_conv.csv", "mooncake_conversation.jsonl"


@pytest.fixture(autouse=True)
def have_no_files_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


class Ran:
    """What a command printed, and its exit code."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *given: str) -> None:
        self.code = main(["routing", "simulate", *given])
        self.out, self.err = capsys.readouterr()


def result(capsys: pytest.CaptureFixture[str], *given: str) -> dict[str, Any]:
    ran = Ran(capsys, "--json", *given)
    assert ran.code == 0
    return json.loads(ran.out)


def test_the_distribution_and_the_average_latency_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "--script", str(EXAMPLE), "--requests", "200")
    assert (ran.code, ran.err) == (0, "")
    assert "note: no config: the built-in home lab is simulated" in ran.out and "note: rate: " in ran.out
    assert "worker-gaming-pc: " in ran.out and " requests (" in ran.out
    assert "average latency: " in ran.out and "round-robin" in ran.out
    assert "Under simpler rules" not in Ran(capsys, "--requests", "20", "--no-ledger").out


def test_a_report_without_a_file_is_the_full_text(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "--script", str(EXAMPLE), "--requests", "200", "--report")
    assert [part for part in ("By tier", "By user", "routing.example.lua:", "To run it again") if part not in ran.out] == []


def test_a_report_with_a_file_is_a_page_that_says_how_it_was_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    ran = Ran(capsys, "--script", str(EXAMPLE), "--requests", "200", "--report", str(path), "--fault", "worker-mini:crash@1s+5s")
    assert f"report: {path}\n" in ran.out and "worker-gaming-pc: " in ran.out
    page = path.read_text()
    assert page.lower().startswith("<!doctype html>")
    assert f"rbeerouter routing simulate --script {EXAMPLE} --requests 200" in page


def test_json_and_a_page_can_be_had_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "out.html"
    ran = Ran(capsys, "--requests", "20", "--no-ledger", "--json", "--report", str(path))
    assert json.loads(ran.out)["all"]["requests"] == 20
    assert f"report: {path}\n" in ran.err and path.read_text().lower().startswith("<!doctype html>")


def test_json_and_the_full_text_cannot(capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "--json", "--report")
    assert (ran.code, ran.out) == (2, "") and "expected --report FILE, or one of them" in ran.err


@pytest.mark.parametrize("given", [("--rate", "1e-30"), ("--rate", "1e-12", "--for", "9d")], ids=" ".join)
def test_traffic_that_takes_for_ever_is_refused_unless_it_is_cut(capsys: pytest.CaptureFixture[str], given: tuple[str, ...]) -> None:
    ran = Ran(capsys, "--requests", "3", "--no-ledger", *given)
    assert (ran.code == 2 and "a request comes after " in ran.err) if len(given) == 2 else ran.code == 0


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    with full.open("wb") as nowhere:
        ran = subprocess.run(
            [sys.executable, "-m", "rbeerouter", "routing", "simulate", "--requests", "5"], stdout=nowhere,
            stderr=subprocess.PIPE, env={"HOME": str(tmp_path)}, check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (1, b"rbeerouter: what is written finds no room: No space left on device\n")


def test_the_json_is_the_same_byte_for_byte_in_another_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rbeerouter", "routing", "simulate", "--script", str(EXAMPLE), "--requests", "300",
               "--json", "--workload", "sessions={}", "--random-faults", "60"]  # fmt: skip
    texts = {
        subprocess.run(
            command, cwd=REPOSITORY, env={"HOME": str(tmp_path), "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    found = json.loads(texts.pop())
    assert found["all"]["requests"] == 300 and "timing" not in found
    assert [entry["name"] for entry in found["ledger"]["entries"]] == ["yours", "round-robin", "least-request"]


def test_what_the_simulation_took_is_told_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert result(capsys, "--requests", "50", "--timing", "--no-ledger")["timing"]["run_s"] > 0


def test_another_seed_gives_another_result(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (result(capsys, "--requests", "50", "--seed", seed, "--no-ledger") for seed in ("1", "2"))
    assert one["all"] != other["all"]


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_asked_about_what_it_looks_at(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(capsys, "--script", str(script), "--requests", "300", "--no-ledger")
    assert found["script_errors"] == {} and found["all"]["ok"] > 200
    lines = {reason for reason in found["reasons"] if reason.startswith("script: ")}
    assert lines or script.stem == "multi-modal"                             # its workers have names of their own


def test_an_assertion_sets_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    holds = Ran(capsys, "--requests", "50", "--assert", "requests == 50", "--no-ledger")
    assert (holds.code, holds.err) == (0, "") and "holds: requests == 50" in holds.out
    fails = Ran(capsys, "--requests", "50", "--assert", "requests == 50", "--assert", "p95_e2e_s < 0.001", "--no-ledger")
    assert fails.code == 1 and fails.err.startswith("FAILED: p95_e2e_s < 0.001   (p95_e2e_s = ")
    told = Ran(capsys, "--requests", "50", "--assert", "rejected > 0", "--json", "--no-ledger")
    assert told.code == 1 and json.loads(told.out)["assertions"][0]["ok"] is False
    assert "p95_ttft_s" in Ran(capsys, "--assert", "help").out


def test_the_log_is_a_routing_log_that_can_be_simulated_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    first = result(capsys, "--script", str(EXAMPLE), "--requests", "300", "--log", str(path), "--no-ledger")
    lines = list(recorded.read_log(path))
    assert len(lines) == first["all"]["requests"] == 300
    assert sum(line.worker == "worker-server" for line in lines) == next(
        one["attempts"] for one in first["workers"] if one["id"] == "worker-server"
    )
    assert all(line.user is not None and line.user.startswith("user-") for line in lines)
    again = result(capsys, "--script", str(EXAMPLE), "--trace", str(path), "--no-ledger")
    for name in ("requests", "tokens_in", "tokens_out"):
        assert again["all"][name] == first["all"][name]
    assert again["all"]["e2e_s"]["mean"] == pytest.approx(first["all"]["e2e_s"]["mean"], rel=0.2)   # times are in ms there


CHANGING = """
function route_request(request, workers)
  local ready = workers:filter(function(w) return w.status == "ready" end)
  if state:incr("requests", 1) % 7 == 0 then return nil end
  if rand() < 0.3 then return ready:sample() end
  return ready:min_by(function(w) return w.latency_ms or 0 end)
end
function on_failure(request, attempt, workers) state:incr("requests", 5) return nil end
"""


def test_the_log_of_a_simulation_can_be_replayed_with_chance_state_and_failures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, script, config = tmp_path / "simulated.log", tmp_path / "routing.lua", tmp_path / "config.toml"
    script.write_text(CHANGING)
    config.write_text("")
    made = Ran(
        capsys, "--script", str(script), "--requests", "600", "--rate", "4", "--random-faults", "100",
        "--log", str(path), "--no-ledger",
    )  # fmt: skip
    assert made.code == 0
    replay = ["routing", "replay", "--log", str(path), "--config", str(config), "--json", "--script"]
    assert main([*replay, str(script)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["total"], again["changed"], again["uncertain"], again["notes"]) == (600, 0, 0, [])
    script.write_text(CHANGING.replace("0.3", "0.9"))
    assert main([*replay, str(script)]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] > 10


def test_a_fault_shows(capsys: pytest.CaptureFixture[str]) -> None:
    plain, broken = (
        result(capsys, "--requests", "300", "--no-ledger", *more)
        for more in ((), ("--fault", "worker-server:crash@5s+30s"))
    )
    assert plain["all"]["retried"] == 0 and broken["all"]["retried"] > 0


def test_targets_are_what_goodput_counts_by(capsys: pytest.CaptureFixture[str]) -> None:
    strict = result(capsys, "--requests", "200", "--target", "e2e_s=0.01", "--no-ledger")
    assert strict["all"]["goodput"] == 0.0


def test_no_bar_is_drawn_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert "\r" not in Ran(capsys, "--requests", "3000", "--no-ledger").err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--rate", "0"], "--rate 0: expected more than 0"),
        (["--assert", "p95 < 2"], "--assert 'p95 < 2': no result has 'p95'"),
        (["--timing"], "--timing: is for --json; expected both"),
        (["--remote-price", "1"], "--remote-price 1: expected IN,OUT per million tokens"),
        (["--report", "/nowhere/out.html"], "--report /nowhere/out.html: there is no folder /nowhere; expected the name"),
        (["--report", "/tmp"], "--report /tmp: is a folder; expected the name of a file"),
        (["--log", "/nowhere/x.log"], "--log /nowhere/x.log: cannot be written: No such file or directory"),
        (["--param", "speed=1"], "param speed: the script has no such param"),
        (["--script", str(REPOSITORY / "README.md")], "README.md:"),
        (["--trace", str(EXAMPLE)], "is no trace that is known"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_input_is_refused_with_exit_code_2_and_nothing_else(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = Ran(capsys, *given)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("rbeerouter: ") and said in ran.err


def test_a_log_that_is_there_already_is_left_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "routing.log"
    path.write_text("yesterday\n")
    ran = Ran(capsys, "--requests", "10", "--log", str(path))
    assert (ran.code, path.read_text()) == (2, "yesterday\n")
    assert ran.err == f"rbeerouter: --log {path}: is there already; expected the name of a new file\n"


def test_who_reads_only_the_first_line_sees_no_traceback(tmp_path: Path) -> None:
    command = f"{sys.executable} -m rbeerouter routing simulate --requests 50 --report | head -1"
    done = subprocess.run(
        ["sh", "-c", command], cwd=REPOSITORY, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("note: ") and done.stderr == ""


@pytest.mark.parametrize(("name", "speed"), [(AZURE, "0.3"), (MOONCAKE, "0.1")])
def test_the_public_traces_run_from_one_command(name: str, speed: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not (SHARED / name).exists():
        pytest.skip(f"../shared/data/{name} is not there")
    found = result(capsys, "--script", str(EXAMPLE), "--trace", str(SHARED / name), "--requests", "1000",
                   "--speed", speed, "--no-ledger")  # fmt: skip
    assert found["all"]["requests"] == 1000 and found["all"]["ok"] > 950
    assert found["workload"].startswith({AZURE: "Azure LLM inference trace", MOONCAKE: "Mooncake trace"}[name])
