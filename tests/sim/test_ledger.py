"""Tests of the savings ledger: which rules it holds a policy against, and what it makes of what came of them."""

from __future__ import annotations

import msgspec
import pytest

from rbeerouter.config.sections import ConfigError, Routing, Split
from rbeerouter.core.models import Model, Models
from rbeerouter.core.types import REMOTE
from rbeerouter.sim.ledger import Beginning, baselines, ledger, read_price
from rbeerouter.sim.types import Fault, Result, Scenario
from tests.sim.made_up import Steady, config, group, result, scenario, sim_worker

HOME = sim_worker("gpu-1", cost_per_hour=1.0)
CLOUD = sim_worker("cloud", deployment=REMOTE, price_in=1.0, price_out=2.0)
POLICY = b'function route_request(request, workers) return "gpu-1" end'


def priced(scenario: Scenario) -> Result:
    """A result as a world would give it: the tokens cost 3, each machine at home costs 1."""
    count = sum(1 for _ in scenario.workload)
    at_home = sum(worker.spec.deployment != REMOTE for worker in scenario.workers)
    return result(
        strategy=scenario.strategy, script=scenario.script_name if scenario.script else None,
        all=group(count, cost=3.0 if at_home < len(scenario.workers) else 0.0), machine_cost=float(at_home) or None,
    )  # fmt: skip


def rules(scenario: Scenario, price: tuple[float, float] | None = None) -> dict[str, Scenario]:
    return {name: one for name, _, one in baselines(scenario, price)}


def test_a_policy_is_held_against_two_strategies_on_the_same_arrivals_faults_and_seed() -> None:
    faults = (Fault("gpu-1", "crash", 1.0, 1.0),)
    mine = scenario(workers=(HOME,), script=POLICY, params={"a": 1.0}, faults=faults, seed=9)
    found = rules(mine)
    assert list(found) == ["round-robin", "least-request"]
    for name, rule in found.items():
        assert (rule.script, rule.params, rule.strategy, rule.seed) == (None, {}, name, 9)
        assert (rule.workload, rule.faults, rule.workers) == (mine.workload, faults, mine.workers)


def test_the_rules_know_no_split() -> None:
    settings = config(routing=Routing(split=Split(0.5)), models=Models([Model("m", local_fraction=0.3, price_in=2.0)]))
    for rule in rules(scenario(config=settings)).values():
        assert rule.config.routing.split is None
        assert [(model.local_fraction, model.price_in) for model in rule.config.models] == [(None, 2.0)]


def test_all_remote_leaves_the_machines_at_home_out_and_lets_every_model_leave_the_house() -> None:
    settings = config(models=Models([Model("m", deployment="local", workers=("gpu-*",))]))
    faults = (Fault("gpu-1", "crash", 1.0, 1.0), Fault("cloud", "slow", 1.0, 1.0, 2.0))
    away = rules(scenario(workers=(HOME, CLOUD), config=settings, faults=faults))["all-remote"]
    assert away.workers == (CLOUD,)
    assert [fault.worker for fault in away.faults] == ["cloud"]
    assert not away.config.models.restricted


def test_without_a_remote_worker_a_price_makes_one_up() -> None:
    mine = scenario(workers=(HOME, sim_worker("cpu", models=("m", "n"))))
    assert "all-remote" not in rules(mine)
    (made_up,) = rules(mine, (0.5, 1.5))["all-remote"].workers
    assert (made_up.spec.models, made_up.spec.price_in, made_up.spec.price_out) == (("m", "n"), 0.5, 1.5)
    assert rules(scenario(workers=(HOME, CLOUD)), (0.5, 1.5))["all-remote"].workers == (CLOUD,)


def test_what_is_saved_is_what_a_rule_would_have_spent_beyond_yours() -> None:
    found = ledger(scenario(workers=(HOME,), script=POLICY), priced, remote_price=(1.0, 2.0))
    assert [entry.name for entry in found.entries] == ["yours", "round-robin", "least-request", "all-remote"]
    assert [entry.spent for entry in found.entries] == [1.0, 1.0, 1.0, 3.0]
    assert [entry.saved for entry in found.entries] == [None, 0.0, 0.0, 2.0]
    assert found.entries[0].about == "routing.lua"
    assert found.entries[0].values["cost"] == 0.0 and found.entries[3].values["machine_cost"] is None


def test_machines_are_paid_for_as_long_as_yours_took() -> None:
    def run(one: Scenario) -> Result:
        # The last answer of the plain rules takes as long as all others together.
        times = 1.0 if one.script else 2.9
        return msgspec.structs.replace(priced(one), simulated_s=50.0 * times, machine_cost=times)

    found = ledger(scenario(workers=(HOME,), script=POLICY), run)
    assert [(entry.spent, entry.saved) for entry in found.entries] == [(1.0, None), (1.0, 0.0), (1.0, 0.0)]
    assert {entry.values["machine_cost"] for entry in found.entries} == {1.0}


def test_a_result_that_is_there_is_not_made_again() -> None:
    asked: list[Scenario] = []

    def run(one: Scenario) -> Result:
        asked.append(one)
        return priced(one)

    mine = scenario(script=POLICY)
    ledger(mine, run, priced(mine))
    assert [one.script for one in asked] == [None, None]


@pytest.mark.parametrize("counted", [True, False])
def test_a_long_workload_is_cut_for_all_alike_and_it_is_said(counted: bool) -> None:
    mine = scenario(script=POLICY, workload=Steady(50) if counted else Uncounted(50))
    whole = priced(mine)
    found = ledger(mine, priced, whole, most=10)
    assert (found.requests, found.sampled) == (10, True)
    assert {entry.values["rejected"] for entry in found.entries} == {1}
    short = ledger(mine, priced, whole, most=50)
    assert (short.requests, short.sampled) == (50, False)
    assert ledger(mine, priced, most=60).sampled is False


class Uncounted(msgspec.Struct, frozen=True):
    """A workload that nobody has counted."""

    requests: int
    name: str = "uncounted"
    count: int | None = None
    block_tokens: int = 16

    def __iter__(self):
        return iter(Steady(self.requests))


def test_the_beginning_of_a_workload_keeps_its_times() -> None:
    begun = Beginning(Steady(50), 3)
    assert [arrival.at_s for arrival in begun] == [arrival.at_s for arrival in begun] == [0.0, 0.5, 1.0]
    assert (begun.count, Beginning(Steady(2), 3).count, Beginning(Uncounted(2), 3).count) == (3, 2, None)
    assert (begun.name, begun.block_tokens) == ("steady", 16)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2", "nan,1", "1,inf"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected IN,OUT per million tokens"):
        read_price(text)


def test_a_price_is_two_numbers() -> None:
    assert read_price("0.5, 1.5") == (0.5, 1.5)
