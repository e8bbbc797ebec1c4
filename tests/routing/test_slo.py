"""The strategies that keep to how fast clients want to be answered: who is chosen, who is held, and for how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Slo, Strategies
from rbeerouter.core.dispatch import DONE, FAILED, WAITING, Dispatcher, Fail, Job, Send, Wait
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import NO_MODELS, Model, Models
from rbeerouter.core.types import Outcome, Request, Wishes, Worker
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.strategies import ALIASES
from rbeerouter.routing.strategies.base import Hold
from rbeerouter.routing.strategies.slo import SloLeastLoad, SloLeastLoadPulling, SloPackLoad, SloStrategy
from rbeerouter.routing.strategies.speeds import Law, Speeds
from tests.support.builders import Clock, context, down, env, fleet, quick, request, worker

PULLING = SloLeastLoadPulling
FAST = Law((0.1, 0.1, 0.1, 0.0), (0.010, 0.005, 0.0))          # 10 ms per token and 5 ms for each request there
SLOW = Law((0.4, 0.4, 0.4, 0.0), (0.040, 0.020, 0.0))
NO_CHANCE = Slo(explore=0.0)


class Known(Speeds):
    """Speeds whose laws are given, and that say as usual how much is taken."""

    def __init__(self, options: Slo, laws: dict[str, Law]) -> None:
        super().__init__(options)
        self.given, self.seen = laws, 8.0

    def laws(self, workers: Sequence[Worker], model: str) -> list[Law]:
        return [self.given.get(one.id, Law()) for one in workers]

    def most(self, worker: Worker, model: str) -> float:
        return self.seen


class Stage:
    """A fleet, the laws of its workers, and a strategy that chooses among them."""

    def __init__(
        self, kind: type[SloStrategy], options: Slo = NO_CHANCE, laws: dict[str, Law] | None = None,
        made: Fleet | None = None, seed: int = 1, models: Models = NO_MODELS,
    ) -> None:  # fmt: skip
        self.fleet = made or fleet(*(worker(name, models=("m",), max_concurrency=16) for name in ("w1", "w2")))
        given = {one.id: FAST for one in self.fleet.ordered} if laws is None else laws
        self.now = 100.0
        self.context = context(seed, now=lambda: self.now, options=Strategies(slo=options), models=models)
        self.speeds = Known(options, given)
        self.strategy = kind(self.context)
        self.strategy.speeds = self.speeds

    def fill(self, name: str, jobs: int, **changes: Any) -> list[Job]:
        one = self.fleet.workers[name]
        found = []
        for _ in range(jobs):
            sent = Job(wanting(**changes), self.now, 0.0)
            self.fleet.sent(one, self.now)
            self.speeds.sent(sent, one, self.now)
            self.speeds.answering(sent, one, self.now)
            found.append(sent)
        return found

    def chosen(self, arrived: float | None = None, **changes: Any) -> str | Hold | None:
        self.context.arrived = arrived
        self.context.chance.n += 1
        found = self.strategy.choose(wanting(**changes), self.fleet.ordered)
        return found.id if isinstance(found, Worker) else found


def wanting(**changes: Any) -> Request:
    """A stream of 1000 prompt tokens that wants so many milliseconds: ttft, tpot, e2e."""
    wished = {f"slo_{name}_ms": changes.pop(name) for name in ("ttft", "tpot", "e2e") if name in changes}
    return request(**{"stream": True, "prompt_tokens": 1000, "wishes": Wishes(**wished) if wished else None, **changes})


def test_slo_is_the_one_that_holds() -> None:
    assert ALIASES["slo"] == "slo-least-load-pulling"


@pytest.mark.parametrize("kind", [SloLeastLoad, SloPackLoad, PULLING])
def test_without_figures_a_target_says_nothing(kind: type[SloStrategy]) -> None:
    assert Stage(kind, laws={}).chosen(ttft=500.0) is None


@pytest.mark.parametrize("kind", [SloLeastLoad, PULLING])
def test_without_a_target_load_alone_decides(kind: type[SloStrategy]) -> None:
    stage = Stage(kind, laws={})
    stage.fill("w1", 1)
    assert [stage.chosen() for _ in range(10)] == ["w2"] * 10


@pytest.mark.parametrize("kind", [SloLeastLoad, PULLING])
def test_the_least_loaded_of_those_in_time_is_chosen(kind: type[SloStrategy]) -> None:
    stage = Stage(kind, laws={"w1": FAST, "w2": SLOW})
    stage.fill("w1", 3, tpot=50.0)                             # 3/8 of it: 10 + 5 * 8 = 50
    assert stage.chosen(tpot=50.0) == "w1", "w2 would take 60 ms per token though it is idle"
    assert stage.chosen(tpot=100.0) == "w2"


def test_load_is_what_requests_take_and_not_how_many_they_are() -> None:
    stage = Stage(SloLeastLoad)
    stage.fill("w1", 3)                                        # 3/16
    stage.fill("w2", 2, tpot=50.0)                             # 2/8
    assert stage.chosen() == "w1"


def test_when_there_is_too_much_to_do_who_is_late_goes_where_it_is_latest() -> None:
    stage = Stage(SloLeastLoad, laws={"w1": FAST, "w2": SLOW})
    stage.fill("w1", 15)
    assert stage.chosen(tpot=20.0) == "w1", "10 + 5 * 16 = 90 ms against 60"
    stage.fill("w2", 3)
    assert stage.chosen(tpot=20.0) == "w2", "40 + 20 * 4 = 120 ms against 90"


def test_a_target_that_no_worker_could_keep_even_idle_goes_to_the_least_late() -> None:
    stage = Stage(SloLeastLoad, laws={"w1": FAST, "w2": SLOW})
    stage.fill("w1", 5)
    assert stage.chosen(tpot=14.0) == "w1", "10 + 5 * 6 = 40 ms against 60"
    stage.fill("w1", 5)
    assert stage.chosen(tpot=14.0) == "w2", "65 ms against 60"


def test_packing_fills_a_worker_as_long_as_it_is_in_time_and_has_room() -> None:
    stage = Stage(SloPackLoad)
    first = stage.chosen(tpot=50.0)
    order = []
    for _ in range(12):
        order.append(name := stage.chosen(tpot=50.0))
        stage.fill(name, 1, tpot=50.0)
    assert Counter(order) == {order[0]: 8, {"w1": "w2", "w2": "w1"}[order[0]]: 4}, "eight are all that it can have in time"
    assert order[:8] == [order[0]] * 8 and first in ("w1", "w2")


def test_packing_gives_no_more_than_twice_as_many_at_once_as_it_has_seen_answers_of() -> None:
    stage = Stage(SloPackLoad)
    stage.speeds.seen = 1.5
    counts = []
    for _ in range(10):
        stage.fill(stage.chosen(tpot=50.0), 1, tpot=50.0)
        counts.append(sorted(one.in_flight for one in stage.fleet.ordered))
    assert counts[2:6] == [[0, 3], [1, 3], [2, 3], [3, 3]] and counts[-1] == [5, 5], "then as slo-least-load"


def test_packing_wakes_no_small_worker_beside_a_large_one_that_has_room() -> None:
    stage = Stage(SloPackLoad, laws={"w1": FAST, "w2": SLOW})
    stage.fill("w1", 1, tpot=100.0)
    assert stage.chosen(tpot=100.0) == "w1", "though it would be a third of w2"


def test_of_idle_workers_packing_wakes_the_one_that_was_used_last() -> None:
    stage = Stage(SloPackLoad)
    for name in ("w2", "w1"):
        (sent,) = stage.fill(name, 1)
        stage.now += 1.0
        stage.fleet.finished(stage.fleet.workers[name], None, stage.now)
        stage.speeds.released(sent, stage.fleet.workers[name], None, stage.now)
    assert {stage.chosen(tpot=50.0) for _ in range(20)} == {"w1"}


def test_packing_with_nobody_in_time_is_as_least_load() -> None:
    stage = Stage(SloPackLoad)
    stage.fill("w1", 9)
    stage.fill("w2", 10)
    assert stage.chosen(tpot=50.0) == "w2", "where it is latest"


def test_who_has_no_room_in_time_is_not_given_more_and_the_request_is_held() -> None:
    stage = Stage(PULLING)
    for name in ("w1", "w2"):
        stage.fill(name, 8, tpot=50.0)
    held = stage.chosen(ttft=2000.0, tpot=80.0)                # in time itself, but those there would not be
    assert held == Hold(None, 0, "no worker would be in time now", pytest.approx(100.0 + 2.0 - 0.2))
    stage.speeds.released(next(iter(stage.speeds._sites[stage.fleet.workers["w2"]].jobs)), stage.fleet.workers["w2"], None, 101.0)
    assert stage.chosen(ttft=2000.0, tpot=80.0) == "w2"


def test_without_a_time_limit_of_its_own_a_request_is_held_for_the_configured_time() -> None:
    stage = Stage(PULLING, Slo(explore=0.0, queue_timeout_s=7.0))
    for name in ("w1", "w2"):
        stage.fill(name, 8, tpot=50.0)
    held = stage.chosen(tpot=50.0)
    assert isinstance(held, Hold) and held.due == 107.0
    assert stage.chosen(tpot=50.0, arrived=93.5) != held
    assert stage.chosen(tpot=50.0, arrived=92.9) in ("w1", "w2"), "then it is sent all the same"


def test_those_without_a_target_are_held_behind_all_others() -> None:
    stage = Stage(PULLING)
    for name in ("w1", "w2"):
        stage.fill(name, 8, tpot=50.0)
    held = stage.chosen()
    assert isinstance(held, Hold) and held.due == inf


@pytest.mark.parametrize(("late", "expected"), [("send", {"w1", "w2"}), ("reject", {"held for 0.0 s"})])
def test_a_request_that_can_be_in_time_nowhere_any_more_is_sent_or_refused(late: str, expected: set[str]) -> None:
    stage = Stage(PULLING, Slo(explore=0.0, late=late))
    for name in ("w1", "w2"):
        stage.fill(name, 8, tpot=50.0)
    found = [stage.chosen(arrived=98.15, ttft=2000.0, tpot=50.0) for _ in range(30)]
    assert {f"held for {one.timeout_s} s" if isinstance(one, Hold) else one for one in found} == expected


def test_a_request_that_will_be_refused_is_held_for_as_long_as_it_can_still_be_in_time() -> None:
    stage = Stage(PULLING, Slo(explore=0.0, late="reject"))
    for name in ("w1", "w2"):
        stage.fill(name, 8, tpot=50.0)
    held = stage.chosen(ttft=2000.0, tpot=50.0, arrived=99.5)
    assert isinstance(held, Hold) and held.timeout_s == pytest.approx(2.0 - 0.2 - 0.5)


@pytest.mark.parametrize("late", ["send", "reject"])
def test_nobody_is_held_where_no_work_ends_by_which_anything_would_change(late: str) -> None:
    stage = Stage(PULLING, Slo(explore=0.0, late=late), laws={"w1": FAST, "w2": SLOW})
    assert stage.chosen(tpot=5.0) == "w1", "both are idle, and both too slow"


def test_a_slow_idle_worker_is_not_taken_as_long_as_a_fast_one_will_have_room() -> None:
    stage = Stage(PULLING, laws={"w1": FAST, "w2": SLOW})
    stage.fill("w1", 8, tpot=50.0)
    assert isinstance(stage.chosen(ttft=2000.0, tpot=50.0), Hold)
    one = stage.fleet.workers["w2"]
    assert isinstance(stage.strategy.choose(wanting(ttft=2000.0, tpot=50.0), [one]), Hold), "which may have no place free"


@pytest.mark.parametrize("why", ["offline", "another side", "not allowed", "another model"])
def test_nobody_waits_for_a_worker_that_will_not_have_the_request(why: str) -> None:
    made = fleet(
        worker("w1", models=("other",) if why == "another model" else ("m",), max_concurrency=16, deployment="remote"),
        worker("w2", models=("m",), max_concurrency=16),
    )
    models = Models([Model("m", workers=("w2",))]) if why == "not allowed" else NO_MODELS
    stage = Stage(PULLING, laws={"w1": FAST, "w2": SLOW}, made=made, models=models)
    stage.fill("w1", 8, tpot=50.0)
    if why == "offline":
        down(made, "w1")
    asked = wanting(ttft=2000.0, tpot=50.0, **({"deployment": "local"} if why == "another side" else {}))
    assert stage.strategy.choose(asked, [made.workers["w2"]]) is made.workers["w2"]


@pytest.mark.parametrize("kind", [SloLeastLoad, SloPackLoad, PULLING])
def test_now_and_then_a_worker_that_is_thought_too_slow_is_tried(kind: type[SloStrategy]) -> None:
    stage = Stage(kind, Slo(explore=0.1), laws={"w1": FAST, "w2": SLOW})
    counted = Counter(stage.chosen(tpot=50.0) for _ in range(2000))
    assert set(counted) == {"w1", "w2"} and 140 <= counted["w2"] <= 260


@pytest.mark.parametrize("kind", [SloLeastLoad, SloPackLoad, PULLING])
def test_ties_break_at_random(kind: type[SloStrategy]) -> None:
    stage = Stage(kind)
    counted = Counter(stage.chosen(ttft=500.0) for _ in range(1000))
    assert set(counted) == {"w1", "w2"} and 420 <= counted["w1"] <= 580


@quick(max_examples=60)
@given(
    st.sampled_from([SloLeastLoad, SloPackLoad, PULLING]),
    st.lists(st.tuples(st.sampled_from([FAST, SLOW, Law()]), st.integers(0, 16)), min_size=1, max_size=5),
    st.integers(0, 99), st.sampled_from([10.0, 50.0, 100.0, 1000.0]),
)  # fmt: skip
def test_the_choice_is_one_of_the_workers_and_no_other_that_is_in_time_has_less_to_do(
    kind: type[SloStrategy], given_workers: list[tuple[Law, int]], seed: int, tpot_ms: float
) -> None:
    made = fleet(*(worker(f"w{i}", models=("m",), max_concurrency=16) for i in range(len(given_workers))))
    stage = Stage(kind, laws={f"w{i}": law for i, (law, _) in enumerate(given_workers)}, made=made, seed=seed)
    for index, (_, jobs) in enumerate(given_workers):
        stage.fill(f"w{index}", jobs, tpot=tpot_ms)
    asked, before = wanting(tpot=tpot_ms), [one.in_flight for one in made.ordered]
    views = stage.strategy._views(stage.speeds.ask(asked), asked, made.ordered, 100.0)
    chosen = stage.strategy.choose(asked, made.ordered)
    assert [one.in_flight for one in made.ordered] == before
    if chosen is None:
        assert all(view.lateness is None for view in views)
    elif isinstance(chosen, Hold):
        assert kind is PULLING and not any(view.in_time and view.has_room for view in views)
    else:
        (mine,) = [view for view in views if view.worker is chosen]
        if kind is not SloPackLoad and mine.in_time:
            rivals = [view for view in views if view.in_time and (kind is SloLeastLoad or view.has_room)]
            assert mine.load <= min((view.load for view in rivals), default=inf) + 1e-9


# Through the dispatcher


class Story:
    """A real dispatcher and decider, one fast worker, and laws that are known."""

    def __init__(self, late: str = "send", names: tuple[str, ...] = ("w1",), **options: Any) -> None:
        self.clock = Clock()
        self.fleet = fleet(*(worker(name, models=("m",), max_concurrency=16) for name in names))
        slo = Slo(explore=0.0, late=late, **options)
        self.decider = Decider(self.fleet, None, "slo", env(self.clock), options=Strategies(slo=slo))
        strategy = self.decider.strategy
        assert isinstance(strategy, PULLING)
        known = Known(slo, dict.fromkeys(names, FAST))
        self.decider.memories._by_kind = {(Speeds, slo): known}
        self.decider.memories.all = (known,)
        strategy.speeds = known
        self.dispatcher = Dispatcher(self.fleet, self.decider, env(self.clock))
        self.ended: list[tuple[str, str]] = []

    def asks(self, name: str, **wished: Any) -> tuple[Job, Any]:
        asked = Job(wanting(id=name, **wished), self.clock.now_s, 0.0)
        return asked, self.dispatcher.on_request(asked)

    def answered(self, asked: Job) -> None:
        asked.status = 200
        self.dispatcher.on_outcome(asked, Outcome(None, 200, True, delivered=True))

    def tick(self, after_s: float = 0.0) -> list[tuple[str, type]]:
        self.clock.advance(after_s)
        return [(waiting.request.id, type(effect)) for waiting, effect in self.dispatcher.on_tick(self.clock.now_s)]


def test_a_held_request_goes_as_soon_as_one_before_it_has_ended() -> None:
    story = Story()
    sent = [story.asks(f"s{i}", ttft=3000.0, tpot=50.0) for i in range(8)]
    assert {type(effect) for _, effect in sent} == {Send}
    held, effect = story.asks("held", ttft=3000.0, tpot=50.0)
    assert (type(effect), held.state, story.tick(0.5)) == (Wait, WAITING, [])
    story.answered(sent[0][0])
    assert story.tick() == [("held", Send)]
    story.answered(held)
    assert (held.state, held.queue_s, len(story.dispatcher.waiting)) == (DONE, 0.5, 0)


def test_who_has_the_least_time_left_goes_first() -> None:
    story = Story()
    sent = [story.asks(f"s{i}", tpot=50.0)[0] for i in range(8)]
    for name, ttft in (("relaxed", 9000.0), ("none", None), ("urgent", 3000.0)):
        assert type(story.asks(name, tpot=50.0, ttft=ttft)[1] if ttft else story.asks(name)[1]) is Wait
    order = []
    for one in sent[:3]:
        story.answered(one)
        order += [name for name, _ in story.tick()]
    assert order == ["urgent", "relaxed", "none"]


@pytest.mark.parametrize(("late", "effect", "state"), [("send", Send, "sending"), ("reject", Fail, FAILED)])
def test_when_waiting_longer_would_miss_the_target_it_is_sent_or_refused(late: str, effect: type, state: str) -> None:
    story = Story(late)
    for index in range(8):
        story.asks(f"s{index}", tpot=50.0)
    held, _ = story.asks("held", ttft=2000.0, tpot=50.0)
    assert story.tick(1.2) == []
    assert (story.tick(0.61), held.state) == ([("held", effect)], state)
    if late == "reject":
        assert held.failure is not None and held.failure.code == "queue_timeout"
        _, refused = story.asks("too-late", ttft=150.0, tpot=50.0)
        assert refused == Fail(
            held.failure, "no worker would answer this request as soon as it has to be; it waited for 0 s"
        )
    assert (story.tick(9.0), len(story.dispatcher.waiting)) == ([], 0), "one outcome, and nobody is left"


def test_a_client_that_leaves_while_it_is_held_takes_nothing_with_it() -> None:
    story = Story()
    sent = [story.asks(f"s{i}", tpot=50.0)[0] for i in range(8)]
    held, _ = story.asks("held", tpot=50.0)
    story.dispatcher.on_cancel(held)
    story.answered(sent[0])
    assert (held.state, story.tick(0.5), story.fleet.ordered[0].in_flight) == ("cancelled", [], 7)


def test_after_a_failure_it_is_held_for_another_worker_that_has_no_room_in_time() -> None:
    story = Story(names=("w1", "w2"))
    for index in range(15):
        story.asks(f"s{index}", tpot=50.0)
    failing, _ = story.asks("failing", tpot=50.0)
    first = failing.worker
    assert first is not None and {one.in_flight for one in story.fleet.ordered} == {8}
    effect = story.dispatcher.on_outcome(failing, Outcome(FAILURES["upstream_connect_failed"]))
    other = next(one for one in story.fleet.ordered if one is not first)
    assert (type(effect), failing.state) == (Wait, WAITING)
    assert story.tick(0.5) == [], "the worker that failed it has room, and does not get it"
    ending = next(iter(story.decider.memories.all[0]._sites[other].jobs))
    story.answered(ending)
    assert story.tick() == [("failing", Send)] and failing.worker is other


def test_a_worker_alone_that_is_idle_always_takes_it() -> None:
    story = Story("reject")
    for _ in range(3):
        asked, effect = story.asks("too-tight", ttft=1.0, tpot=1.0)
        assert type(effect) is Send
        story.answered(asked)
