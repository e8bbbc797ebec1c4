"""What all strategies have in common: missing numbers, and ties."""

from __future__ import annotations

from collections import Counter

from rbeerouter.routing.strategies.base import best, with_mean
from tests.support.builders import context, fleet


def test_a_number_that_is_missing_is_the_mean_of_the_others() -> None:
    assert with_mean([1.0, None, 4.0]) == [1.0, 2.5, 4.0]
    assert with_mean([None, None]) is None
    assert with_mean([2.0, 3.0]) == [2.0, 3.0]


def test_the_best_is_the_least_or_the_most_and_ties_break_at_random() -> None:
    made, chance = fleet(), context().chance
    assert best(chance, made.ordered, [2.0, 1.0, 3.0]).id == "w2"
    assert best(chance, made.ordered, [2.0, 1.0, 3.0], least=False).id == "w3"
    counted: Counter[str] = Counter()
    for _ in range(2000):
        chance.n += 1
        counted[best(chance, made.ordered, [1.0, 1.0, 3.0]).id] += 1
    assert set(counted) == {"w1", "w2"} and abs(counted["w1"] - 1000) < 110
