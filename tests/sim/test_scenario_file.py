"""A scenario's file is read as a configuration is: values become what is simulated, and faults in it are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim import scenario_file
from rbeerouter.sim.draws import Lengths
from rbeerouter.sim.scenario_file import ScenarioFile, WorkerTable, fault_in_short, read_scenario, read_workers, seconds
from rbeerouter.sim.types import Fault, Footprint, Profile, Targets

WHOLE = """
random_faults = 2

[workload]
requests = 500
arrivals = "bursts"
tiers = { premium = 1, free = 3 }
tokens_in = { kind = "constant", mean = 100 }
sessions = { turns = 3, system_tokens = [500] }

[[workload.mix]]
weight = 2
tokens_out = { kind = "uniform", low = 10, high = 20 }

[workers.gpu1]
step_s = 0.01
slots = 8
watts_busy = 350
footprints = { "llama-3-70b" = { gib = 40, times = 6.5 } }
loaded = ["llama-3-8b"]

[workers."127.0.0.1:8000"]
prefix_cache = true

[[faults]]
worker = "gpu1"
kind = "slow"
at_s = 60
for_s = 30
amount = 4

[targets]
ttft_s = 2
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "s.toml"
    path.write_text(text)
    return path


def test_a_whole_file_becomes_what_is_simulated(tmp_path: Path) -> None:
    file = read_scenario(write(tmp_path, WHOLE))
    assert (file.workload.requests, file.workload.arrivals, file.random_faults) == (500, "bursts", 2.0)
    assert file.workload.tokens_in == Lengths("constant", mean=100.0)
    assert file.workload.mix[0].tokens_out == Lengths("uniform", low=10, high=20)
    assert set(file.workers) == {"gpu1", "127.0.0.1:8000"}
    table = file.workers["gpu1"]
    assert table.profile(Profile(prefill_s=0.5)) == Profile(prefill_s=0.5, step_s=0.01, slots=8, watts_busy=350.0)
    assert (table.costs(), table.loaded) == ({"llama-3-70b": Footprint(40.0, 6.5)}, ("llama-3-8b",))
    assert scenario_file.fault_of(file.faults[0], "f") == Fault("gpu1", "slow", 60.0, 30.0, 4.0)
    assert scenario_file.targets_of(file.targets, {}) == Targets(ttft_s=2.0)


def test_every_value_of_a_profile_can_be_said() -> None:
    assert set(Profile.__struct_fields__) <= set(WorkerTable.__struct_fields__)


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    file = read_scenario(write(tmp_path, WHOLE), {"requests": 7, "tiers": {"gold": 1}})
    assert (file.workload.requests, file.workload.tiers, file.workload.arrivals) == (7, {"gold": 1}, "bursts")
    assert scenario_file.targets_of(file.targets, {"e2e_s": 9.0}) == Targets(ttft_s=2.0, e2e_s=9.0)


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read_scenario(write(tmp_path, "")) == ScenarioFile()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[workload]\nrequest = 5", "workload.request: unknown key; did you mean 'requests'?"),
        ("[workload]\nrequests = 0", "workload.requests = 0: expected `int` >= 1"),
        ("[workload]\nrate = 'fast'", "workload.rate = 'fast': expected `float | null`, got `str`"),
        ("[workload]\narrivals = 'x'", "workload.arrivals = 'x': expected one of poisson"),
        ("[workload]\ntiers = { a = -1 }", "workload.tiers"),
        ("[workload.tokens_in]\nmeen = 3", "workload.tokens_in.meen: unknown key; did you mean 'mean'?"),
        ("[[workload.mix]]\nwait = 3", "workload.mix[0].wait: unknown key; did you mean 'weight'?"),
        ("[workers.gpu1]\nslot = 3", "workers.gpu1.slot: unknown key; did you mean 'slots'?"),
        ("[workers.gpu1]\nslots = 0", "workers"),
        ("[workers.gpu1.footprints.m]\nsize = 3", "workers.gpu1.footprints.m.size: unknown key; known: gib, times"),
        ("[[faults]]\nworker = 'a'\nkind = 'crush'\nat_s = 1\nfor_s = 1", "faults[0]: kind = 'crush': did you mean 'crash'?"),
        ("[[faults]]\nworker = 'a'\nkind = 'slow'\nat_s = 1\nfor_s = 1", "faults[0]: amount = None: expected how many times slower"),
        ("[[faults]]\nworker = 'a'\nkind = 'stall'\nat_s = 1\nfor_s = 1\namount = 2",
         "faults[0]: amount = 2: expected the share of requests that it hits, at most 1"),
        ("[[faults]]\nworker = 'a'", "faults[0]"),
        ("[targets]\np95 = 1", "targets.p95: unknown key; known: ttft_s, tpot_s, e2e_s"),
        ("[target]\nttft_s = 1", "target: unknown key; did you mean 'targets'?"),
        ("x = ", "is not valid TOML"),
        ("[workload]\nmodels = { '${NOT_SET}' = 1 }\narrivals = '${NOT_SET}'", "the environment variable NOT_SET is not set"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_file_the_key_and_the_value(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        read_scenario(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)


def test_a_setting_of_the_command_line_is_told_as_one() -> None:
    with pytest.raises(ConfigError, match=r"^--workload: workload.cv = 0.0: expected `float` > 0.0$"):
        scenario_file.scenario_of({}, "f", {"cv": 0.0})


def test_the_file_of_the_workers_holds_nothing_else(tmp_path: Path) -> None:
    assert read_workers(write(tmp_path, "[workers.a]\nslots = 3")) == {"a": WorkerTable(slots=3)}
    with pytest.raises(
        ConfigError, match=r"s\.toml: has no \[workers\.ID\]; expected what `rbeerouter routing calibrate`"
    ):
        read_workers(write(tmp_path, ""))
    with pytest.raises(ConfigError, match="unknown key; known: workers"):
        read_workers(write(tmp_path, WHOLE))


def test_workers_that_there_are_not_are_refused_with_the_nearest() -> None:
    scenario_file.check_known(["a"], ["a", "b"], "f")
    with pytest.raises(ConfigError, match=r"^f: workers\.gpu: no worker has this id; did you mean 'gpu1'\?$"):
        scenario_file.check_known(["gpu"], ["gpu1", "x"], "f")
    with pytest.raises(ConfigError, match=r"^f: fault: zzz: no worker has this id; known: gpu1, x$"):
        scenario_file.check_known(["zzz"], ["gpu1", "x"], "f", "fault: ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("gpu1:crash@60s+30s", Fault("gpu1", "crash", 60.0, 30.0)),
        ("127.0.0.1:8000:slow*4@5m+1.5h", Fault("127.0.0.1:8000", "slow", 300.0, 5400.0, 4.0)),
        ("a:refuse*0.5@0+500ms", Fault("a", "refuse", 0.0, 0.5, 0.5)),
        ("a:cut@1d+2", Fault("a", "cut", 86_400.0, 2.0)),
    ],
)
def test_a_fault_can_be_said_in_short(text: str, fault: Fault) -> None:
    assert fault_in_short(text) == fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu1", "expected WORKER:KIND@AT+LONG, such as gpu1:crash@60s+30s or gpu1:slow*4@5m+2m"),
        ("gpu1:crash@60s", "expected WORKER:KIND@AT+LONG"),
        ("gpu1:crush@1+1", "kind = 'crush': did you mean 'crash'?"),
        ("gpu1:boom@1+1", "kind = 'boom': expected one of crash, slow, refuse, stall, lie, cut"),
        ("gpu1:slow*x@1+1", "'x': expected a number after *"),
        ("gpu1:slow@1+1", "amount = None: expected how many times slower, more than 1"),
        ("gpu1:slow*0.5@1+1", "amount = 0.5: expected how many times slower, more than 1"),
        ("gpu1:stall*3@1+1", "amount = 3: expected the share of requests that it hits, at most 1"),
        ("gpu1:crash@soon+1", "'soon': expected a time such as 90, 90s, 5m, 1.5h or 2d"),
        ("gpu1:crash@1+0", "for_s = 0.0: expected `float` > 0.0"),
    ],
)
def test_a_fault_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        fault_in_short(text)
    assert str(refused.value).startswith(f"--fault {text}: ")
    assert said in str(refused.value)


def test_times_have_units() -> None:
    assert [seconds(text, "x") for text in ("90", "90s", "1.5h", "500ms", "2m", "1d")] == [
        90,
        90,
        5400,
        0.5,
        120,
        86_400,
    ]
    for text in ("", "-1", "1e9", "1 h", "5x"):
        with pytest.raises(ConfigError, match="expected a time such as"):
            seconds(text, "x")


@pytest.mark.parametrize(("name", "value", "said"), [
    ("ttft", 1.0, "--target ttft=1: expected one of ttft_s, tpot_s, e2e_s"),
    ("ttft_s", 0.0, "--target ttft_s=0: expected more than 0 seconds"),
])  # fmt: skip
def test_targets_that_are_none_are_refused(name: str, value: float, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        scenario_file.targets_of(ScenarioFile().targets, {name: value})
    assert str(refused.value) == said
