"""Strategies that go by money: what a request costs where, shares that are kept exactly, and models in memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Cheapest as CheapestOptions
from rbeerouter.config.sections import Ratio, Strategies, Warm
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import Model, Models
from rbeerouter.core.types import LOCAL, REMOTE, Report, Worker, WorkerSpec
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.strategies.base import Scored, Strategy
from rbeerouter.routing.strategies.economy import CacheWarm, Cheapest, FixedRatio
from rbeerouter.routing.strategies.tokens import Warming
from tests.support.builders import context, env, fill, fleet, job, quick, request, script, worker
from tests.support.traffic import Traffic, restart

CRITICAL_AT_2 = 13.82
"""Chi-square with two degrees of freedom exceeds this once in a thousand times."""


class Stage:
    """A strategy that decides for a fleet, and hears of its traffic."""

    def __init__(
        self, kind: type[Strategy], *specs: WorkerSpec, models: Models | None = None, seed: int = 1, **options: Any
    ) -> None:
        self.made: Fleet = fleet(*specs)
        made_of = context(seed, options=Strategies(**options), models=models or Models())
        self.strategy = kind(made_of)
        self.traffic = Traffic(self.made, *made_of.memories.all)

    def pick(self, workers: list[Worker] | None = None, **changes: Any) -> str | None:
        """Whom one decision gives a request for m."""
        self.strategy.context.chance.n += 1
        asked = request(**changes)
        choice = self.strategy.choose(asked, workers or self.made.ordered)
        if choice is None:
            return None
        assert isinstance(choice, Worker)
        self.strategy.taken(asked, choice)
        return choice.id

    def picks(self, times: int, **changes: Any) -> Counter[str | None]:
        return Counter(self.pick(**changes) for _ in range(times))

    def scores(self, **changes: Any) -> list[float | None] | None:
        assert isinstance(self.strategy, Scored)
        scores = self.strategy.scores(request(**changes), self.made.ordered)
        return None if scores is None else list(scores)

    def report(self, name: str, **told: Any) -> None:
        self.made.apply(Report(name, True, None, told.pop("taken_at", 100.0), **told))


def chi_square(counted: Counter[str | None], kinds: int) -> float:
    expected = counted.total() / kinds
    return sum((count - expected) ** 2 / expected for count in counted.values())


def three(**changes: Any) -> list[WorkerSpec]:
    return [worker(name, **changes) for name in ("w1", "w2", "w3")]


# cheapest


def test_a_request_costs_its_prompt_and_the_answer_that_is_expected() -> None:
    """1000 tokens of prompt, 500 of an answer: dear answers cost more for this one, and less for one without them."""
    stage = Stage(
        Cheapest,
        worker("prompts", price_in=3.0, price_out=1.0),
        worker("answers", price_in=1.0, price_out=6.0),
    )
    asked = {"prompt_tokens": 1000, "max_tokens": 100}
    assert stage.scores(**asked) == pytest.approx([0.0031, 0.0016])
    assert stage.pick(**asked) == "answers"
    long = {"prompt_tokens": 100, "max_tokens": 200}
    assert stage.scores(**long) == pytest.approx([0.0005, 0.0013])
    assert stage.pick(**long) == "prompts"


def test_the_length_of_answers_is_learned() -> None:
    stage = Stage(Cheapest, worker("prompts", price_in=3.0, price_out=1.0), worker("answers", price_in=1.0, price_out=6.0))
    for _ in range(30):
        stage.traffic.serve("prompts", 100.0, 101.0, tokens_out=2)
    assert stage.scores(prompt_tokens=100) == pytest.approx([302e-6, 112e-6])


def test_an_hour_costs_what_an_answer_takes_of_it_among_those_served_at_once() -> None:
    """3.60 an hour, four at once: 10 s cost a quarter of a cent."""
    stage = Stage(Cheapest, *three(cost_per_hour=3.6))
    assert stage.scores() == pytest.approx([0.0025] * 3)      # nothing measured: ten seconds
    for name, took_s in (("w1", 2.0), ("w2", 4.0)):
        stage.traffic.serve(name, 100.0, 100.0 + took_s)
    assert stage.scores() == pytest.approx([0.0005, 0.001, 0.00075])       # w3 as the mean
    assert stage.pick() == "w1"


def test_a_price_of_tokens_goes_before_one_of_hours_and_that_before_the_models() -> None:
    models = Models((Model("m", price_in=2.0, price_out=2.0),))
    stage = Stage(
        Cheapest, worker("tokens", price_in=1.0, cost_per_hour=100.0), worker("hours", cost_per_hour=3.6), worker("models"),
        models=models,
    )  # fmt: skip
    asked = {"prompt_tokens": 1000, "max_tokens": 200}
    assert stage.scores(**asked) == pytest.approx([0.001 + 0.0004, 0.0025, 0.0024])


def test_what_is_local_and_has_no_price_is_free_and_what_is_remote_as_dear_as_the_dearest() -> None:
    stage = Stage(
        Cheapest, worker("home"), worker("priced", price_in=5.0, price_out=5.0, deployment=REMOTE),
        worker("unknown", deployment=REMOTE),
    )  # fmt: skip
    asked = {"prompt_tokens": 100, "max_tokens": 100}
    assert stage.scores(**asked) == pytest.approx([0.0, 0.001, 0.001])
    assert stage.picks(20, **asked) == {"home": 20}
    remote = stage.made.ordered[1:]
    assert {stage.pick(remote, **asked) for _ in range(50)} == {"priced", "unknown"}


def test_remote_workers_without_any_price_are_no_free_ones() -> None:
    stage = Stage(Cheapest, worker("home"), worker("away", deployment=REMOTE))
    fill(stage.made, "home", 3)
    assert stage.picks(20) == {"home": 20}
    assert stage.pick([stage.made.workers["away"]]) is None


def test_of_workers_that_cost_about_the_same_the_least_loaded_is_chosen() -> None:
    stage = Stage(
        Cheapest, worker("w1", price_in=1.0, price_out=1.0), worker("w2", price_in=1.04, price_out=1.04),
        worker("w3", price_in=1.06, price_out=1.06),
    )  # fmt: skip
    fill(stage.made, "w1", 1)
    assert stage.picks(20) == {"w2": 20}
    exact = Stage(
        Cheapest, worker("w1", price_in=1.0, price_out=1.0), worker("w2", price_in=1.04, price_out=1.04),
        cheapest=CheapestOptions(tolerance=0.0),
    )  # fmt: skip
    fill(exact.made, "w1", 1)
    assert exact.picks(20) == {"w1": 20}


def test_equal_prices_and_loads_are_equal_chances() -> None:
    counted = Stage(Cheapest, *three(price_in=1.0, price_out=1.0)).picks(3000)
    assert chi_square(counted, 3) < CRITICAL_AT_2, counted


Prices = st.none() | st.floats(0.0, 100.0)


@quick(max_examples=150)
@given(st.lists(st.tuples(Prices, Prices, Prices, st.booleans(), st.integers(0, 4)), min_size=1, max_size=6))
def test_nobody_is_much_cheaper_than_the_chosen_one(rows: list[tuple[Any, Any, Any, bool, int]]) -> None:
    stage = Stage(Cheapest, *(
        worker(f"w{index}", price_in=price_in, price_out=price_out, cost_per_hour=per_hour,
               deployment=LOCAL if is_local else REMOTE)
        for index, (price_in, price_out, per_hour, is_local, _) in enumerate(rows)
    ))  # fmt: skip
    for index, row in enumerate(rows):
        fill(stage.made, f"w{index}", row[4])
    costs, chosen = stage.scores(), stage.pick()
    if costs is None:
        assert chosen is None
        return
    cost = costs[[one.id for one in stage.made.ordered].index(chosen)]  # type: ignore[arg-type]
    assert cost <= min(costs) * 1.05  # type: ignore[operator,type-var]


# fixed-ratio


def sides(local: int, remote: int) -> list[WorkerSpec]:
    return [
        *(worker(f"local{index}") for index in range(local)),
        *(worker(f"remote{index}", deployment=REMOTE) for index in range(remote)),
    ]


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_share_is_kept_to_within_one_request_at_any_time(fraction: float) -> None:
    stage = Stage(FixedRatio, *sides(2, 1), ratio=Ratio(local=fraction))
    local = 0
    for number in range(1, 201):
        local += stage.pick() != "remote0"
        assert abs(local - fraction * number) < 1.0


def test_within_the_side_the_least_loaded_gets_it() -> None:
    stage = Stage(FixedRatio, *sides(2, 2), ratio=Ratio(local=0.5))
    fill(stage.made, "local0", 1)
    fill(stage.made, "remote1", 1)
    assert stage.picks(40) == {"local1": 20, "remote0": 20}


def test_a_side_that_cannot_take_its_turn_catches_up_on_ten_requests_and_no_more() -> None:
    stage = Stage(FixedRatio, *sides(1, 1), ratio=Ratio(local=0.5))
    remote = [stage.made.workers["remote0"]]
    for _ in range(100):
        stage.pick(remote)
    row = [stage.pick() for _ in range(40)]
    assert row[:20].count("local0") == 20 and row[20:].count("local0") == 10


def test_choosing_without_taking_changes_no_turn() -> None:
    stage = Stage(FixedRatio, *sides(1, 1), ratio=Ratio(local=0.5))
    assert {stage.strategy.choose(request(), stage.made.ordered) for _ in range(5)} == {stage.made.workers["local0"]}


def test_turns_go_on_after_a_reload() -> None:
    stage = Stage(FixedRatio, *sides(1, 1), ratio=Ratio(local=0.8))
    for _ in range(3):
        stage.pick()
    again = Stage(FixedRatio, *sides(1, 1), ratio=Ratio(local=0.8))
    again.strategy.stand_at(msgspec.json.decode(msgspec.json.encode(stage.strategy.state())))
    assert [stage.pick() for _ in range(20)] == [again.pick() for _ in range(20)]
    for nonsense in (None, "x", float("nan"), [1]):
        again.strategy.stand_at(nonsense)
    assert again.strategy.state() == stage.strategy.state()


# cache-warm


def warm_stage(*loaded: tuple[str, ...], **options: Any) -> Stage:
    """Workers w1, w2, ... with room for eight that list m and n, and have loaded what is said."""
    stage = Stage(
        CacheWarm,
        *(worker(f"w{n}", engine="ollama", models=("m:latest", "n"), max_concurrency=8) for n in range(1, len(loaded) + 1)),
        **options,
    )
    for number, names in enumerate(loaded, 1):
        stage.report(f"w{number}", loaded=names)
    return stage


@pytest.mark.parametrize(("asked", "loaded"), [("m", "m:latest"), ("m:latest", "m"), ("m", "m"), ("m:8b", "m:8b")])
def test_a_worker_that_has_the_model_in_memory_is_chosen(asked: str, loaded: str) -> None:
    stage = warm_stage(("n",), (loaded,), ())
    fill(stage.made, "w2", 3)
    assert stage.picks(20, model=asked) == {"w2": 20}


def test_a_model_of_another_tag_is_another_model() -> None:
    stage = warm_stage(("m:8b",), ("m:70b",))
    assert stage.picks(10, model="m:70b") == {"w2": 10}


def test_a_model_is_known_by_the_name_that_the_worker_has_for_it() -> None:
    stage = Stage(CacheWarm, *(worker(name, model_names={"m": "org/m"}) for name in ("w1", "w2")))
    stage.report("w1", loaded=())
    stage.report("w2", loaded=("org/m",))
    assert stage.picks(10) == {"w2": 10}


def test_of_several_warm_workers_the_least_loaded_is_chosen_and_equals_share() -> None:
    stage = warm_stage(("m",), ("m",), ())
    fill(stage.made, "w1", 1)
    assert stage.picks(10) == {"w2": 10}
    counted = warm_stage(("m",), ("m",), ("m",)).picks(3000)
    assert chi_square(counted, 3) < CRITICAL_AT_2, counted


def test_another_worker_loads_the_model_when_all_warm_ones_are_four_times_as_full() -> None:
    """With the new request: w1 is at 4/8 against 1/8, which is four times as much and not more; then at 5/8."""
    stage = warm_stage(("m",), ())
    fill(stage.made, "w1", 3)
    assert stage.picks(10) == {"w1": 10}
    fill(stage.made, "w1", 1)
    assert stage.picks(10) == {"w2": 10}
    patient = warm_stage(("m",), (), warm=Warm(spill=100.0))
    fill(patient.made, "w1", 7)
    assert patient.picks(10) == {"w1": 10}


def test_a_cold_model_is_loaded_where_most_vram_is_free() -> None:
    stage = warm_stage((), (), ())
    for name, vram, used in (("w1", 24.0, 20.0), ("w2", 16.0, 2.0), ("w3", 24.0, 12.0)):
        stage.report(name, loaded=(), vram=vram, vram_used=used)
    assert stage.picks(10) == {"w2": 10}


def test_where_vram_is_not_known_the_fewest_loaded_models_decide_and_then_the_load() -> None:
    stage = warm_stage(("a", "b"), ("a",), ("b",))
    fill(stage.made, "w2", 1)
    assert stage.picks(10) == {"w3": 10}


def test_a_model_that_is_being_loaded_counts_as_loaded_so_that_a_burst_does_not_load_it_everywhere() -> None:
    stage = warm_stage((), (), ())
    first = stage.pick()
    assert first is not None
    sent = stage.traffic.send(first, 101.0)
    assert stage.picks(10) == {first: 10}
    assert first not in stage.picks(20, model="n")            # and others are loaded elsewhere
    stage.traffic.end(sent, 130.0)
    stage.traffic.tick(131.0)
    assert stage.picks(10) == {first: 10}                     # until the engine tells again what it has
    stage.report(first, loaded=(), taken_at=132.0)
    stage.traffic.tick(133.0)
    assert len(stage.picks(60)) == 3


def test_the_next_model_is_loaded_elsewhere_though_the_same_worker_has_most_vram() -> None:
    stage = warm_stage((), ())
    for name, used in (("w1", 2.0), ("w2", 20.0)):
        stage.report(name, loaded=(), vram=24.0, vram_used=used)
    assert stage.pick() == "w1"
    stage.traffic.send("w1", 101.0)
    assert stage.picks(10, model="n") == {"w2": 10}


def test_a_model_spills_over_only_to_those_that_are_so_much_emptier() -> None:
    """w2 has most free VRAM, but with 3/8 it is not four times as empty as w1 with 6/8; w3 is."""
    stage = warm_stage(("m",), (), ())
    for name, used in (("w2", 2.0), ("w3", 20.0)):
        stage.report(name, loaded=(), vram=24.0, vram_used=used)
    fill(stage.made, "w1", 5)
    fill(stage.made, "w2", 2)
    assert stage.picks(10) == {"w3": 10}


def test_a_load_that_failed_is_none() -> None:
    stage = warm_stage((), ())
    stage.traffic.end(stage.traffic.send("w1", 101.0), 102.0, failure="upstream_disconnected")
    stage.traffic.tick(103.0)
    assert set(stage.picks(40)) == {"w1", "w2"}


def test_a_load_is_under_way_though_a_request_to_the_process_before_has_failed_meanwhile() -> None:
    stage = warm_stage((), ())
    before = stage.traffic.send("w1", 101.0)
    restart(stage.made, "w1")
    stage.report("w1", loaded=(), taken_at=102.0)
    stage.traffic.tick(102.5)
    stage.traffic.send("w1", 103.0)
    stage.traffic.end(before, 104.0, failure="upstream_disconnected")
    stage.traffic.tick(104.5)
    assert stage.picks(20) == {"w1": 20}


def test_where_a_script_wants_another_model_that_one_counts() -> None:
    made = fleet(*(worker(f"w{n}", engine="ollama", models=("m", "n"), max_concurrency=8) for n in (1, 2)))
    for name, loaded in (("w1", ("m",)), ("w2", ("n",))):
        made.apply(Report(name, True, None, 100.0, loaded=loaded))
    both = Decider(made, script("return {model = 'n'}"), "cache-warm", env())
    decision = both.decide(request(model="m"))
    assert (decision.worker, decision.model, decision.strategy) == (made.workers["w2"], "n", "cache-warm")
    memory = both.memories.of(Warming)
    sent = job(model="m")
    sent.decision = decision
    memory.sent(sent, made.workers["w1"], 101.0)
    assert list(memory.records[made.workers["w1"]].asked) == ["n"]


def test_its_scores_say_the_same_in_a_list() -> None:
    stage = warm_stage(("m",), (), warm=Warm(spill=4.0))
    fill(stage.made, "w1", 2)
    assert stage.scores() == pytest.approx([3 / 8, 4 / 8])


@quick(max_examples=150)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=1, max_size=6))
def test_a_cold_worker_is_chosen_only_where_all_warm_ones_are_far_fuller(rows: list[tuple[bool, int]]) -> None:
    stage = warm_stage(*(("m",) if is_warm else () for is_warm, _ in rows))
    for number, (_, jobs) in enumerate(rows, 1):
        fill(stage.made, f"w{number}", jobs)
    chosen = stage.pick()
    assert chosen is not None
    is_warm, jobs = rows[int(chosen[1:]) - 1]
    others = [count + 1 for other, count in rows if other]
    if is_warm:
        assert jobs + 1 == min(others)
        assert not any(4 * (count + 1) < jobs + 1 for other, count in rows if not other)
    elif others:
        assert 4 * (jobs + 1) < min(others)
