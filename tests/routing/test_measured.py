"""What strategies remember of traffic: busy time, latencies and speeds, exact, bounded, forgotten in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.dispatch import Job
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Worker
from rbeerouter.routing.strategies.measured import (
    BusyTime,
    Latencies,
    Lengths,
    Lookback,
    PeakLatencies,
    TokenTimes,
)
from rbeerouter.routing.strategies.tokens import SinceReport, TokenSums, WaitingPrompts, Warming
from tests.support.builders import fleet, quick, request, worker
from tests.support.traffic import Traffic, restart

# Busy time


def test_busy_time_is_the_share_of_the_window_with_a_request() -> None:
    made, memory = fleet(), BusyTime(Lookback(10.0))
    traffic = Traffic(made, memory)
    traffic.tick(100.0)
    traffic.serve("w1", 101.0, 103.0)                         # 2 s
    first = traffic.send("w1", 104.0)
    second = traffic.send("w1", 105.0)
    traffic.end(first, 106.0)
    traffic.end(second, 107.0)                                # 104 to 107: 3 s, however many there are
    running = traffic.send("w2", 108.0)
    assert memory.shares(made.ordered, 110.0) == pytest.approx([0.5, 0.2, 0.0])
    assert memory.shares(made.ordered, 112.5) == pytest.approx([0.35, 0.45, 0.0])
    assert memory.shares(made.ordered, 116.0) == pytest.approx([0.1, 0.8, 0.0])
    assert memory.shares(made.ordered, 130.0) == pytest.approx([0.0, 1.0, 0.0])
    traffic.end(running, 130.0)
    assert memory.shares(made.ordered, 135.0) == pytest.approx([0.0, 0.5, 0.0])


def test_requests_that_were_there_before_anybody_wanted_to_know_count_from_then_on() -> None:
    made, memory = fleet(), BusyTime(Lookback(10.0))
    before = Traffic(made).send("w1", 50.0)
    memory.tick(100.0, made.ordered)
    assert memory.shares(made.ordered, 104.0) == pytest.approx([0.4, 0.0, 0.0])
    Traffic(made, memory).end(before, 105.0)
    assert memory.shares(made.ordered, 106.0) == pytest.approx([0.5, 0.0, 0.0])


def area(changes: list[tuple[float, int]], begin: float, end: float) -> float:
    """Seconds from begin to end in which a count that changes at these times is above zero."""
    busy, count, at = 0.0, 0, 0.0
    for time, step in [*changes, (end, 0)]:
        if count:
            busy += max(0.0, min(time, end) - max(at, begin))
        count, at = count + step, time
    return busy


Steps = st.lists(st.tuples(st.sampled_from(["send", "end", "tick", "look"]), st.floats(0.0, 3.0)), max_size=60)


@quick(max_examples=200)
@given(Steps, st.booleans())
def test_busy_time_is_that_of_counting_every_moment(steps: list[tuple[str, float]], close: bool) -> None:
    made, memory = fleet("w1"), BusyTime(Lookback(10.0))
    traffic, now = Traffic(made, memory), 100.0
    traffic.tick(now)
    changes: list[tuple[float, int]] = []
    there: list[Job] = []
    for what, pause in steps:
        now += pause / 200 if close else pause + 0.03          # a 500th of the window is 0.02 s
        if what == "send":
            there.append(traffic.send("w1", now))
            changes.append((now, 1))
        elif what == "end" and there:
            traffic.end(there.pop(), now)
            changes.append((now, -1))
        elif what == "tick":
            traffic.tick(now)
        (share,) = memory.shares(made.ordered, now)
        assert share == pytest.approx(area(changes, now - 10.0, now) / 10.0, abs=0.002 if close else 1e-9)


def test_busy_time_keeps_no_more_than_a_window_can_tell_apart() -> None:
    made, memory = fleet("w1"), BusyTime(Lookback(10.0))
    traffic = Traffic(made, memory)
    for number in range(20_000):
        traffic.serve("w1", 100.0 + number * 0.001, 100.0005 + number * 0.001)
    (busy,) = memory.records.values()
    assert len(busy.points) <= 2 * 512 + 2
    assert memory.shares(made.ordered, 120.0) == pytest.approx([0.5], abs=0.002)


# Latencies


def test_latencies_move_by_time_and_age_towards_the_mean_of_all() -> None:
    made, memory = fleet(), Latencies(Lookback(10.0))
    traffic = Traffic(made, memory)
    traffic.serve("w1", 100.0, 104.0)
    traffic.serve("w1", 112.0, 114.0)                         # ten seconds later: half of each
    traffic.serve("w2", 113.0, 114.0)
    w1, w2, _ = made.ordered
    assert memory.known_s == {w1: 3.0, w2: 1.0}
    traffic.tick(114.0)
    assert memory.known_s == {w1: 3.0, w2: 1.0}
    traffic.tick(134.0)
    assert memory.known_s == {w1: 2.25, w2: 1.75}


def test_a_peak_is_taken_at_once_and_forgotten_little_by_little() -> None:
    made, memory = fleet(), PeakLatencies(Lookback(10.0))
    traffic, w1 = Traffic(made, memory), made.ordered[0]
    traffic.serve("w1", 100.0, 102.0)
    traffic.serve("w1", 100.0, 110.0)
    assert memory.known_s == {w1: 10.0}
    traffic.serve("w1", 118.0, 120.0)
    assert memory.known_s == {w1: 6.0}


def test_refusals_and_failures_are_not_fast_answers() -> None:
    made = fleet()
    latencies, speeds = Latencies(Lookback(10.0)), TokenTimes(Lookback(10.0))
    traffic = Traffic(made, latencies, speeds)
    refused = traffic.send("w1", 100.0)
    refused.status = 400
    traffic.end(refused, 100.01)
    traffic.end(traffic.send("w1", 100.0), 100.01, failure="upstream_disconnected")
    traffic.tick(101.0)
    assert (latencies.known_s, speeds.known_s) == ({}, {})


# Time of a token


def test_speeds_are_for_a_request_of_the_mean_length() -> None:
    """w1: 2 ms and 20 ms for a token of prompt and answer, w2: 4 and 10. The mean prompt has 200, the mean answer 100."""
    made, memory = fleet("w1", "w2"), TokenTimes(Lookback(1e6))
    traffic = Traffic(made, memory)
    for _ in range(1000):
        traffic.serve("w1", 100.0, 102.7, first=100.2, tokens_in=100, tokens_out=126)
        traffic.serve("w2", 100.0, 101.95, first=101.2, tokens_in=300, tokens_out=76)
    traffic.tick(103.0)
    w1, w2 = made.ordered
    assert memory.known_s[w1] == pytest.approx(0.002 * 200 + 0.02 * 100, rel=0.01)
    assert memory.known_s[w2] == pytest.approx(0.004 * 200 + 0.01 * 100, rel=0.01)


def test_one_request_counts_as_much_as_the_mean_of_all() -> None:
    """Both prompts of 100 tokens and no answer, 1 s and 3 s: the mean is 2 s, and each worker half way to it."""
    made, memory = fleet("w1", "w2", "w3"), TokenTimes(Lookback(1e9))
    traffic = Traffic(made, memory)
    traffic.serve("w1", 100.0, 101.0, tokens_in=100)
    traffic.serve("w2", 100.0, 103.0, tokens_in=100)
    traffic.tick(103.0)
    assert list(memory.known_s.values()) == pytest.approx([1.5, 2.5, 2.0])
    assert memory.mean_s == pytest.approx(2.0)


def test_what_was_measured_long_ago_says_nothing_any_more() -> None:
    made, memory = fleet("w1", "w2"), TokenTimes(Lookback(10.0))
    traffic = Traffic(made, memory)
    traffic.serve("w1", 102.0, 103.0, tokens_in=100)
    traffic.serve("w2", 100.0, 103.0, tokens_in=100)
    traffic.tick(163.0)                                       # six half-lives
    assert list(memory.known_s.values()) == pytest.approx([2.0, 2.0], abs=0.05)
    traffic.tick(400.0)
    assert (memory.known_s, memory.mean_s) == ({}, None)


def test_an_answer_in_one_piece_tells_the_speed_of_answers_and_not_of_prompts() -> None:
    made, memory = fleet("w1"), TokenTimes(Lookback(1e9))
    traffic = Traffic(made, memory)
    traffic.serve("w1", 100.0, 101.0, tokens_in=100, tokens_out=10)
    (speed,) = memory.records.values()
    assert (speed.prompts, speed.answers, speed.answer_s) == (0.0, 1.0, pytest.approx(1.0))


# Lengths


def test_lengths_are_means_of_what_was_and_for_each_model_its_own() -> None:
    made, lengths = fleet(), Lengths()
    traffic = Traffic(made, lengths)
    assert (lengths.prompt_tokens, lengths.answer_of(request())) == (512, 256)
    for model, prompt, answer in (("a", 100, 10), ("a", 300, 30), ("b", 200, 80)):
        traffic.end(traffic.send("w1", 100.0, model=model, prompt_tokens=prompt), 101.0, tokens_out=answer)
    assert lengths.prompt_tokens == pytest.approx(200.0)
    asked = [lengths.answer_of(request(model=model)) for model in ("a", "b", "never seen")]
    assert asked == pytest.approx([20.0, 80.0, 40.0])
    assert lengths.answer_of(request(model="b", max_tokens=5)) == 5
    assert lengths.answer_of(request(model="b", max_tokens=500)) == pytest.approx(80.0)
    assert lengths.prompt_of(request(prompt_tokens=7)) == 7


def test_a_client_that_asks_for_ever_new_models_fills_no_memory() -> None:
    made, lengths = fleet(), Lengths()
    traffic = Traffic(made, lengths)
    for number in range(1000):
        traffic.end(traffic.send("w1", 100.0, model=str(number)), 101.0, tokens_out=10)
    assert len(lengths._of_models) <= 256


# All of them


def all_memories() -> list[Memory]:
    span = Lookback(10.0)
    return [
        BusyTime(span), Latencies(span), TokenTimes(span), TokenSums(span), SinceReport(), WaitingPrompts(), Warming(),
    ]  # fmt: skip


def kept(memory: Memory) -> dict[str, object]:
    """What a memory keeps of workers and jobs, without its options and means."""
    found = {name: value for name, value in vars(memory).items() if isinstance(value, dict)}
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize("memory", all_memories(), ids=lambda memory: type(memory).__name__)
def test_workers_that_are_gone_and_jobs_that_have_ended_are_forgotten(memory: Memory) -> None:
    made = fleet()
    traffic = Traffic(made, memory)
    left = [traffic.send(name, 100.0, prompt_tokens=10) for name in ("w1", "w1", "w2")]
    for sent in left:
        traffic.content(sent, 101.0)
    made.configure([worker("w3", models=("m",))])
    for sent in left:
        traffic.end(sent, 102.0, tokens_in=10, tokens_out=5)
    traffic.tick(103.0)
    traffic.tick(1000.0)
    workers = {one for found in kept(memory).values() for one in found if isinstance(one, Worker)}  # type: ignore[attr-defined]
    jobs = [one for found in kept(memory).values() for one in found if isinstance(one, Job)]  # type: ignore[attr-defined]
    assert (workers - set(made.ordered), jobs) == (set(), [])


@pytest.mark.parametrize("memory", all_memories(), ids=lambda memory: type(memory).__name__)
def test_another_process_begins_with_a_clean_record(memory: Memory) -> None:
    made = fleet()
    traffic = Traffic(made, memory)
    fresh = traffic.send("w1", 100.0, prompt_tokens=10)
    one = restart(made, "w1")
    traffic.tick(101.0)
    records = memory.records  # type: ignore[attr-defined]
    clean = memory.new(one, 101.0)  # type: ignore[attr-defined]
    assert fields(records[one]) == fields(clean)
    traffic.end(fresh, 102.0, tokens_in=10, tokens_out=5)
    assert records[one].generation == one.generation


def fields(record: object) -> dict[str, object]:
    return {name: getattr(record, name) for kind in type(record).__mro__ for name in getattr(kind, "__slots__", ())}
