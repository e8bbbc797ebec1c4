"""The options of a scenario: what they make of it, what is chosen where they say nothing, and what is refused."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from rbeerouter.cli import scenario
from rbeerouter.config.sections import ConfigError
from rbeerouter.sim import staff
from rbeerouter.sim.types import Fault, Targets
from tests.support.daemon import REPOSITORY

EXAMPLES = sorted((REPOSITORY / "docs" / "examples").glob("*[!t].lua"))


@pytest.fixture(autouse=True)
def have_no_files_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def prepare(*given: str) -> scenario.Prepared:
    parser = argparse.ArgumentParser(exit_on_error=False)
    scenario.scenario_options(parser)
    return scenario.prepare(parser.parse_args(given))


def refusal(*given: str) -> str:
    with pytest.raises(ConfigError) as refused:
        prepare(*given)
    return str(refused.value)


def config(folder: Path, *workers: str, more: str = "") -> str:
    path = folder / "config.toml"
    path.write_text(more + "".join(f"[[workers]]\nurl = 'http://127.0.0.1:{9000 + n}'\n{text}\n" for n, text in enumerate(workers)))
    return str(path)


def test_without_any_option_a_home_lab_is_simulated_and_that_is_told() -> None:
    made = prepare()
    assert [worker.spec.id for worker in made.scenario.workers] == [spec.id for spec in staff.HOME_LAB]
    assert made.scenario.workload.count == 1000
    assert (made.scenario.script, made.scenario.strategy, made.scenario.seed) == (None, "least-request", 1)
    told = " | ".join(made.notes)
    assert "no config: the built-in home lab is simulated (worker-gaming-pc, " in told
    assert "60% of the " in told and "--rate says another" in told


def test_the_usual_rate_is_a_share_of_what_the_workers_can_do() -> None:
    made = prepare().scenario
    most = staff.most_requests_per_s(made.workers, made.workload.traffic)
    assert made.workload.requests_per_s == pytest.approx(0.6 * most)
    assert prepare("--rate", "2.5").scenario.workload.requests_per_s == 2.5


def test_everything_can_be_said() -> None:
    made = prepare(
        "--script", str(EXAMPLES[0]), "--requests", "7", "--rate", "2", "--seed", "5", "--for", "2h", "--param", "p=1.5",
        "--fault", "worker-mini:crash@60s+30s", "--target", "ttft_s=2", "--workload", "users=3",
        "--workload", "sessions.turns=2", "--workload", "sessions.think_s=3", "--workload", "arrivals=constant",
        "--workload", "tiers={gold=1}",
    ).scenario  # fmt: skip
    assert (made.script, made.script_name) == (EXAMPLES[0].read_bytes(), EXAMPLES[0].name)
    assert (made.seed, made.stop_after_s, made.params, made.targets) == (5, 7200.0, {"p": 1.5}, Targets(ttft_s=2.0))
    assert made.faults == (Fault("worker-mini", "crash", 60.0, 30.0),)
    traffic = made.workload.traffic
    assert (made.workload.count, traffic.users, traffic.arrivals, traffic.tiers) == (7, 3, "constant", {"gold": 1})
    assert (traffic.sessions.turns, traffic.sessions.think_s) == (2.0, 3.0)


def test_the_traffic_asks_for_what_the_configured_workers_have(tmp_path: Path) -> None:
    path = config(tmp_path, 'id = "a"\nmodels = ["m", "n"]', 'id = "b"\nmodels = ["m"]')
    made = prepare("--config", path)
    assert {one.request.model for one in made.scenario.workload} == {"m", "n"}
    assert [worker.spec.id for worker in made.scenario.workers] == ["a", "b"]
    assert {one.request.model for one in prepare("--config", path, "--model", "n").scenario.workload} == {"n"}


def test_workers_that_list_no_models_are_given_those_that_are_asked_for(tmp_path: Path) -> None:
    path = config(tmp_path, 'id = "a"')
    made = prepare("--config", path)
    assert made.scenario.workers[0].spec.models == ("llama-3-8b",)
    assert "the workers list no models: all of them have llama-3-8b" in made.notes
    assert prepare("--config", path, "--model", "x").scenario.workers[0].spec.models == ("x",)


def test_a_config_without_workers_gets_the_home_lab(tmp_path: Path) -> None:
    made = prepare("--config", config(tmp_path, more="[routing]\nstrategy = 'round-robin'\n"))
    assert made.notes[0].startswith(f"{tmp_path}/config.toml has no [[workers]]: the built-in home lab is simulated")
    assert made.scenario.strategy == "round-robin"


def test_a_strategy_that_is_named_decides_in_place_of_the_configured_script(tmp_path: Path) -> None:
    path = config(tmp_path, 'models = ["m"]', more=f"[routing]\nscript = '{EXAMPLES[0]}'\n")
    assert prepare("--config", path).scenario.script is not None
    made = prepare("--config", path, "--strategy", "Round_Robin").scenario
    assert (made.script, made.strategy, made.config.routing.strategy) == (None, "round-robin", "round-robin")
    assert prepare("--script", str(EXAMPLES[0]), "--strategy", "round-robin").scenario.script is not None


def test_files_of_a_scenario_and_of_workers_are_read_and_the_latter_goes_before(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("[workload]\nrequests = 9\n[workers.worker-mini]\nslots = 2\n[workers.worker-server]\nslots = 2\n")
    (tmp_path / "w.toml").write_text("[workers.worker-mini]\nslots = 3\n")
    made = prepare("--scenario", str(tmp_path / "s.toml"), "--workers", str(tmp_path / "w.toml")).scenario
    slots = {worker.spec.id: worker.profile.slots for worker in made.workers}
    assert (slots["worker-mini"], slots["worker-server"], made.workload.count) == (3, 2, 9)


def test_random_faults_come_as_often_as_was_said_while_traffic_comes() -> None:
    given = ("--rate", "1", "--requests", "36000", "--random-faults", "30")
    faults = prepare(*given).scenario.faults
    assert 200 < len(faults) < 400                                           # ten hours
    assert max(fault.at_s for fault in faults) < 36_000
    assert faults == prepare(*given).scenario.faults != prepare(*given, "--seed", "2").scenario.faults
    assert max(fault.at_s for fault in prepare(*given, "--for", "1h").scenario.faults) < 3600


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--random-faults", "9999", "--rate", "1e-9"], "faults in 1e+12 s of traffic; expected 100000 at most"),
        (["--random-faults", "-1"], "--random-faults -1: expected 0 or more per hour"),
        (["--requests", "0"], "--requests 0: expected more than 0"),
        (["--rate", "-1"], "--rate -1: expected more than 0"),
        (["--workload", "users"], "--workload 'users': expected KEY=VALUE"),
        (["--workload", "users=x y="], "--workload 'users=x y=': the value is not valid TOML"),
        (["--workload", "users=many"], "--workload: workload.users = 'many': expected `int`"),
        (["--workload", "user=1"], "--workload: workload.user: unknown key; did you mean 'users'?"),
        (["--fault", "worker-min:crash@1+1"], "fault: worker-min: no worker has this id; did you mean 'worker-mini'?"),
        (["--fault", "x"], "--fault x: expected WORKER:KIND@AT+LONG"),
        (["--for", "long"], "--for: 'long': expected a time such as"),
        (["--param", "x"], "'x': expected NAME=VALUE"),
        (["--param", "x=y"], "x=y: expected a number"),
        (["--target", "p95=1"], "--target p95=1: expected one of ttft_s, tpot_s, e2e_s"),
        (["--strategy", "best"], "--strategy 'best': "),
        (["--script", "/none.lua"], "/none.lua: cannot be read: No such file or directory"),
        (["--scenario", "/none.toml"], "/none.toml: cannot be read: No such file or directory"),
        (["--workers", "/none.toml"], "/none.toml: cannot be read: No such file or directory"),
        (["--config", "/none.toml"], "/none.toml: cannot be read: No such file or directory"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_wrong_is_refused_with_the_option_and_the_value(given: list[str], said: str) -> None:
    assert said in refusal(*given)


def test_a_worker_that_a_file_names_and_nobody_has_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text("[workers.worker-mimi]\nslots = 3\n")
    expected = f"{path}: workers.worker-mimi: no worker has this id; did you mean 'worker-mini'?"
    assert (refusal("--workers", str(path)), refusal("--scenario", str(path))) == (expected, expected)


def test_workers_of_a_calibrated_log_that_are_gone_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text("[workers.worker-mini]\nslots = 3\n[workers.sold]\nslots = 9\n")
    made = prepare("--workers", str(path))
    assert [worker.profile.slots for worker in made.scenario.workers if worker.spec.id == "worker-mini"] == [3]
    assert f"{path}: tells of sold, which is no worker here: left out" in made.notes


def test_a_worker_of_an_unknown_machine_is_guessed_unless_a_file_tells(tmp_path: Path) -> None:
    given = config(tmp_path, "id = 'w'\nmetadata = { gpu = 'Abacus 9' }")
    assert any("metadata.gpu = 'Abacus 9' is no machine" in note for note in prepare("--config", given).notes)
    path = tmp_path / "w.toml"
    path.write_text("[workers.w]\npreset = 'rtx-4090'\n")
    assert not any("Abacus" in note for note in prepare("--config", given, "--workers", str(path)).notes)


def test_made_up_traffic_for_models_that_nobody_has_is_told() -> None:
    assert "no worker has nope: asked for in vain" in prepare("--model", "nope").notes
    assert not any("in vain" in note for note in prepare("--model", staff.SMALL).notes)


def test_a_name_that_the_configuration_knows_and_a_worker_that_takes_any_are_not_in_vain(tmp_path: Path) -> None:
    alias = "[[models]]\nname = 'm'\naliases = ['gpt-4']\n"
    for more, second in ((alias, "models = ['m']"), ("", "")):
        given = config(tmp_path, "models = ['m']", second, more=more)
        assert not any("in vain" in note for note in prepare("--config", given, "--model", "gpt-4").notes)
