"""The strategies that spread requests evenly: taking turns, fewest in flight, and ties that break at random."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.types import Worker
from rbeerouter.routing.strategies.balance import LeastRequest, RoundRobin
from tests.support.builders import context, fill, fleet, quick, request, worker

ASKED = request()
CRITICAL_AT_2 = 13.82
"""Chi-square with two degrees of freedom exceeds this once in a thousand times."""


def picks(strategy: RoundRobin | LeastRequest, workers: list[Worker], times: int) -> list[str]:
    return [pick(strategy, workers).id for _ in range(times)]


def pick(strategy: RoundRobin | LeastRequest, workers: list[Worker]) -> Worker:
    """One decision of it, which draws its own numbers."""
    strategy.context.chance.n += 1
    worker = strategy.choose(ASKED, workers)
    strategy.taken(ASKED, worker)
    return worker


def chi_square(counted: Counter[str], kinds: int) -> float:
    expected = counted.total() / kinds
    return sum((count - expected) ** 2 / expected for count in counted.values())


def test_round_robin_takes_the_workers_in_turn() -> None:
    made = fleet()
    order = picks(RoundRobin(context(1)), made.ordered, 7)
    start = ["w1", "w2", "w3"].index(order[0])
    assert order == [f"w{(start + step) % 3 + 1}" for step in range(7)]


def test_round_robin_does_not_always_begin_with_the_first_worker() -> None:
    made = fleet()
    assert {picks(RoundRobin(context(seed)), made.ordered, 1)[0] for seed in range(30)} == {"w1", "w2", "w3"}


def test_round_robin_looks_at_no_load() -> None:
    made = fleet()
    fill(made, "w2", 3)
    assert Counter(picks(RoundRobin(context(1)), made.ordered, 30)) == {"w1": 10, "w2": 10, "w3": 10}


def test_round_robin_goes_on_when_the_list_changes_its_length() -> None:
    made = fleet()
    strategy = RoundRobin(context(1))
    seen = [pick(strategy, made.ordered[: 1 + step % 3]).id for step in range(12)]
    assert set(seen) <= {"w1", "w2", "w3"} and len(seen) == 12


def test_least_request_takes_the_worker_with_the_lowest_load() -> None:
    made = fleet()
    fill(made, "w1", 2)
    fill(made, "w3", 1)
    assert picks(LeastRequest(context(1)), made.ordered, 20) == ["w2"] * 20


def test_load_is_measured_against_what_a_worker_has_room_for() -> None:
    made = fleet(worker("small", max_concurrency=2), worker("large", max_concurrency=16))
    fill(made, "small", 1)
    fill(made, "large", 7)
    assert picks(LeastRequest(context(1)), made.ordered, 5) == ["large"] * 5


def test_ties_break_at_random_and_evenly() -> None:
    made = fleet()
    counted = Counter(picks(LeastRequest(context(3)), made.ordered, 3000))
    assert chi_square(counted, 3) < CRITICAL_AT_2, counted


def test_only_the_tied_workers_share() -> None:
    made = fleet("w1", "w2", "w3", "w4")
    fill(made, "w2", 1)
    counted = Counter(picks(LeastRequest(context(3)), made.ordered, 3000))
    assert set(counted) == {"w1", "w3", "w4"}
    assert chi_square(counted, 3) < CRITICAL_AT_2, counted


def test_the_same_seed_breaks_ties_in_the_same_way() -> None:
    made = fleet()
    runs = [picks(LeastRequest(context(seed)), made.ordered, 30) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@quick(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 12)), min_size=1, max_size=6), st.integers(0, 99))
def test_no_worker_has_less_to_do_than_the_chosen_one(loads: list[tuple[int, int]], seed: int) -> None:
    made = fleet(*(worker(f"w{index}", max_concurrency=room) for index, (room, _) in enumerate(loads)))
    for index, (_, jobs) in enumerate(loads):
        fill(made, f"w{index}", jobs)
    chosen = LeastRequest(context(seed)).choose(ASKED, made.ordered)
    assert chosen.in_flight / chosen.capacity == min(jobs / room for room, jobs in loads)
