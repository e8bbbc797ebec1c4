"""Strategies that go by figures: worked examples, figures that are missing or old, ties, and never a worse choice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Span, Strategies
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Report, Worker
from rbeerouter.routing.strategies.base import Scored, Strategy
from rbeerouter.routing.strategies.figures import (
    LatencyBased,
    LeastBusyTime,
    LeastGpuCache,
    LeastKvCache,
    LeastLatency,
    LeastUtilization,
    LoadBased,
    Throughput,
)
from tests.support.builders import Clock, context, down, fill, fleet, quick, request, worker
from tests.support.traffic import Traffic, restart

ASKED = request(prompt_tokens=100)
CRITICAL_AT_2 = 13.82
"""Chi-square with two degrees of freedom exceeds this once in a thousand times."""
ALL = (
    LoadBased, LatencyBased, LeastBusyTime, LeastLatency, LeastKvCache, LeastGpuCache, LeastUtilization, Throughput,
)  # fmt: skip


class Stage:
    """A strategy that decides for a fleet, and hears of its traffic."""

    def __init__(self, kind: type[Scored], made: Fleet | None = None, seed: int = 1, **options: Any) -> None:
        self.made = made or fleet()
        self.clock = Clock()
        made_of = context(seed, now=lambda: self.clock.now_s, options=Strategies(**options))
        self.strategy = kind(made_of)
        self.traffic = Traffic(self.made, *made_of.memories.all)

    def pick(self, workers: list[Worker] | None = None) -> str | None:
        """Whom one decision chooses; it draws its own numbers."""
        self.strategy.context.chance.n += 1
        choice = self.strategy.choose(ASKED, workers or self.made.ordered)
        assert choice is None or isinstance(choice, Worker)
        return choice.id if choice is not None else None

    def picks(self, times: int) -> Counter[str | None]:
        return Counter(self.pick() for _ in range(times))

    def scores(self) -> list[float | None] | None:
        scores = self.strategy.scores(ASKED, self.made.ordered)
        return list(scores) if scores is not None else None

    def report(self, name: str, taken_at: float = 0.0, **figures: Any) -> None:
        self.made.apply(Report(name, True, None, taken_at, **figures))

    def serve(self, name: str, begin: float, end: float, first: float | None = None, **told: int | None) -> None:
        self.traffic.serve(name, begin, end, first, **told)

    def tick(self, now: float) -> None:
        self.clock.now_s = now
        self.traffic.tick(now)


def chi_square(counted: Counter[str | None], kinds: int) -> float:
    expected = counted.total() / kinds
    return sum((count - expected) ** 2 / expected for count in counted.values())


# What holds for all of them


def knowing(kind: type[Scored], **options: Any) -> Stage:
    """One whose three workers have all told and shown the same."""
    stage = Stage(kind, **options)
    for name in ("w1", "w2", "w3"):
        stage.report(name, 100.0, running=1, waiting=0, kv_usage=0.25)
        stage.serve(name, 100.0, 102.0, first=100.5, tokens_in=100, tokens_out=50)
    stage.tick(103.0)
    return stage


@pytest.mark.parametrize("kind", ALL)
def test_equal_workers_have_equal_chances(kind: type[Scored]) -> None:
    counted = knowing(kind).picks(3000)
    assert set(counted) == {"w1", "w2", "w3"}
    assert chi_square(counted, 3) < CRITICAL_AT_2, counted


@pytest.mark.parametrize("kind", ALL)
def test_choosing_changes_nothing(kind: type[Scored]) -> None:
    stage = knowing(kind)
    before = stage.scores()
    stage.picks(20)
    assert stage.scores() == before


@pytest.mark.parametrize("kind", ALL)
def test_only_those_that_are_offered_are_chosen(kind: type[Scored]) -> None:
    stage = knowing(kind)
    down(stage.made, "w2")
    offered = [one for one in stage.made.ordered if one.id != "w2"]
    assert {stage.pick(offered) for _ in range(50)} == {"w1", "w3"}


@pytest.mark.parametrize("kind", ALL)
def test_a_fleet_of_which_nothing_is_known_yet(kind: type[Scored]) -> None:
    chosen = Stage(kind).picks(60)
    unknown = kind in (LatencyBased, LeastLatency, LeastKvCache, LeastGpuCache)
    assert set(chosen) == ({None} if unknown else {"w1", "w2", "w3"})


@pytest.mark.parametrize("kind", ALL)
def test_it_is_told_by_names_of_the_field(kind: type[Strategy]) -> None:
    assert kind.by_load and kind.name == kind.name.lower().replace("_", "-")


# load-based


def test_load_is_requests_and_the_engines_queue_and_prompts_and_kv_cache() -> None:
    """Of four places each. w1: two requests, both prompts (100 tokens, the mean) unanswered: (2 + 2) / 4. w2: one that
    is answered already: 1 / 4. w3: six of others', three of which wait: (6 + 3) / 4, and 0.15 * 0.5 / 0.501."""
    stage = Stage(LoadBased)
    for _ in range(2):
        stage.traffic.send("w1", 100.0, prompt_tokens=100)
    stage.traffic.content(stage.traffic.send("w2", 100.0, prompt_tokens=100), 101.0)
    for name in ("w1", "w2"):
        stage.report(name, running=0, waiting=0, kv_usage=0.0)
    stage.report("w3", running=3, waiting=3, kv_usage=0.5)
    w3 = stage.made.workers["w3"]
    assert stage.scores() == pytest.approx([1.0, 0.25, (w3.occupied + 3) / 4 + 0.15 * 0.5 / 0.501])
    assert stage.picks(5) == {"w2": 5}


def test_of_equal_numbers_of_requests_the_one_with_shorter_prompts_has_less_load() -> None:
    stage = Stage(LoadBased, fleet("w1", "w2"))
    stage.traffic.send("w1", 100.0, prompt_tokens=4000)
    stage.traffic.send("w2", 100.0, prompt_tokens=200)
    assert stage.picks(5) == {"w2": 5}


def test_a_worker_that_does_not_tell_its_queue_is_taken_for_one_like_the_others() -> None:
    stage = Stage(LoadBased)
    stage.report("w1", kv_usage=0.0)
    stage.report("w2", running=0, waiting=1, kv_usage=0.0)
    stage.report("w3", running=0, waiting=0, kv_usage=0.0)
    assert stage.scores() == pytest.approx([0.5 / 4, 2 / 4, 0.0])


def test_a_full_kv_cache_counts_for_much_and_not_for_ever() -> None:
    stage = Stage(LoadBased, fleet("w1", "w2"))
    stage.report("w1", running=0, waiting=0, kv_usage=1.0)
    stage.report("w2", running=0, waiting=0, kv_usage=0.9)
    assert stage.scores() == pytest.approx([150.0, 0.15 * 0.9 / 0.101])


# latency-based


def test_latency_counts_for_each_request_in_flight_and_the_new_one() -> None:
    stage = Stage(LatencyBased)
    for name, took_s in (("w1", 1.0), ("w2", 2.0), ("w3", 4.0)):
        stage.serve(name, 100.0, 100.0 + took_s)
    fill(stage.made, "w1", 2)
    assert stage.scores() == [3.0, 2.0, 4.0]
    assert stage.picks(5) == {"w2": 5}


def test_a_worker_without_an_answer_yet_is_taken_to_be_as_fast_as_the_mean() -> None:
    stage = Stage(LatencyBased)
    stage.serve("w1", 100.0, 101.0)
    stage.serve("w2", 100.0, 103.0)
    assert stage.scores() == [1.0, 3.0, 2.0]


def test_a_restart_makes_latencies_unknown() -> None:
    stage = Stage(LatencyBased)
    stage.serve("w1", 100.0, 109.0)
    stage.serve("w2", 100.0, 101.0)
    restart(stage.made, "w1")
    stage.tick(101.0)
    assert stage.scores() == [1.0, 1.0, 1.0]


def test_strictly_it_is_the_peak_that_counts() -> None:
    stage = Stage(LatencyBased, strict=True, span=Span(latency_s=10.0))
    stage.serve("w1", 100.0, 101.0)
    stage.serve("w1", 92.0, 101.0)
    stage.serve("w2", 100.0, 105.0)
    assert stage.scores() == [9.0, 5.0, 7.0]


# least-busy-time


def test_the_worker_that_was_busy_for_the_least_of_the_window_is_chosen() -> None:
    stage = Stage(LeastBusyTime, span=Span(busy_s=10.0))
    stage.tick(100.0)
    stage.serve("w1", 100.0, 103.0)
    stage.serve("w2", 100.0, 102.0)
    stage.serve("w3", 100.0, 104.0)
    stage.tick(110.0)
    assert stage.scores() == pytest.approx([0.3, 0.2, 0.4])
    assert stage.picks(5) == {"w2": 5}
    stage.clock.now_s = 112.0                                 # of w3's four seconds two are in the window yet
    assert stage.scores() == pytest.approx([0.1, 0.0, 0.2])


def test_of_workers_that_are_busy_all_the_time_the_least_loaded_is_chosen() -> None:
    stage = Stage(LeastBusyTime)
    for name, requests in (("w1", 3), ("w2", 1), ("w3", 2)):
        for _ in range(requests):
            stage.traffic.send(name, 100.0)
    stage.tick(500.0)
    assert stage.scores() == pytest.approx([1.00075, 1.00025, 1.0005])
    assert stage.picks(5) == {"w2": 5}


# least-latency


def test_the_time_of_a_mean_request_counts_more_where_more_is_done() -> None:
    stage = Stage(LeastLatency, fleet("w1", "w2"), span=Span(latency_s=86_400))
    for _ in range(200):
        stage.serve("w1", 100.0, 102.0, first=101.0, tokens_in=100, tokens_out=51)
        stage.serve("w2", 100.0, 103.0, first=101.0, tokens_in=100, tokens_out=51)
    stage.tick(103.0)
    assert stage.scores() == pytest.approx([2.0, 3.0], rel=0.01)
    fill(stage.made, "w1", 3)                                 # 2 * (1 + 3/4) against 3
    assert stage.picks(5) == {"w2": 5}


def test_long_requests_do_not_make_a_worker_look_slow() -> None:
    """Both take 1 ms for a token of a prompt and 10 ms for one of an answer."""
    stage = Stage(LeastLatency, fleet("w1", "w2"))
    for _ in range(50):
        stage.serve("w1", 100.0, 110.0 + 0.01, first=101.0, tokens_in=1000, tokens_out=902)
        stage.serve("w2", 100.0, 100.2 + 0.01, first=100.1, tokens_in=100, tokens_out=12)
    stage.tick(110.0)
    one, other = stage.scores() or ()
    assert one == pytest.approx(other, rel=0.02)


# least-kv-cache, least-gpu-cache


@pytest.mark.parametrize("kind", [LeastKvCache, LeastGpuCache])
def test_the_emptiest_kv_cache_is_chosen(kind: type[Scored]) -> None:
    stage = Stage(kind)
    for name, usage in (("w1", 0.5), ("w2", 0.75), ("w3", 0.25)):
        stage.report(name, kv_usage=usage)
    assert stage.picks(5) == {"w3": 5}


def test_what_was_sent_since_the_report_is_counted_and_what_came_back_too() -> None:
    """A cache of 100 blocks of 16 tokens: 200 of a prompt and 200 of an answer are a quarter of it."""
    stage = Stage(LeastKvCache, fleet("w1", "w2"))
    for name in ("w1", "w2"):
        stage.report(name, 100.0, kv_usage=0.5, kv_blocks=100, block_size=16)
    sent = stage.traffic.send("w1", 101.0, prompt_tokens=200, max_tokens=200)
    assert stage.scores() == pytest.approx([0.75, 0.5])
    stage.traffic.end(sent, 102.0, tokens_in=200, tokens_out=200)
    assert stage.scores() == pytest.approx([0.5, 0.5])
    late = stage.traffic.send("w1", 103.0, prompt_tokens=200, max_tokens=200)
    stage.report("w1", 105.0, kv_usage=0.7, kv_blocks=100, block_size=16)       # it is part of this one
    assert stage.scores() == pytest.approx([0.7, 0.5])
    stage.traffic.end(late, 106.0, tokens_in=200, tokens_out=200)
    assert stage.scores() == pytest.approx([0.45, 0.5])


def test_what_came_back_or_was_sent_leaves_a_cache_between_empty_and_full() -> None:
    """w1's request took a quarter, as far as was known; w2's has ten times the tokens of its cache, and takes all."""
    stage = Stage(LeastKvCache, fleet("w1", "w2"))
    large = stage.traffic.send("w1", 100.0, prompt_tokens=1600)
    for name, usage in (("w1", 0.125), ("w2", 0.25)):
        stage.report(name, 101.0, kv_usage=usage, kv_blocks=10, block_size=16)
    stage.traffic.end(large, 102.0)
    stage.traffic.send("w2", 102.0, prompt_tokens=1600)
    assert stage.scores() == pytest.approx([0.0, 1.25])


def test_where_the_size_of_the_cache_is_not_told_a_full_worker_fills_it() -> None:
    stage = Stage(LeastKvCache, fleet("w1", "w2"))
    for name in ("w1", "w2"):
        stage.report(name, 100.0, kv_usage=0.1)
    stage.traffic.send("w1", 101.0)
    assert stage.scores() == pytest.approx([0.1 + 1 / 4, 0.1])


def test_who_does_not_tell_is_taken_for_the_mean_and_strictly_left_out() -> None:
    for strict, chosen in ((False, {"w3"}), (True, {"w3"})):
        stage = Stage(LeastKvCache, strict=strict)
        stage.report("w2", kv_usage=0.8)
        stage.report("w3", kv_usage=0.2)
        assert set(stage.picks(30)) == chosen
    stage = Stage(LeastKvCache)
    stage.report("w2", kv_usage=0.4)
    assert set(stage.picks(30)) == {"w1", "w2", "w3"}         # all are as the one that is known
    strict = Stage(LeastKvCache, strict=True)
    strict.report("w2", kv_usage=0.4)
    assert set(strict.picks(30)) == {"w2"}


def test_where_nobody_tells_the_original_chooses_at_random_and_this_one_lets_the_next_decide() -> None:
    assert Stage(LeastKvCache).pick() is None
    counted = Stage(LeastKvCache, strict=True).picks(3000)
    assert chi_square(counted, 3) < CRITICAL_AT_2, counted


def test_what_was_sent_before_a_restart_gives_nothing_back_to_the_new_process() -> None:
    stage = Stage(LeastKvCache, fleet("w1", "w2"))
    before = stage.traffic.send("w1", 100.0, prompt_tokens=200, max_tokens=200)
    restart(stage.made, "w1")
    for name in ("w1", "w2"):
        stage.report(name, 101.0, kv_usage=0.5, kv_blocks=100, block_size=16)
    stage.traffic.send("w1", 102.0, prompt_tokens=200, max_tokens=200)
    stage.traffic.end(before, 103.0, "upstream_disconnected")
    assert stage.scores() == pytest.approx([0.75, 0.5])


def test_a_report_that_is_old_is_none() -> None:
    stage = Stage(LeastKvCache)
    stage.report("w1", 100.0, kv_usage=0.1)
    stage.report("w2", 110.0, kv_usage=0.9)
    stage.made.tick(116.0)                                    # stale after 15 s
    assert stage.scores() == [None, pytest.approx(0.9), None]


# least-utilization


def test_utilization_is_that_of_places_or_of_the_kv_cache_whichever_is_more() -> None:
    stage = Stage(LeastUtilization)
    fill(stage.made, "w1", 2)
    fill(stage.made, "w2", 1)
    for name, usage in (("w1", 0.18), ("w2", 0.54), ("w3", 0.36)):
        stage.report(name, kv_usage=usage)
    assert stage.scores() == pytest.approx([0.5, 0.6, 0.4])
    assert stage.picks(5) == {"w3": 5}


def test_without_any_kv_cache_it_is_that_of_places() -> None:
    stage = Stage(LeastUtilization)
    fill(stage.made, "w1", 1)
    assert stage.scores() == [0.25, 0.0, 0.0]


# throughput


def test_tokens_count_double_in_prompts_and_half_after_each_half_life() -> None:
    stage = Stage(Throughput, span=Span(tokens_s=60.0))
    stage.serve("w1", 99.0, 100.0, tokens_in=100, tokens_out=40)                 # 240
    stage.serve("w2", 159.0, 160.0, tokens_in=50, tokens_out=60)                 # 160
    stage.tick(160.0)
    assert stage.scores() == pytest.approx([120 / 4, 160 / 4, 0.0])
    stage.traffic.send("w3", 160.0, prompt_tokens=50, max_tokens=10)             # 110, by estimate
    assert stage.scores() == pytest.approx([120 / 4, 160 / 4, 110 / 4])
    assert stage.picks(5) == {"w3": 5}


def test_an_estimate_is_replaced_by_what_was_used() -> None:
    stage = Stage(Throughput)
    sent = stage.traffic.send("w1", 100.0, prompt_tokens=10_000, max_tokens=10)
    stage.traffic.end(sent, 100.0, tokens_in=10, tokens_out=5)
    stage.tick(100.0)
    assert stage.scores() == pytest.approx([25 / 4, 0.0, 0.0])


def test_work_that_broke_off_counts_if_it_was_begun() -> None:
    stage = Stage(Throughput)
    refused, begun = (stage.traffic.send(name, 100.0, prompt_tokens=100) for name in ("w1", "w2"))
    stage.traffic.content(begun, 100.0)
    for sent in (refused, begun):
        stage.traffic.end(sent, 100.0, failure="upstream_disconnected")
    stage.tick(100.0)
    assert stage.scores() == pytest.approx([0.0, 200 / 4, 0.0])


def test_sums_stay_right_for_weeks() -> None:
    stage = Stage(Throughput, span=Span(tokens_s=1.0))
    for now in range(100, 100 + 3000, 10):
        stage.serve("w1", now, now, tokens_in=100, tokens_out=0)
        stage.tick(now)
    assert stage.scores() == pytest.approx([200 / 4 * (1 + 1 / 1024), 0.0, 0.0], rel=1e-5)


# Properties

Figures = st.lists(
    st.tuples(st.integers(0, 6), st.none() | st.integers(0, 9), st.none() | st.floats(0, 1)), min_size=1, max_size=6
)


@pytest.mark.parametrize("kind", ALL)
@quick(max_examples=40)
@given(Figures, st.integers(0, 99))
def test_whatever_is_known_the_choice_is_one_with_the_least_number(
    kind: type[Scored], rows: list[tuple[int, int | None, float | None]], seed: int
) -> None:
    stage = Stage(kind, fleet(*(worker(f"w{index}", max_concurrency=8) for index in range(len(rows)))), seed)
    for index, (jobs, waiting, usage) in enumerate(rows):
        stage.report(f"w{index}", 100.0, running=0, waiting=waiting, kv_usage=usage)
        for _ in range(jobs):
            stage.traffic.send(f"w{index}", 100.0 + index, prompt_tokens=10 * jobs)
        if jobs % 2:
            stage.serve(f"w{index}", 100.0, 101.0 + jobs, first=101.0, tokens_in=jobs, tokens_out=jobs)
    stage.tick(110.0)
    scores, chosen = stage.scores(), stage.pick()
    known = [score for score in scores or () if score is not None]
    if not known:
        assert chosen is None
        return
    assert scores is not None and chosen is not None
    mine = scores[[one.id for one in stage.made.ordered].index(chosen)]
    mean = sum(known) / len(known)
    assert (mean if mine is None else mine) <= min(known) + 1e-9 * abs(mean)


def test_memories_are_shared_between_strategies_and_go_on_after_a_reload() -> None:
    made = context()
    first = LatencyBased(made)
    again = LatencyBased(msgspec.structs.replace(made, options=Strategies()))
    assert first.latencies is again.latencies
    assert LeastKvCache(made).credits is LeastGpuCache(made).credits
