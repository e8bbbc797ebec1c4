"""Tests of comparing two scripts, simulated: who moves, by which lines, and what is certain about the numbers."""

from __future__ import annotations

import msgspec
import pytest

from rbeerouter.sim.diff import (
    BETTER,
    NOWHERE,
    OTHER,
    SAME,
    UNSURE,
    WORSE,
    Change,
    Diff,
    diff,
    judge,
)
from rbeerouter.sim.metrics import HIGHER, LOWER, NEITHER
from rbeerouter.sim.paired import Interval
from rbeerouter.sim.types import Profile, Scenario
from tests.sim.made_up import Chancy, scenario, sim_worker

FAST, SLOW = sim_worker("fast", Profile(step_s=0.01)), sim_worker("slow", Profile(step_s=0.05))
TO_SLOW = b'function route_request(request, workers)\n  return "slow"\nend'
BY_USER = b"""function route_request(request, workers)
  if request.user_id == "user-0" then
    return "fast"
  end
  return "slow"
end"""
REJECTS = b"""function route_request(request, workers)
  if request.user_id == "user-0" then return reject{ status = 429 } end
  return "slow"
end"""


def compared(before: bytes | None, after: bytes | None, seeds: int = 3, count: int = 120, jobs: int = 1) -> Diff:
    def make(seed: int) -> tuple[Scenario, Scenario]:
        one = scenario(workers=(FAST, SLOW), workload=Chancy(count, seed), seed=seed)
        return tuple(msgspec.structs.replace(one, script=script) for script in (before, after))  # type: ignore[return-value]

    return diff(make, range(1, seeds + 1), ("a.lua", "b.lua"), jobs)


def changes(found: Diff) -> dict[str, Change]:
    return {change.name: change for change in found.changes}


def test_a_script_against_itself_moves_nobody_and_changes_nothing() -> None:
    found = compared(BY_USER, BY_USER)
    assert (found.requests, found.moved, found.moves) == (360, 0, ())
    assert {change.effect for change in found.changes if change.seeds} == {SAME}


def test_seeds_that_bring_the_same_requests_are_known() -> None:
    def make(seed: int) -> tuple[Scenario, Scenario]:
        one = scenario(workers=(FAST, SLOW), workload=Chancy(50, 1), seed=seed)
        return one, one

    assert diff(make, (1, 2), ("a.lua", "b.lua"), 1).same_traffic
    assert not diff(make, (1,), ("a.lua", "b.lua"), 1).same_traffic
    assert not compared(BY_USER, BY_USER).same_traffic


def test_those_who_move_are_counted_by_workers_and_lines() -> None:
    found = compared(TO_SLOW, BY_USER)
    (move,) = found.moves
    assert (move.before, move.after, move.requests) == ("slow", "fast", 120)
    assert [(line.before, line.after, line.requests) for line in move.lines] == [
        ("script: routing.lua:2", "script: routing.lua:3", 120)
    ]
    assert (found.moved, found.moved_share) == (120, pytest.approx(1 / 3))


def test_requests_that_are_sent_to_nobody_move_to_no_worker() -> None:
    found = compared(TO_SLOW, REJECTS, seeds=1)
    (move,) = found.moves
    assert (move.before, move.after, move.requests) == ("slow", NOWHERE, 40)
    rejected = changes(found)["rejected"]
    assert (rejected.before, rejected.after, rejected.difference) == (0, 40, 40)


def test_what_becomes_better_for_sure_is_told_so_with_its_interval() -> None:
    change = changes(compared(TO_SLOW, BY_USER, seeds=5))["mean_e2e_s"]
    assert change.before is not None and change.after is not None
    assert change.effect == BETTER and change.seeds == 5
    assert change.low is not None and change.high is not None
    assert change.difference == pytest.approx(change.after - change.before)
    assert change.low < change.difference < change.high < 0


def test_the_other_way_round_it_is_worse() -> None:
    assert changes(compared(BY_USER, TO_SLOW, seeds=5))["mean_e2e_s"].effect == WORSE


def test_luck_is_not_taken_for_a_difference() -> None:
    """Two scripts that choose by chance, one of which throws the coin once more."""
    coin = b'function route_request(request, workers) return rand() < 0.5 and "fast" or "slow" end'
    twice = b'function route_request(request, workers) rand() return rand() < 0.5 and "fast" or "slow" end'
    found = compared(coin, twice, seeds=5)
    assert found.moved > 100
    seen = [change.name for change in found.changes if change.effect in (BETTER, WORSE)]
    assert len(seen) <= len(found.changes) * 0.1


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_are_never_certain(seeds: int) -> None:
    assert {change.effect for change in compared(TO_SLOW, BY_USER, seeds=seeds).changes} <= {SAME, UNSURE}


def test_the_result_is_the_same_however_many_processes_work_on_it() -> None:
    one, two = (msgspec.json.encode(compared(TO_SLOW, BY_USER, jobs=jobs).told()) for jobs in (1, 2))
    assert one == two


def test_assertions_have_both_sides_and_what_moved() -> None:
    values = compared(TO_SLOW, BY_USER).values()
    assert values["moved"] == pytest.approx(1 / 3)
    assert values["ok"] == values["before.ok"] == 120
    assert values["p95_e2e_s"] is not None and values["better"] is not None and values["better"] >= 1
    assert values['before.share["slow"]'] == 1.0


def test_a_strategy_can_be_one_of_the_sides() -> None:
    found = compared(None, TO_SLOW, seeds=1)
    assert {(move.before, move.after) for move in found.moves} == {("fast", "slow")}
    assert found.moves[0].lines[0].before == "strategy: least-request"


@pytest.mark.parametrize(("mean", "low", "high", "better", "effect"), [
    (-1.0, -2.0, -0.5, LOWER, BETTER), (1.0, 0.5, 2.0, LOWER, WORSE), (1.0, 0.5, 2.0, HIGHER, BETTER),
    (-1.0, -2.0, -0.5, HIGHER, WORSE), (1.0, 0.5, 2.0, NEITHER, OTHER), (1.0, -0.5, 2.0, LOWER, UNSURE),
    (1.0, None, None, LOWER, UNSURE),
])  # fmt: skip
def test_a_difference_is_judged_by_its_interval_and_its_better_way(
    mean: float, low: float | None, high: float | None, better: str, effect: str
) -> None:
    assert judge(Interval(mean, low, high), better) == effect
