"""What holds for every strategy there is, whatever it chooses by: of all workers and of none of their figures."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Strategies
from rbeerouter.core.errors import RouterError
from rbeerouter.core.seen import snapshot
from rbeerouter.core.types import Request, Wishes, Worker
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.strategies import ALIASES, RESERVED, STRATEGIES
from rbeerouter.routing.strategies.base import Hold, Scored, Strategy
from tests.support.builders import context, down, env, fill, fleet, quick, request, worker


class Words:
    """The prompt of a request."""

    block_tokens = 16

    def __init__(self, blocks: list[int]) -> None:
        self._blocks = blocks

    def blocks(self) -> list[int]:
        return self._blocks

    def token_ids(self) -> list[int] | None:
        return None


NAMES = sorted(STRATEGIES)
BARE = request()
FULL = request(
    user_id="u", session_id="s", client="10.1.2.3", prompt_tokens=3000, max_tokens=100, text=Words(list(range(40))),
    wishes=Wishes(session_key="k", slo_ttft_ms=500.0, slo_tpot_ms=50.0, slo_e2e_ms=9000.0),
)  # fmt: skip
FIGURES = ("kv_usage", "waiting", "running", "ttft_ms", "latency_ms", "inter_token_ms", "tokens_per_s", "error_rate", "kv_blocks")


def made_of(rows: list[dict[str, Any]]) -> list[Worker]:
    """Workers with so many requests in flight and these figures."""
    made = fleet(*(worker(f"w{index}", models=("m",), weight=row["weight"]) for index, row in enumerate(rows)))
    for one, row in zip(made.ordered, rows, strict=True):
        for _ in range(row["jobs"]):
            made.sent(one, 0.0)
        for name in FIGURES:
            setattr(one, name, row[name])
    return made.ordered


def figure(most: float, least: float = 0.0) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(least, most)


rows = st.fixed_dictionaries(
    {"jobs": st.integers(0, 5), "weight": st.sampled_from([0.5, 1.0, 3.0])}
    | {name: figure(1.0 if name in ("kv_usage", "error_rate") else 1e4) for name in FIGURES}
    | {name: st.none() | st.integers(0, 100) for name in ("waiting", "running", "kv_blocks")}
)
requests = st.builds(
    request, user_id=st.sampled_from([None, "u1", "u2"]), session_id=st.sampled_from([None, "s", "dzE="]),
    client=st.sampled_from([None, "10.0.0.9"]), prompt_tokens=st.none() | st.integers(0, 10**6),
    max_tokens=st.none() | st.integers(1, 10**6), priority=st.none() | st.integers(-5, 5),
    text=st.none() | st.builds(Words, st.lists(st.integers(0, 2**64 - 1), max_size=20)),
    wishes=st.none() | st.builds(
        Wishes, session_key=st.sampled_from([None, "k"]), slo_ttft_ms=figure(1e4, 1e-3), slo_tpot_ms=figure(1e3, 1e-3),
        slo_e2e_ms=figure(1e5, 1e-3),
    ),
)  # fmt: skip


def state_of(strategy: Strategy, workers: list[Worker]) -> Any:
    """All that a choice must leave as it is."""
    return copy.deepcopy(strategy.state()), [snapshot(one) for one in workers], [one.in_flight for one in workers]


def chooses_well(strategy: Strategy, asked: Request, workers: list[Worker]) -> Worker | Hold | None:
    """One choice, of which it is checked that it is one, and that a second one is the same and nothing has changed."""
    chance, given = strategy.context.chance, list(workers)
    before = state_of(strategy, workers)
    choices = []
    for _ in range(2):
        n, chance.n = chance.n, -1                             # aims it at another decision, so that it begins anew
        chance.bits()
        chance.n = n
        choices.append(strategy.choose(asked, workers))
    assert choices[0] == choices[1]
    assert state_of(strategy, workers) == before and workers == given
    choice = choices[0]
    assert choice is None or isinstance(choice, Hold) or any(choice is one for one in workers)
    return choice


@pytest.mark.parametrize("strict", [False, True], ids=["usual", "strict"])
@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_takes_one_of_its_workers_or_says_that_it_cannot_tell_and_changes_nothing(name: str, strict: bool) -> None:
    @quick(max_examples=8)
    @given(st.lists(st.tuples(st.lists(rows, min_size=1, max_size=5), requests), min_size=1, max_size=4), st.integers(0, 99))
    def holds(decisions: list[tuple[list[dict[str, Any]], Request]], seed: int) -> None:
        strategy = STRATEGIES[name](context(seed, options=Strategies(strict=strict)))
        for made, asked in decisions:
            strategy.context.chance.n += 1
            choice = chooses_well(strategy, asked, made_of(made))
            if isinstance(choice, Worker):
                strategy.taken(asked, choice)
                assert all(key == key.lower() and isinstance(value, str) for key, value in strategy.headers(choice))

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_no_strategy_gets_a_worker_that_cannot_have_the_request(name: str) -> None:
    """Down, draining, full or of another model: whoever is chosen is none of these, though his session or prompt was there."""

    @quick(max_examples=8)
    @given(st.lists(st.tuples(st.sampled_from(["up", "down", "draining", "full"]), st.sampled_from("mn")), min_size=1, max_size=6),
           st.lists(requests, min_size=1, max_size=4))  # fmt: skip
    def holds(kinds: list[tuple[str, str]], asked: list[Request]) -> None:
        made = fleet(*(worker(f"w{index}", models=(model,)) for index, (_, model) in enumerate(kinds)))
        for one, (kind, _) in zip(made.ordered, kinds, strict=True):
            if kind == "down":
                down(made, one.id)
            elif kind == "draining":
                made.drain(one.id)
            elif kind == "full":
                fill(made, one.id, one.capacity)
        able = {f"w{index}" for index, kind in enumerate(kinds) if kind == ("up", "m")}
        both = Decider(made, None, name, env())
        for one in asked:
            try:
                chosen = both.decide(one).worker
            except RouterError:
                chosen = None
            assert chosen is None or chosen.id in able

    holds()


@pytest.mark.parametrize("count", [1, 64])
@pytest.mark.parametrize("asked", [BARE, FULL], ids=["bare", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_works_with_one_worker_and_with_many(name: str, asked: Request, count: int) -> None:
    workers = fleet(*(f"w{number}" for number in range(count))).ordered
    strategy = STRATEGIES[name](context())
    for _ in range(5):
        strategy.context.chance.n += 1
        choice = chooses_well(strategy, asked, workers)
        if isinstance(choice, Worker):
            strategy.taken(asked, choice)


@pytest.mark.parametrize("name", [name for name in NAMES if issubclass(STRATEGIES[name], Scored)])
def test_a_strategy_of_numbers_gives_one_to_each_worker_or_none_at_all(name: str) -> None:
    strategy = STRATEGIES[name](context())
    assert isinstance(strategy, Scored)
    for count in (1, 7):
        scores = strategy.scores(FULL, fleet(*(f"w{number}" for number in range(count))).ordered)
        assert scores is None or len(scores) == count


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_goes_on_where_another_of_its_kind_stood(name: str) -> None:
    workers = fleet("w1", "w2", "w3").ordered

    def choices(strategy: Strategy) -> list[str | None]:
        told = []
        for n in range(100, 110):
            strategy.context.chance.n = n
            choice = strategy.choose(FULL, workers)
            if isinstance(choice, Worker):
                strategy.taken(FULL, choice)
            told.append(choice.id if isinstance(choice, Worker) else None)
        return told

    first, second = STRATEGIES[name](context(1)), STRATEGIES[name](context(1))
    choices(first)
    second.stand_at(first.state())
    assert choices(second) == choices(first)


def test_names_are_written_with_hyphens_and_mean_one_thing() -> None:
    names = [*STRATEGIES, *ALIASES, *RESERVED]
    assert [name for name in names if not re.fullmatch("[a-z]+(-[a-z]+)*", name)] == []
    assert {name for name, kind in STRATEGIES.items() if kind.name != name} == set()
    assert set(ALIASES.values()) <= set(STRATEGIES)
    assert set(ALIASES) & set(STRATEGIES) == set(RESERVED) & (set(STRATEGIES) | set(ALIASES)) == set()
