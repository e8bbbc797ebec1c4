"""Tests of sweeping params: what is tried is simulated, and what nothing beats is found."""

from __future__ import annotations

import functools

import msgspec
import pytest
from hypothesis import given, strategies

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.asserts import Assertion
from rbeerouter.sim.spans import Point
from rbeerouter.sim.tune import Objective, Tried, Tuned, front_of, knee, points_within, read_objectives, tune
from rbeerouter.sim.types import Profile, Scenario
from tests.sim.made_up import Chancy, scenario, sim_worker
from tests.support.builders import quick

CHEAP = sim_worker("cheap", Profile(step_s=0.05), price_out=1.0)
DEAR = sim_worker("dear", Profile(step_s=0.01), price_out=10.0)
SCRIPT = b"""local share = param("share", 0.5, 0, 1)
function route_request(request, workers)
  if rand() < share then return "dear" end
  return "cheap"
end"""
BOTH = (Objective("mean_e2e_s"), Objective("cost"))


def make(seed: int) -> Scenario:
    return scenario(workers=(CHEAP, DEAR), workload=Chancy(150, seed, every_s=1.0), seed=seed, script=SCRIPT)


@functools.cache
def swept(shares: tuple[float, ...] = (0.5, 0.0, 0.25, 0.75, 1.0), runs: int = 15, **more: object) -> Tuned:
    points: list[Point] = [{"share": share} for share in shares]
    return tune(make, points, BOTH, runs, **more)  # type: ignore[arg-type]


def test_what_is_quicker_and_dearer_is_all_on_the_front() -> None:
    found = swept()
    assert [point.front for point in found.tried] == [True] * 5
    assert found.now == 0
    assert {name: found.tried[place].params["share"] for name, place in found.ends.items()} == {"mean_e2e_s": 1.0, "cost": 0.0}
    assert found.knee is not None and 0 < found.tried[found.knee].params["share"] < 1


def test_what_is_on_the_front_is_simulated_with_more_seeds_within_the_runs() -> None:
    found = swept()
    assert [point.seeds for point in found.tried] == [3] * 5
    assert found.runs == 15
    assert swept(runs=9).runs == 5                             # not enough for one more seed of each


def test_a_mean_is_that_of_the_seeds() -> None:
    one, other = (tune(make, [{"share": 1.0}], BOTH, 1, first_seed=seed).tried[0].values["cost"] for seed in (1, 2))
    both = tune(make, [{"share": 1.0}], BOTH, 2).tried[0].values["cost"]
    assert one is not None and other is not None
    assert both == pytest.approx((one + other) / 2)


def test_what_is_beaten_gets_no_more_seeds_and_is_not_on_the_front() -> None:
    found = tune(make, [{"share": share} for share in (0.0, 0.5, 1.0)], (Objective("mean_e2e_s"),), 9)
    assert [(point.front, point.seeds) for point in found.tried] == [(False, 4), (False, 1), (True, 4)]
    assert found.knee == 2


def test_points_that_break_an_assertion_are_not_recommended() -> None:
    limit = swept().tried[3].values["cost"]
    found = swept(assertions=(Assertion(f"cost < {limit}"),))
    assert [bool(point.broken) for point in found.tried[3:]] == [True, True]
    assert found.tried[found.ends["mean_e2e_s"]].params["share"] < 0.75
    nothing = swept(runs=5, assertions=(Assertion("cost < 0"),))
    assert (nothing.knee, nothing.ends) == (None, {})


def test_a_number_that_no_run_has_recommends_nothing() -> None:
    found = tune(make, [{"share": 0.5}], (Objective("energy_wh"),), 2)
    assert (found.knee, found.tried[0].values) == (None, {"energy_wh": None})


def test_the_result_is_the_same_however_many_processes_work_on_it() -> None:
    one, two = (msgspec.json.encode(swept(runs=9, jobs=jobs).told()) for jobs in (1, 2))
    assert one == two


def test_what_should_be_large_is_taken_the_other_way_round() -> None:
    found = tune(make, [{"share": share} for share in (0.5, 1.0)], (Objective("cost", largest=True),), 2)
    assert found.knee == 1


@pytest.mark.parametrize(("losses", "front"), [
    ([(1, 2), (2, 1)], [0, 1]), ([(1, 2), (1, 3)], [0]), ([(2, 2), (1, 1)], [1]), ([(1, 1), (1, 1)], [0]),
    ([(1,), (0,), (0,)], [1]), ([], []), ([(1, 2, 3), (3, 2, 1), (2, 2, 3)], [0, 1]),
])  # fmt: skip
def test_the_front_is_what_no_other_point_beats(losses: list[tuple[float, ...]], front: list[int]) -> None:
    assert front_of(losses) == front


@given(strategies.lists(strategies.tuples(strategies.integers(0, 5), strategies.integers(0, 5)), max_size=20))
@quick(max_examples=200)
def test_whatever_is_not_on_the_front_is_beaten_by_something_that_is(losses: list[tuple[float, ...]]) -> None:
    front = front_of(losses)
    assert bool(front) == bool(losses)
    for place, mine in enumerate(losses):
        beaten = any(losses[other][0] <= mine[0] and losses[other][1] <= mine[1] for other in front if other != place)
        assert (place in front) != beaten


def test_the_knee_is_nearest_to_the_best_of_everything_whatever_the_units() -> None:
    tried = [Tried({}, 1, {"cost": cost, "mean_e2e_s": wait}) for cost, wait in ((0, 1000), (1, 200), (10, 0))]
    assert knee(tried, [0, 1, 2], BOTH) == 1
    assert knee(tried, [], BOTH) is None


def test_objectives_are_read_by_name() -> None:
    assert read_objectives("p95_ttft_s, cost", "goodput") == (
        Objective("p95_ttft_s"), Objective("cost"), Objective("goodput", True),
    )  # fmt: skip
    assert read_objectives('tier["premium"].p95_ttft_s')[0].name == 'tier["premium"].p95_ttft_s'
    assert read_objectives("cost,cost") == (Objective("cost"),)


@pytest.mark.parametrize(("smallest", "largest", "said"), [
    ("", "", "--minimise: expected names"), ("costs", "", "--minimise costs: no result has 'costs'; did you mean cost?"),
    ("ok > 1 and failed", "", "no result has"), ("goodput", "", "it is better when it is higher; --maximise goodput"),
    ("", "nothing", "--maximise nothing: no result has"),
])  # fmt: skip
def test_what_is_no_objective_is_refused(smallest: str, largest: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_objectives(smallest, largest)
    assert said in str(refused.value)


def test_most_runs_try_points_and_some_are_left_for_seeds() -> None:
    assert [points_within(runs) for runs in (1, 2, 10, 40)] == [1, 2, 7, 28]
