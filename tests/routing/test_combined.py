"""Weighted lists of strategies: how scores are brought together, what counts as a tie, and what a part keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Strategies
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.balance import LeastRequest
from rbeerouter.routing.strategies.base import Scored
from rbeerouter.routing.strategies.combined import Combined, normalised
from rbeerouter.routing.strategies.prefix import PrefixCache
from tests.routing.prompts import Traffic, prompt
from tests.support.builders import context, fill, fleet, quick, request

CRITICAL_AT_2 = 13.82
"""Chi-square with two degrees of freedom exceeds this once in a thousand times."""


class Given(Scored):
    """Scores that a test names, one for each worker."""

    def __init__(self, name: str, scores: Sequence[float | None] | None, least: bool = True, **options: Any) -> None:
        super().__init__(context(**options))
        self.name = name  # type: ignore[misc]
        self.least = least  # type: ignore[misc]
        self.given = scores
        self.took: list[str] = []

    def scores(self, request: Request, workers: list[Worker]) -> Sequence[float | None] | None:
        return None if self.given is None else self.given[: len(workers)]

    def taken(self, request: Request, worker: Worker) -> None:
        self.took.append(worker.id)

    def headers(self, worker: Worker) -> tuple[tuple[str, str], ...]:
        return ((f"x-{self.name}", worker.id),)


def combined(*parts: tuple[Scored, int], strict: bool = False) -> Combined:
    return Combined(context(options=Strategies(strict=strict)), parts)


def chosen(strategy: Combined) -> str | None:
    strategy.context.chance.n += 1
    worker = strategy.choose(request(), fleet().ordered)
    return None if worker is None else worker.id


def test_scores_are_normalised_to_one_for_the_best_and_nought_for_the_worst() -> None:
    assert normalised([2, 3, 9], least=True) == [1.0, 6 / 7, 0.0]
    assert normalised([0, 40, 90], least=False) == [0.0, 4 / 9, 1.0]
    assert normalised([5, 5, 5], least=True) == normalised([5, 5, 5], least=False) == [1.0, 1.0, 1.0]


def test_the_worked_example_of_two_parts_goes_to_the_worker_that_is_second_in_both() -> None:
    """least-request:2,prefix-cache:1 with counts 2, 3, 9 and matches 0, 40, 90 %: totals 0.667, 0.720 and 0.333."""
    requests, prefix = Given("requests", [2, 3, 9]), Given("prefix", [0, 40, 90], least=False)
    assert chosen(combined((requests, 2), (prefix, 1))) == "w2"
    assert chosen(combined((requests, 1), (prefix, 1000))) == "w3"
    assert chosen(combined((requests, 1000), (prefix, 1))) == "w1"


@pytest.mark.parametrize("strict", [False, True])
def test_the_worked_example_holds_for_the_strategies_themselves(strict: bool) -> None:
    made, told = fleet("w1", "w2", "w3"), context(options=Strategies(strict=strict))
    requests, prefix = LeastRequest(told), PrefixCache(told)
    traffic = Traffic(made, told.memories)
    for name, blocks in (("w2", 4), ("w3", 9)):
        traffic.serve(prompt(range(blocks)), name)
    for one, count in zip(made.ordered, (2, 3, 9), strict=True):
        fill(made, one.id, count)
    asked = prompt(range(10))
    assert prefix.scores(asked, made.ordered) == [0, 40, 90]
    for weights, winner in (((2, 1), "w2"), ((1, 1000), "w3"), ((1000, 1), "w1")):
        strategy = Combined(told, list(zip((requests, prefix), weights, strict=True)))
        chosen = strategy.choose(asked, made.ordered)
        assert chosen is not None and chosen.id == winner


def test_what_is_known_of_one_worker_only_for_others_is_their_mean_and_with_strict_the_worst() -> None:
    assert normalised([0, None, 8, 10], least=True) == [1.0, 0.4, 0.2, 0.0]
    assert normalised([0, None, 8, 10], least=True, strict=True) == [1.0, 0.0, 0.2, 0.0]
    assert normalised([0, float("nan"), float("inf"), 10], least=True, strict=True) == [1.0, 0.0, 0.0, 0.0]
    assert normalised([None, None], least=True) is None


def test_a_part_that_knows_nothing_has_no_say_and_all_together_leave_it_to_the_next() -> None:
    knows, blank, lost = Given("knows", [3, 1, 2]), Given("blank", None), Given("lost", [None, None, None])
    assert chosen(combined((knows, 1), (blank, 1000), (lost, 1000))) == "w2"
    assert chosen(combined((blank, 1), (lost, 1))) is None


def test_totals_that_differ_by_no_more_than_rounding_are_a_tie_which_chance_breaks_evenly() -> None:
    strategy = combined((Given("a", [0, 1, 0.5]), 1), (Given("b", [1 + 1e-10, 0, 0.5], least=True), 1))
    counted = Counter(chosen(strategy) for _ in range(3000))
    assert set(counted) == {"w1", "w2", "w3"}
    assert sum((count - 1000) ** 2 / 1000 for count in counted.values()) < CRITICAL_AT_2


def test_each_part_is_told_what_was_taken_and_adds_its_headers() -> None:
    first, second = Given("a", [0, 1, 1]), Given("b", [0, 1, 1])
    strategy, worker = combined((first, 1), (second, 3)), fleet().ordered[0]
    strategy.taken(request(), worker)
    assert (first.took, second.took) == (["w1"], ["w1"])
    assert strategy.headers(worker) == (("x-a", "w1"), ("x-b", "w1"))
    assert strategy.name == "a:1,b:3"


@pytest.mark.parametrize("field", ["by_load", "reads_prompt", "reads_client", "reads_caller"])
def test_a_list_reads_what_any_of_its_parts_reads(field: str) -> None:
    plain, special = Given("a", [0, 1, 1]), Given("b", [0, 1, 1])
    setattr(special, field, True)
    assert getattr(combined((plain, 1), (special, 1)), field) is True
    assert getattr(combined((plain, 1), (plain, 1)), field) is False


@quick()
@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=3, max_size=3),
    st.integers(1, 1_000_000), st.integers(1, 1_000_000),
)  # fmt: skip
def test_no_worker_that_is_better_in_all_parts_is_passed_over(
    scores: list[tuple[float, float]], weight: int, other: int
) -> None:
    parts = (Given("a", [one for one, _ in scores]), weight), (Given("b", [two for _, two in scores]), other)
    first, second = scores[int((chosen(combined(*parts)) or "")[1]) - 1]
    spans = [max(column) - min(column) for column in zip(*scores, strict=True)]
    assert not any(
        first - one > 1e-2 * spans[0] > 0 and second - two > 1e-2 * spans[1] > 0 for one, two in scores
    )
