"""The split: shares without chance, bounded debt, fallbacks, and weights that add up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Split as Configured
from rbeerouter.core.dispatch import Dispatcher, Send
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import NO_MODELS, Model, Models
from rbeerouter.core.types import LOCAL, REMOTE, Outcome, Report
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.split import Share, make_split, same_side, weights
from tests.support.builders import down, env, fill, fleet, job, quick, request, script, worker

TWO = (worker("gpu", models=("m", "n")), worker("cloud", models=("m", "n"), deployment="remote"))


def decider(fraction: float | None, *models: Model, made: Fleet | None = None, **options: Any) -> Decider:
    registry = Models(models)
    split = make_split(Configured(fraction) if fraction is not None else None, registry)
    return Decider(made or fleet(*TWO), options.pop("loaded", None), "least-request", env(), models=registry, split=split, **options)


def sides(by: Decider, count: int, **asked: Any) -> dict[str, int]:
    """How many of so many requests each side gets."""
    got = [by.decide(request(**asked)).worker.spec.deployment for _ in range(count)]  # type: ignore[union-attr]
    return {LOCAL: got.count(LOCAL), REMOTE: got.count(REMOTE)}


# Turns.


@quick(max_examples=200)
@given(fraction=st.floats(0, 1), count=st.integers(1, 3000))
def test_at_no_point_is_a_side_a_whole_request_ahead(fraction: float, count: int) -> None:
    share = Share(fraction, 10)
    for done in range(1, count + 1):
        share.turn(True, True)
        assert abs(share.taken[LOCAL] - fraction * done) <= 0.5 + 1e-6
    assert share.fallbacks.total() == 0


def test_of_a_thousand_requests_six_hundred_stay_local() -> None:
    by = decider(0.6)
    assert sides(by, 1000) == {LOCAL: 600, REMOTE: 400}
    assert by.split is not None and by.split.told() == {
        "local_fraction": 0.6, "achieved": 0.6, "requests": 1000, "fallbacks": {LOCAL: 0, REMOTE: 0}, "models": {},
    }  # fmt: skip


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, REMOTE), (1.0, LOCAL)])
def test_a_side_with_everything_gets_everything(fraction: float, expected: str) -> None:
    assert sides(decider(fraction), 50)[expected] == 50


@quick(max_examples=200)
@given(
    fraction=st.floats(0, 1), debt=st.integers(1, 20),
    there=st.lists(st.sampled_from([(True, True), (True, False), (False, True)]), max_size=300),
)
def test_whatever_sides_are_there_the_debt_is_bounded_and_a_turn_goes_to_somebody_who_is(
    fraction: float, debt: int, there: list[tuple[bool, bool]]
) -> None:
    share = Share(fraction, debt)
    for local, remote in there:
        assert local if share.turn(local, remote) == LOCAL else remote
    assert share.taken.total() == len(there)
    caught_up = [share.turn(True, True) for _ in range(2000)].count(LOCAL)
    assert abs(caught_up - fraction * 2000) <= debt + 1


@pytest.mark.parametrize("debt", [1, 10])
def test_after_an_outage_a_side_gets_at_most_its_debt_in_a_row_and_then_its_share(debt: int) -> None:
    share = Share(0.5, debt)
    for _ in range(1000):
        assert share.turn(False, True) == REMOTE
    assert share.fallbacks == {LOCAL: 1000 - (1000 - share.fallbacks[LOCAL])} and share.fallbacks[LOCAL] >= 990
    back = [share.turn(True, True) for _ in range(200)]
    first_other = back.index(REMOTE)
    assert debt <= first_other <= 2 * debt + 1, "half of the turns were its own anyway"
    assert back[first_other:].count(LOCAL) == pytest.approx((200 - first_other) / 2, abs=1)


# Within decisions.


def test_the_strategy_chooses_within_the_side() -> None:
    made = fleet(worker("g1", models=("m",)), worker("g2", models=("m",)), TWO[1])
    fill(made, "g1", 3)
    fill(made, "g2", 2)
    by = decider(0.5, made=made)
    assert {by.decide(request()).worker.id for _ in range(40)} == {"g2", "cloud"}  # type: ignore[union-attr]


@pytest.mark.parametrize("trouble", ["down", "full", "another model"])
def test_a_side_without_a_ready_worker_gives_its_turn_away(trouble: str) -> None:
    made = fleet(*TWO)
    if trouble == "down":
        down(made, "gpu")
    elif trouble == "full":
        fill(made, "gpu", 4)
    else:
        made.configure([worker("gpu", models=("n",)), TWO[1]])
    by = decider(0.6, made=made)
    assert sides(by, 10) == {LOCAL: 0, REMOTE: 10}
    assert by.split is not None and by.split.told()["fallbacks"][LOCAL] >= 9


def test_a_model_may_have_a_fraction_and_turns_of_its_own() -> None:
    by = decider(0.5, Model("n", local_fraction=0.9))
    assert sides(by, 100, model="n") == {LOCAL: 90, REMOTE: 10}
    assert sides(by, 100) == {LOCAL: 50, REMOTE: 50}
    assert by.split is not None and by.split.told()["models"]["n"]["achieved"] == 0.9
    alone = decider(None, Model("n", local_fraction=1.0))
    assert sides(alone, 20, model="n")[LOCAL] == 20
    assert sides(alone, 100)[LOCAL] not in (0, 100), "a model without a fraction is not shared"


@pytest.mark.parametrize("rule", ["request", "deployment", "workers"])
def test_a_request_whose_side_is_settled_takes_no_turn(rule: str) -> None:
    rules = {"request": (), "deployment": (Model("m", deployment="local"),), "workers": (Model("m", workers=("gpu",)),)}
    by = decider(0.5, *rules[rule])
    assert sides(by, 20, deployment="local" if rule == "request" else None) == {LOCAL: 20, REMOTE: 0}
    assert by.split is not None and by.split.told()["requests"] == 0


def test_what_a_script_chooses_takes_no_turn_and_what_it_leaves_open_does() -> None:
    by = decider(0.5, loaded=script("if request.stream then return workers:first() end return nil"))
    assert sides(by, 20, stream=True) == {LOCAL: 20, REMOTE: 0}
    assert by.split is not None and by.split.told()["requests"] == 0
    assert sides(by, 20) == {LOCAL: 10, REMOTE: 10}


def test_a_failed_worker_is_replaced_on_its_side_first_and_on_the_other_if_that_has_nobody() -> None:
    made = fleet(worker("g1", models=("m",)), worker("g2", models=("m",)), TWO[1])
    dispatcher = Dispatcher(made, decider(1.0, made=made), env())
    one = job()
    effects = [dispatcher.on_request(one)]
    for _ in range(2):
        effects.append(dispatcher.on_outcome(one, Outcome(FAILURES["upstream_connect_failed"])))
    assert all(isinstance(effect, Send) for effect in effects)
    assert {one.tried[0], one.tried[1]} == {"g1", "g2"} and one.tried[2] == "cloud"


def test_without_a_split_there_is_none() -> None:
    assert make_split(None, NO_MODELS) is None and decider(None).split is None
    made = fleet(*TWO)
    assert same_side(made.workers["gpu"], [made.workers["cloud"]]) == [made.workers["cloud"]]


def test_an_explanation_counts_nothing() -> None:
    by = decider(0.5)
    twin = by.twin(by.fleet.shadow(), None)
    whom = [twin.decide(request()).worker.id for _ in range(3)]  # type: ignore[union-attr]
    assert by.split is not None and by.split.told()["requests"] == 0
    assert [by.decide(request()).worker.id for _ in range(3)] == whom, "it decides as the live one will"  # type: ignore[union-attr]


def test_an_explanation_says_whose_turn_it_was() -> None:
    rows = {row["id"]: row for row in decider(1.0, debug=True).decide(request()).explanation or ()}
    assert rows["cloud"]["steps"][0]["why"] == "it was the turn of the local side"


def test_turns_go_on_over_a_reload_unless_the_fraction_changes() -> None:
    old, same, other = decider(0.6), decider(0.6, Model("n", local_fraction=0.5)), decider(0.7)
    sides(old, 101)
    for by in (same, other):
        assert by.split is not None and old.split is not None
        by.split.adopt(old.split)
    assert [by.split.told()["requests"] for by in (same, other)] == [101, 0]  # type: ignore[union-attr]
    sides(same, 99)
    assert same.split.counts() == {LOCAL: (120, 0), REMOTE: (80, 0)}  # type: ignore[union-attr]


# Weights.


def fleet_of(*rooms: tuple[str, str, int]) -> Fleet:
    return fleet(*(worker(name, models=("m",), deployment=side, max_concurrency=room) for name, side, room in rooms))


MIXED = (("a", LOCAL, 6), ("b", LOCAL, 2), ("c", REMOTE, 100))


def test_weights_are_the_fraction_times_the_share_of_the_sides_capacity() -> None:
    assert weights(fleet_of(*MIXED).ordered, True, 0.6) == pytest.approx({"a": 0.45, "b": 0.15, "c": 0.4})
    assert weights(fleet_of(*MIXED).ordered, False, 0.6) == pytest.approx({"a": 0.3, "b": 0.3, "c": 0.4})
    assert weights(fleet_of(*MIXED).ordered, True, None) == pytest.approx({"a": 6 / 108, "b": 2 / 108, "c": 100 / 108})


def test_who_cannot_be_used_has_no_weight_and_a_side_that_is_down_leaves_all_to_the_other() -> None:
    made = fleet_of(*MIXED)
    down(made, "a")
    assert weights(made.ordered, True, 0.6) == pytest.approx({"a": 0.0, "b": 0.6, "c": 0.4})
    down(made, "b")
    assert weights(made.ordered, True, 0.6) == {"a": 0.0, "b": 0.0, "c": 1.0}
    down(made, "c")
    assert weights(made.ordered, True, 0.6) == {"a": 0.0, "b": 0.0, "c": 0.0}


def test_a_strategy_by_weight_shares_as_the_operator_says() -> None:
    made = fleet(worker("a", weight=3.0, max_concurrency=1), worker("b", weight=1.0, max_concurrency=9))
    assert weights(made.ordered, False, None, True) == {"a": 0.75, "b": 0.25}


def test_who_starts_slowly_has_a_part_of_its_share_and_the_others_the_rest() -> None:
    made = fleet_of(("a", LOCAL, 4), ("b", LOCAL, 4), ("c", REMOTE, 9))
    made.workers["a"].weight = 0.1
    assert weights(made.ordered, True, 0.5) == pytest.approx({"a": 0.025, "b": 0.475, "c": 0.5})
    made.workers["b"].weight = 0.5
    assert weights(made.ordered, True, 0.5) == pytest.approx({"a": 0.25, "b": 0.25, "c": 0.5}), "all of a side start slowly"


def test_who_cools_down_has_no_weight_as_long_as_others_are_there() -> None:
    made = fleet_of(("a", LOCAL, 4), ("b", LOCAL, 4))
    made.cool_down(made.workers["a"], 5.0, 100.0)
    assert weights(made.ordered, True, None) == {"a": 0.0, "b": 1.0}
    made.cool_down(made.workers["b"], 5.0, 100.0)
    assert weights(made.ordered, True, None) == {"a": 0.5, "b": 0.5}


@quick(max_examples=100)
@given(
    rooms=st.lists(st.tuples(st.sampled_from([LOCAL, REMOTE]), st.integers(1, 50), st.booleans()), min_size=1, max_size=12),
    fraction=st.none() | st.floats(0, 1), by_load=st.booleans(),
)
def test_weights_add_up_to_one_as_long_as_anybody_can_be_used(
    rooms: list[tuple[str, int, bool]], fraction: float | None, by_load: bool
) -> None:
    made = fleet(
        *(worker(f"w{i}", deployment=side, max_concurrency=room) for i, (side, room, _) in enumerate(rooms)), up=False
    )
    for index, (_, _, is_up) in enumerate(rooms):
        made.apply(Report(f"w{index}", is_up, None, 0.0))
    found = weights(made.ordered, by_load, fraction)
    assert sum(found.values()) == pytest.approx(1.0 if any(is_up for _, _, is_up in rooms) else 0.0)
    assert all(weight >= 0 for weight in found.values())


def test_the_decider_tells_the_weights_of_its_strategy() -> None:
    made = fleet_of(*MIXED)
    assert decider(0.6, made=made).weights() == pytest.approx({"a": 0.45, "b": 0.15, "c": 0.4})
    round_robin = Decider(made, None, "round-robin", env())
    assert round_robin.weights() == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
