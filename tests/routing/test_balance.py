"""The strategies that spread requests evenly: by chance, in turn, by weight, by what is in flight."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Strategies
from rbeerouter.core.dispatch import Dispatcher, Send
from rbeerouter.core.types import Worker
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.strategies import ALIASES
from rbeerouter.routing.strategies.balance import LeastRequest, PowerOfTwo, Random, RoundRobin, Weighted
from tests.support.builders import context, env, fill, fleet, job, quick, request, worker

ASKED = request()
CRITICAL_AT_2 = 13.82
"""Chi-square with two degrees of freedom exceeds this once in a thousand times."""
Balancing = Random | RoundRobin | Weighted | LeastRequest | PowerOfTwo


def picks(strategy: Balancing, workers: list[Worker], times: int) -> list[str]:
    return [pick(strategy, workers).id for _ in range(times)]


def pick(strategy: Balancing, workers: list[Worker]) -> Worker:
    """One decision of it, which draws its own numbers."""
    strategy.context.chance.n += 1
    worker = strategy.choose(ASKED, workers)
    strategy.taken(ASKED, worker)
    return worker


def chi_square(counted: Counter[str], kinds: int) -> float:
    expected = counted.total() / kinds
    return sum((count - expected) ** 2 / expected for count in counted.values())


def test_random_takes_all_workers_alike_whatever_their_load() -> None:
    made = fleet()
    fill(made, "w1", 3)
    counted = Counter(picks(Random(context(3)), made.ordered, 3000))
    assert set(counted) == {"w1", "w2", "w3"} and chi_square(counted, 3) < CRITICAL_AT_2, counted


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


def test_least_connections_is_another_name_for_least_request() -> None:
    assert ALIASES["least-connections"] == "least-request"


# Weighted


def weighted(*weights: float) -> list[Worker]:
    """Workers a, b, c, ... of these weights."""
    return fleet(*(worker("abcdefgh"[index], weight=weight) for index, weight in enumerate(weights))).ordered


def test_weighted_spreads_the_turns_of_a_heavy_worker_as_nginx_does() -> None:
    orders = {"".join(picks(Weighted(context(seed)), weighted(5, 1, 1), 7)) for seed in range(30)}
    assert orders == {"aabacaa", "aacabaa"}


@quick(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 99))
def test_in_each_round_every_worker_is_taken_as_often_as_its_weight_says(weights: list[int], seed: int) -> None:
    workers, strategy = weighted(*weights), Weighted(context(seed))
    for _ in range(3):
        counted = Counter(picks(strategy, workers, sum(weights)))
        assert counted == dict(zip("abcdefgh", weights, strict=False))


def test_weights_may_be_fractions() -> None:
    assert Counter(picks(Weighted(context(1)), weighted(0.5, 1.5), 4000)) == {"a": 1000, "b": 3000}


def test_equal_weights_are_taken_in_turn_from_a_place_that_each_start_draws() -> None:
    starts = set()
    for seed in range(30):
        order = picks(Weighted(context(seed)), weighted(1, 1, 1), 12)
        assert {"".join(pair) for pair in pairwise(order)} == {"ab", "bc", "ca"}
        starts.add(order[0])
    assert starts == {"a", "b", "c"}


def test_models_that_alternate_do_not_keep_each_other_from_workers() -> None:
    made, strategy = weighted(1, 1, 1, 1), Weighted(context(1))
    counted = Counter(pick(strategy, made[:2] if step % 2 else made[2:]).id for step in range(40))
    assert counted == {"a": 10, "b": 10, "c": 10, "d": 10}


def test_one_that_comes_back_is_not_given_what_it_missed() -> None:
    workers, strategy = weighted(1, 1, 1), Weighted(context(1))
    picks(strategy, workers[:2], 1000)
    assert Counter(picks(strategy, workers, 30)) == {"a": 10, "b": 10, "c": 10}


def test_weighted_goes_on_where_its_state_says_after_it_was_written_down() -> None:
    workers, first = weighted(5, 3, 1), Weighted(context(1))
    picks(first, workers, 4)
    second = Weighted(context(1))
    second.stand_at(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert picks(second, workers, 20) == picks(first, workers, 20)


@pytest.mark.parametrize("state", [None, 3, ["a"], {"a": "b"}, {"a": None}])
def test_a_state_that_makes_no_sense_is_left_aside(state: object) -> None:
    strategy = Weighted(context(1))
    picks(strategy, weighted(2, 1), 1)
    before = strategy.state()
    strategy.stand_at(state)
    assert strategy.state() == before


def test_workers_that_are_gone_are_forgotten() -> None:
    made = fleet("w1")
    strategy = Weighted(context(1))
    for step in range(500):
        made.configure([worker(f"w{step}"), worker(f"w{step + 1}")])
        picks(strategy, made.ordered, 3)
    assert len(strategy.state()) <= 2 * 2 + 64 + 2
    assert made.ordered[1].id in strategy.state()


# Power of two


def drawn(strategy: PowerOfTwo, workers: list[Worker]) -> tuple[int, int]:
    """(the first that will be drawn, the other): places in the list."""
    state, load = workers[0].load, [one.load for one in workers]
    first = strategy.choose(ASKED, workers)
    assert state == workers[0].load
    first.load += 100.0                                        # the other wins now
    other = strategy.choose(ASKED, workers)
    for one, before in zip(workers, load, strict=True):
        one.load = before
    return workers.index(first), workers.index(other)


def test_two_distinct_workers_are_drawn_and_all_pairs_alike() -> None:
    workers, strategy = fleet().ordered, PowerOfTwo(context(3))
    counted: Counter[tuple[int, int]] = Counter()
    for _ in range(3000):
        strategy.context.chance.n += 1
        counted[drawn(strategy, workers)] += 1
    assert set(counted) == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert sum((count - 500) ** 2 / 500 for count in counted.values()) < 20.52      # 5 degrees, once in a thousand


def test_the_one_of_the_two_with_less_to_do_wins_and_the_first_where_they_are_equal() -> None:
    made = fleet()
    fill(made, "w1", 2)
    fill(made, "w2", 1)
    counted = Counter(picks(PowerOfTwo(context(3)), made.ordered, 3000))
    assert set(counted) == {"w2", "w3"}, "the busiest never wins against another"
    assert abs(counted["w3"] / 3000 - 2 / 3) < 0.03, "the idlest wins in two of three pairs"


def test_strict_power_of_two_counts_requests_and_not_their_share_of_the_capacity() -> None:
    made = fleet(worker("small", max_concurrency=2), worker("large", max_concurrency=16))
    fill(made, "small", 1)
    fill(made, "large", 4)
    assert set(picks(PowerOfTwo(context(1)), made.ordered, 20)) == {"large"}
    assert set(picks(PowerOfTwo(context(1, options=Strategies(strict=True))), made.ordered, 20)) == {"small"}


def test_of_a_burst_each_one_is_counted_before_the_next_is_decided_about() -> None:
    made, place = fleet(worker("w1", models=("m",), max_concurrency=100), worker("w2", models=("m",), max_concurrency=100)), env()
    dispatcher = Dispatcher(made, Decider(made, None, "power-of-two", place), place)
    for number in range(1, 101):
        assert isinstance(dispatcher.on_request(job()), Send)
        one, other = (worker.in_flight for worker in made.ordered)
        assert one + other == number and abs(one - other) <= 1


def test_power_of_two_spreads_better_than_chance() -> None:
    def most(strategy: Balancing) -> int:
        made = fleet(*(worker(f"w{index}", max_concurrency=100) for index in range(16)))
        for _ in range(320):
            made.sent(pick(strategy, made.ordered), 0.0)
        return max(one.in_flight for one in made.ordered)

    assert most(PowerOfTwo(context(1))) <= 23 < most(Random(context(1)))
