"""Prompts go where their beginning is: what is remembered of traffic, the formulas, who gets what nobody knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Prefix, Strategies
from rbeerouter.core.dispatch import Dispatcher, Job
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Outcome, Report, Request
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.strategies.prefix import LMetric, PrefixCache, PrefixIndex
from tests.routing.prompts import DIED, TOKENS, Traffic, prompt
from tests.support.builders import context, env, fill, fleet, quick, request, worker

PLAIN = Strategies(prefix=Prefix(queued_weight=1.0, load_power=1.0))
"""The formula without its weights, which is easy to reckon with."""


class Scene:
    """Workers, a strategy and traffic."""

    def __init__(
        self, kind: type[PrefixCache | LMetric] = PrefixCache, made: Fleet | None = None, options: Strategies = PLAIN,
        seed: int = 1,
    ) -> None:
        self.fleet = made or fleet()
        self.context = context(seed, options=options)
        self.strategy = kind(self.context)
        self.index = self.context.memory(PrefixIndex, options.prefix)
        self.traffic = Traffic(self.fleet, self.context.memories)

    def pick(self, asked: Request) -> str:
        self.context.chance.n += 1
        chosen = self.strategy.choose(asked, self.fleet.ordered)
        assert chosen is not None
        return chosen.id

    def held(self) -> dict[str, int]:
        return {name: self.index.blocks.count(name) for name in self.fleet.workers if self.index.blocks.count(name)}


# The formulas


@pytest.mark.parametrize(("in_flight", "chosen"), [(5, "w2"), (2, "w1")])
def test_lmetric_weighs_what_is_cached_against_who_is_there(in_flight: int, chosen: str) -> None:
    """8,000 tokens of which w1 has 6,000: 2,000 x 6 against 8,000 x 1, then 2,000 x 3."""
    scene = Scene(LMetric, fleet("w1", "w2"))
    scene.traffic.serve(prompt(range(600)), "w1")
    fill(scene.fleet, "w1", in_flight)
    assert scene.strategy.scores(prompt(range(800)), scene.fleet.ordered) == [2000 * (in_flight + 1), 8000]
    assert scene.pick(prompt(range(800))) == chosen


def test_a_prompt_that_is_cached_whole_costs_a_block_for_each_request() -> None:
    """16 tokens x 6 = 96 against 8,016 x 1, where lmetric has 0 whatever the load."""
    scene = Scene(made=fleet("w1", "w2"))
    whole = prompt(range(500), block_tokens=16)
    scene.traffic.serve(whole, "w1")
    fill(scene.fleet, "w1", 5)
    assert scene.pick(whole) == "w1"
    assert LMetric(scene.context).scores(whole, scene.fleet.ordered) == [0, 8000]


def test_what_waits_to_be_computed_counts_until_the_first_content() -> None:
    scene = Scene(made=fleet("w1", "w2"), options=Strategies(prefix=Prefix(queued_weight=1.0, load_power=0.0)))
    scene.traffic.serve(prompt([1]), "w2")                     # else w1 would be the one that was chosen longer ago
    job = scene.traffic.send(prompt(range(10, 110)), "w1")
    assert scene.index.queued == {"w1": 100 * TOKENS, "w2": 0}
    assert scene.pick(prompt([7])) == "w2"
    scene.traffic.answer(job)
    assert scene.index.queued == {"w1": 0, "w2": 0}
    scene.traffic.end(job)
    assert scene.index.queued == {"w1": 0, "w2": 0}


def test_only_what_a_worker_has_not_got_waits_there() -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2, 3]), "w1")
    jobs = [scene.traffic.send(prompt([1, 2, 3, 4]), "w1"), scene.traffic.send(prompt([1, 2, 3, 4], tokens=55), "w1")]
    assert scene.index.queued["w1"] == 10 + 15
    for job in jobs:
        scene.traffic.end(job)
    assert scene.index.queued["w1"] == 0


def test_the_weights_of_the_configuration_hold() -> None:
    options = Strategies(prefix=Prefix(queued_weight=0.1, load_power=0.5))
    scene = Scene(made=fleet("w1", "w2"), options=options)
    scene.traffic.serve(prompt(range(100)), "w1")
    scene.traffic.send(prompt(range(500, 600)), "w1")          # w1: (100 + 0 + 10) x 2^0.5 = 155, w2: 1,010
    assert scene.pick(prompt(range(100))) == "w1"
    fill(scene.fleet, "w1", 100)                               # 110 x 102^0.5 = 1,111
    assert scene.pick(prompt(range(100))) == "w2"


def test_a_worker_that_computes_slowly_costs_more_and_one_of_which_nothing_is_heard_is_a_usual_one_again() -> None:
    scene = Scene(made=fleet("w1", "w2"), options=Strategies(prefix=Prefix(speed_power=1.0, load_power=0.0)))
    for start in range(10):
        for name, seconds in (("w1", 4.0), ("w2", 1.0)):
            blocks = [hash((start, name, place)) for place in range(1000)]
            job = scene.traffic.send(prompt(blocks, stream=True), name)
            scene.traffic.now += seconds
            scene.traffic.end(scene.traffic.answer(job))
    scene.traffic.tick()
    # 40 s and 10 s for 100,000 tokens each, and 4,096 of each are taken for usual ones, of 0.25 ms
    assert scene.index.slowness == pytest.approx({"w1": 1.5764, "w2": 0.4236}, abs=1e-4)
    assert {scene.pick(prompt([9, start])) for start in range(20)} == {"w2"}
    scene.traffic.tick(600.0)
    assert scene.index.slowness == {}


def test_answers_in_one_piece_and_refusals_tell_nothing_of_a_pace() -> None:
    scene = Scene(made=fleet("w1", "w2"))
    for name, stream, status in (("w1", False, 200), ("w2", True, 400)):
        job = scene.traffic.send(prompt(range(2000), stream=stream), name)
        scene.traffic.now += 60.0
        scene.traffic.end(scene.traffic.answer(job, status))
    scene.traffic.tick()
    assert scene.index.slowness == {}


def test_in_a_list_the_score_is_the_share_of_the_prompt_in_per_cent() -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2]), "w2")
    scene.traffic.serve(prompt([1, 2, 3, 4, 5]), "w3")
    asked = prompt([1, 2, 3, 4, 8])
    assert (scene.strategy.scores(asked, scene.fleet.ordered), scene.strategy.least) == ([0.0, 40.0, 80.0], False)


@pytest.mark.parametrize("kind", [PrefixCache, LMetric])
def test_without_a_prompt_there_is_nothing_to_go_by(kind: type[PrefixCache | LMetric]) -> None:
    scene = Scene(kind)
    assert scene.strategy.choose(request(), scene.fleet.ordered) is None
    assert scene.strategy.scores(request(), scene.fleet.ordered) is None


# Who gets what nobody knows


def test_cold_prompts_go_round_the_idle_workers() -> None:
    scene = Scene()
    order = []
    for start in range(0, 900, 100):
        asked = prompt(range(start, start + 10))
        order.append(scene.pick(asked))
        scene.traffic.serve(asked, order[-1])
    assert [sorted(order[at : at + 3]) for at in (0, 3, 6)] == [["w1", "w2", "w3"]] * 3


def test_a_burst_of_a_new_beginning_stays_together_though_nobody_has_answered_yet() -> None:
    options = Strategies(prefix=Prefix(queued_weight=0.1, load_power=0.125))
    scene = Scene(options=options)
    chosen = []
    for number in range(4):
        asked = prompt([*range(200), 1000 + number])
        chosen.append(scene.pick(asked))
        scene.traffic.send(asked, chosen[-1])
    assert len(set(chosen)) == 1


def test_a_trifle_in_common_does_not_make_a_prompt_warm() -> None:
    scene = Scene(made=fleet("w1", "w2"), options=Strategies(prefix=Prefix(cold_share=0.05)))
    blocks = [1, *range(100, 139)]
    scene.traffic.serve(prompt(blocks[:2]), "w1")
    for count, cold in ((0, True), (1, True), (2, True), (3, False)):
        assert scene.index.is_cold(blocks, {"w1": count} if count else {}) is cold


def test_equal_workers_are_told_apart_by_requests_then_by_who_was_chosen_longest_ago_then_by_chance() -> None:
    flat = Strategies(prefix=Prefix(queued_weight=0.0, load_power=0.0, cold_share=0.0))
    scene = Scene(options=flat)
    for name in ("w2", "w3", "w1"):
        scene.traffic.serve(prompt([1, 2]), name)
    assert scene.pick(prompt([1, 2])) == "w2"
    fill(scene.fleet, "w2", 1)
    assert scene.pick(prompt([1, 2])) == "w3"
    fresh = Scene(options=flat)
    counted = Counter(fresh.pick(prompt([9])) for _ in range(3000))
    assert sum((count - 1000) ** 2 / 1000 for count in counted.values()) < 13.82 and len(counted) == 3


# What is remembered


def test_whoever_chose_the_worker_what_it_was_sent_is_known_at_once() -> None:
    scene = Scene()
    scene.traffic.send(prompt([1, 2, 3]), "w2")
    assert scene.index.match(prompt([1, 2, 9]).text) == {"w2": 2}


def test_a_worker_has_no_more_than_fits_into_its_cache() -> None:
    made = fleet(worker("told", models=("m",)), worker("silent", models=("m",)))
    made.apply(Report("told", True, None, 1.0, kv_blocks=4, block_size=16))
    scene = Scene(made=made, options=Strategies(prefix=Prefix(worker_tokens=80)))
    for name in ("told", "silent"):
        scene.traffic.serve(prompt(range(20)), name)
    assert scene.held() == {"told": 6, "silent": 8}
    assert scene.index.match(prompt(range(20)).text) == {"told": 6, "silent": 8}


def test_what_a_worker_said_of_its_cache_holds_while_it_says_nothing() -> None:
    made = fleet(worker("w1", models=("m",)))
    made.apply(Report("w1", True, None, 1.0, kv_blocks=4, block_size=16))
    scene = Scene(made=made)
    scene.traffic.serve(prompt(range(20)), "w1")
    made.workers["w1"].forget_figures()
    scene.traffic.serve(prompt(range(20)), "w1")
    assert scene.held() == {"w1": 6}


@pytest.mark.parametrize("by_tick", [True, False])
def test_a_restart_forgets_what_a_worker_had(by_tick: bool) -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2]), "w1")
    scene.traffic.serve(prompt([1, 2]), "w2")
    late = scene.traffic.send(prompt([1, 2, 3]), "w1")
    scene.fleet.workers["w1"].generation += 1
    if by_tick:
        scene.traffic.tick()
        assert scene.held() == {"w2": 2}
    scene.traffic.serve(prompt([5]), "w1")
    scene.traffic.answer(late)
    scene.traffic.end(late)                                    # that was another process's cache
    assert scene.held() == {"w1": 1, "w2": 2}


def test_a_worker_that_is_gone_is_forgotten() -> None:
    scene = Scene()
    for name in ("w1", "w2"):
        scene.traffic.serve(prompt([1, 2]), name)
    late = scene.traffic.send(prompt([3]), "w1")
    scene.fleet.configure([worker("w2", models=("m",)), worker("w3", models=("m",))])
    scene.traffic.tick()
    known = [scene.index.queued, scene.index.chosen, scene.index.cold, scene.index._rooms, scene.index._paces]
    assert [set(one) - {"w2"} for one in known] == [set()] * 5
    scene.traffic.end(late)
    assert (scene.held(), scene.index.queued, scene.index.blocks.workers()) == ({"w2": 2}, {"w2": 0}, ["w2"])


def test_an_attempt_that_failed_before_its_first_content_has_cached_nothing_new() -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2]), "w1")
    job = scene.traffic.send(prompt([1, 2, 3, 4]), "w1")
    assert scene.held() == {"w1": 4}
    scene.traffic.end(job, DIED)
    assert (scene.held(), scene.index.queued["w1"]) == ({"w1": 2}, 0)


def test_what_another_prompt_under_way_has_too_stays() -> None:
    scene = Scene()
    first = scene.traffic.send(prompt([1, 2, 3]), "w1")
    second = scene.traffic.send(prompt([1, 2, 5]), "w1")
    scene.traffic.send(prompt([1, 2, 3]), "w2")
    scene.traffic.end(first, DIED)
    assert scene.index.match(prompt([1, 2, 3]).text) == {"w1": 2, "w2": 3}
    scene.traffic.end(second, DIED)
    assert scene.held() == {"w1": 2, "w2": 3}, "it found two blocks there, of which nobody knows better"


@pytest.mark.parametrize(("status", "held"), [(200, {"w1": 3}), (400, {})])
def test_an_attempt_that_failed_after_content_has_cached_its_prompt(status: int, held: dict[str, int]) -> None:
    scene = Scene()
    scene.traffic.end(scene.traffic.answer(scene.traffic.send(prompt([1, 2, 3]), "w1"), status), DIED)
    assert scene.held() == held


def test_a_prompt_in_use_is_not_the_first_to_go() -> None:
    scene = Scene(options=Strategies(prefix=Prefix(worker_tokens=50)))
    job = scene.traffic.answer(scene.traffic.send(prompt([1, 2, 3]), "w1"))
    scene.traffic.serve(prompt([7, 8, 9, 10]), "w1")
    assert scene.index.match(prompt([1, 2, 3]).text) == {"w1": 1}
    scene.traffic.end(job)
    assert scene.index.match(prompt([1, 2, 3]).text) == {"w1": 3}


def test_strategies_and_deciders_share_one_memory() -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2]), "w2")
    again = context(9, options=PLAIN, memories=scene.context.memories)
    assert LMetric(again).uncached(prompt([1, 2]), prompt([1, 2]).text, scene.fleet.ordered) == [20, 0, 20]


def test_nothing_of_a_request_is_kept_once_it_has_ended() -> None:
    scene = Scene()
    scene.traffic.serve(prompt([1, 2]), "w1")
    scene.traffic.end(scene.traffic.send(prompt([1, 2]), "w1"), DIED)
    assert scene.index._flights == {}
    assert scene.index._matched[0] is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "answer", "end", "fail", "restart", "leave", "tick"]), st.integers(0, 5),
        st.lists(st.integers(0, 9), max_size=6),
    ), max_size=40,
)  # fmt: skip


@quick(max_examples=150)
@given(STEPS, st.integers(1, 60))
def test_whatever_happens_bounds_hold_and_nothing_is_left_over(
    steps: list[tuple[str, int, list[int]]], room: int
) -> None:
    scene = Scene(options=Strategies(prefix=Prefix(worker_tokens=room)))
    under_way = []
    for name, which, blocks in steps:
        names = list(scene.fleet.workers)
        if name == "send" and names:
            under_way.append(scene.traffic.send(prompt(blocks), names[which % len(names)]))
        elif name in ("answer", "end", "fail") and under_way:
            job = under_way[which % len(under_way)]
            if name == "answer":
                scene.traffic.answer(job)
            else:
                under_way.remove(job)
                scene.traffic.end(job, DIED if name == "fail" else None)
        elif name == "restart" and names:
            scene.fleet.workers[names[which % len(names)]].generation += 1
        elif name == "leave":
            scene.fleet.configure([worker(f"w{n}", models=("m",)) for n in (1, 2, 3) if n != which])
        scene.traffic.tick()
        assert all(scene.index.blocks.count(name) <= max(1, room // TOKENS) for name in scene.fleet.workers)
        assert all(queued >= 0 for queued in scene.index.queued.values())
        for worker_ in scene.fleet.ordered:
            chosen = scene.strategy.choose(prompt(blocks), [worker_])
            assert chosen is worker_
    for job in under_way:
        scene.traffic.end(job)
    scene.traffic.tick()
    assert (set(scene.index.queued.values()) <= {0}, scene.index._flights) == (True, {})
    assert set(scene.index.blocks.workers()) <= set(scene.fleet.workers)


def test_after_a_failure_the_prompt_is_still_known_to_the_next_choice_and_goes_when_the_request_has_ended() -> None:
    made, now = fleet(), env()
    decider = Decider(made, None, "prefix-cache", now)
    traffic = Traffic(made, decider.memories)
    traffic.serve(prompt(range(20)), "w2")
    traffic.serve(prompt(range(10)), "w3")
    dispatcher, asked = Dispatcher(made, decider, now), prompt(range(20))
    text, one = asked.text, Job(asked, 100.0, 100.0)
    assert text is not None
    assert dispatcher.on_request(one).worker.id == "w2"        # type: ignore[union-attr]
    assert dispatcher.on_outcome(one, Outcome(failure=DIED)).worker.id == "w3"      # type: ignore[union-attr]
    assert (len(text.blocks()), one.decision.strategy) == (20, "prefix-cache")      # type: ignore[union-attr]
    dispatcher.on_outcome(one, Outcome(None, 200, delivered=True))
    assert (one.state, tuple(text.blocks())) == ("done", ())
    assert decider.memories.of(PrefixIndex, Prefix()).blocks.match(list(range(20))) == {"w2": 20, "w3": 20}


def test_the_death_of_a_worker_with_hundreds_of_prompts_costs_little_and_keeps_what_others_have_too() -> None:
    """Each looks at a few blocks of the others only: all of them would be six million, and the router would stand still."""
    looked = 0

    class Looked(list[int]):
        def __getitem__(self, which: Any) -> Any:
            nonlocal looked
            looked += 1
            return super().__getitem__(which)

        def __iter__(self) -> Iterator[int]:
            nonlocal looked
            looked += len(self)
            return super().__iter__()

    scene = Scene()
    sent = [[*range(8), *range(1000 * number, 1000 * number + number % 3 * 64)] for number in range(1, 301)]
    jobs = []
    for blocks in [*sent, [*sent[1], 7_000_000]]:
        asked = prompt(())
        object.__setattr__(asked.text, "_blocks", Looked(blocks))
        jobs.append(scene.traffic.send(asked, "w1"))
    looked = 0
    scene.traffic.end(jobs[1], DIED)
    assert scene.index.blocks.match(sent[1]) == {"w1": len(sent[1])}, "another has all of it"
    for one in jobs[2:-1]:
        scene.traffic.end(one, DIED)
    assert scene.held() == {"w1": len(sent[1]) + 1 + len(sent[0]) - 8}
    scene.traffic.end(jobs[-1], DIED)
    scene.traffic.end(jobs[0], DIED)
    assert (scene.held(), looked < 300 * 300 * 4) == ({"w1": len(sent[1]) - 8}, True), "it found these there"
