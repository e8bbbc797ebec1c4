"""What is known of the workers, and what each report, job and reconfiguration changes of it."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.health import HealthRules
from rbeerouter.core.types import BUSY, DRAINING, OFFLINE, READY, Machine, Report, Worker, WorkerSpec
from rbeerouter.routing.strategies.balance import LeastRequest
from tests.support.builders import context, down, fill, fleet, quick, request, worker

CONNECT = FAILURES["upstream_connect_failed"]
DISCONNECTED = FAILURES["upstream_disconnected"]


def statuses(made: Fleet) -> dict[str, str]:
    return {one.id: one.status for one in made.ordered}


def touched(made: Fleet) -> set[str]:
    """The workers touched since the last look, which empties the set as the script's mirror does."""
    found = {one.id for one in made.touched}
    made.touched.clear()
    return found


def fail(made: Fleet, one: Worker, times: int, now: float) -> None:
    for _ in range(times):
        made.sent(one, now)
        made.finished(one, DISCONNECTED, now)


# Status and load.


def test_workers_are_offline_until_a_probe_reaches_them() -> None:
    made = fleet(up=False)
    before = statuses(made)
    made.apply(Report("w2", True, None, 0.0))
    assert (before, statuses(made)) == (
        {"w1": OFFLINE, "w2": OFFLINE, "w3": OFFLINE},
        {"w1": OFFLINE, "w2": READY, "w3": OFFLINE},
    )


def test_a_worker_is_busy_when_it_has_as_many_jobs_as_it_has_room_for() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    seen = []
    for _ in range(5):
        made.sent(one, 0.0)
        seen.append((one.in_flight, one.load, one.status))
    assert seen == [(1, 0.25, READY), (2, 0.5, READY), (3, 0.75, READY), (4, 1.0, BUSY), (5, 1.25, BUSY)]


def test_a_busy_worker_is_ready_again_when_a_job_leaves_it() -> None:
    made = fleet("w1")
    one = fill(made, "w1", 4)
    made.finished(one, None, 0.0)
    assert (one.in_flight, one.load, one.status) == (3, 0.75, READY)


def test_a_full_worker_that_cannot_be_reached_is_offline_not_busy() -> None:
    made = fleet("w1")
    fill(made, "w1", 4)
    down(made, "w1")
    assert statuses(made) == {"w1": OFFLINE}


def test_failed_connects_take_the_worker_out_until_probes_succeed() -> None:
    made = fleet("w1", rules=HealthRules(connect_failures=3, rise=2))
    one = fill(made, "w1", 3)
    seen = []
    for _ in range(3):
        made.finished(one, CONNECT, 0.0)
        seen.append(one.status)
    made.tick(1_000_000.0)
    for _ in range(2):
        seen.append(one.status)
        made.apply(Report("w1", True, None, 0.0))
    assert [*seen, one.status] == [READY, READY, OFFLINE, OFFLINE, OFFLINE, READY]


def test_failures_in_a_row_eject_a_worker_and_the_tick_after_its_term_lets_it_in() -> None:
    made = fleet("w1", "w2", rules=HealthRules(failures=3, ejection_s=10.0))
    one = made.workers["w1"]
    seen = []
    for now in (0.0, 1.0, 2.0):
        fail(made, one, 1, now)
        seen.append(one.status)
    for now in (11.9, 12.0):
        made.tick(now)
        seen.append(one.status)
    assert seen == [READY, READY, OFFLINE, OFFLINE, READY]


def test_the_tick_that_lets_a_full_worker_in_finds_it_busy() -> None:
    made = fleet("w1", "w2", rules=HealthRules(failures=1))
    one = fill(made, "w1", 4)
    fail(made, one, 1, 0.0)
    made.tick(10.0)
    assert statuses(made) == {"w1": BUSY, "w2": READY}


def test_a_worker_that_fails_at_once_is_not_favoured_for_being_idle() -> None:
    made = fleet("w1", "w2", rules=HealthRules(failures=5))
    fill(made, "w2", 2)
    fail(made, made.workers["w1"], 5, 0.0)
    assert statuses(made) == {"w1": OFFLINE, "w2": READY}


@pytest.mark.parametrize("code", ["client_gone", "client_stalled", "upstream_deadline", "draining"])
def test_what_is_not_the_workers_fault_counts_neither_for_nor_against_it(code: str) -> None:
    made = fleet("w1", rules=HealthRules(failures=1))
    one = fill(made, "w1", 1)
    made.finished(one, FAILURES[code], 0.0)
    assert (one.in_flight, one.served, one.failed, one.status) == (0, 0, 0, READY)


def test_good_and_bad_answers_are_counted() -> None:
    made = fleet("w1")
    one = fill(made, "w1", 3)
    for failure in (None, None, DISCONNECTED):
        made.finished(one, failure, 0.0)
    assert (one.in_flight, one.served, one.failed) == (0, 2, 1)


# What the engine says, and how fast it is.


def test_what_a_probe_does_not_say_is_not_known_any_more() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    made.apply(Report("w1", True, None, 1.0, waiting=3, kv_usage=0.5, vram_used=12.0))
    told = (one.waiting, one.kv_usage, one.vram_used)
    made.apply(Report("w1", True, None, 2.0, waiting=0))
    assert (told, (one.waiting, one.kv_usage, one.vram_used)) == ((3, 0.5, 12.0), (0, None, None))


def test_speed_is_a_moving_average_of_good_answers() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    seen = []
    for now, sent, ttft_s in ((1.0, 0.0, 0.1), (4.0, 2.0, None), (5.0, 5.0, 0.6)):
        made.sent(one, sent)
        made.finished(one, None, now, sent, ttft_s)
        seen.append((one.latency_ms, one.ttft_ms))
    assert seen == [(1000.0, 100.0), (1200.0, 100.0), (960.0, 600.0)]


def test_answers_that_failed_or_whose_time_tells_nothing_leave_the_speed_alone() -> None:
    made = fleet("w1")
    one = fill(made, "w1", 3)
    made.finished(one, DISCONNECTED, 1.0, 0.0, 0.5)
    made.finished(one, None, 1.0)
    assert (one.latency_ms, one.ttft_ms, one.in_flight) == (None, None, 1)


# Models.


def test_models_are_learnt_from_probes() -> None:
    made = fleet(worker("w1"))
    made.apply(Report("w1", True, ("a", "b"), 1.0))
    assert (made.workers["w1"].models, made.workers["w1"].serves("a"), made.workers["w1"].serves("c")) == (
        ("a", "b"), True, False,
    )  # fmt: skip


def test_models_that_the_operator_listed_are_not_overwritten() -> None:
    made = fleet(worker("w1", models=("mine",)))
    made.apply(Report("w1", True, ("theirs",), 1.0))
    assert made.workers["w1"].models == ("mine",)


def test_a_probe_that_lists_no_models_leaves_the_learnt_ones() -> None:
    made = fleet(worker("w1"))
    made.apply(Report("w1", True, ("a",), 1.0))
    made.apply(Report("w1", False, None, 2.0))
    assert made.workers["w1"].models == ("a",)


def test_a_worker_that_has_unloaded_its_last_model_lists_none() -> None:
    made = fleet(worker("w1"))
    made.apply(Report("w1", True, ("a",), 1.0))
    made.apply(Report("w1", True, (), 2.0))
    assert made.workers["w1"].models == ()


def test_the_models_of_all_workers_stand_in_fleet_order_offline_ones_included() -> None:
    made = fleet(worker("w1", models=("b", "a")), worker("w2", models=("a",)), worker("w3", models=("c",)))
    down(made, "w1")
    assert list(made.models().items()) == [("b", ["w1"]), ("a", ["w1", "w2"]), ("c", ["w3"])]


def test_a_report_on_a_worker_that_is_gone_changes_nothing() -> None:
    made = fleet("w1")
    version = made.version
    touched(made)
    made.apply(Report("w9", True, ("a",), 1.0))
    assert (statuses(made), made.version, touched(made)) == ({"w1": READY}, version, set())


def test_the_time_of_the_last_probe_is_kept() -> None:
    made = fleet("w1")
    made.apply(Report("w1", False, None, 12.5))
    assert made.workers["w1"].probed_at == 12.5


# Reconfiguration.


def test_configuring_again_keeps_what_is_known_of_workers_that_stay() -> None:
    made = fleet(worker("w1"), worker("w2"))
    made.apply(Report("w1", True, ("a",), 1.0))
    one = fill(made, "w1", 2)
    made.configure([worker("w2"), worker("w1", backend="cuda", vram=24)])
    assert made.workers["w1"] is one
    assert (one.backend, one.vram, one.in_flight, one.status, one.models) == ("cuda", 24, 2, READY, ("a",))
    assert [(other.id, other.index) for other in made.ordered] == [("w2", 0), ("w1", 1)]


def test_a_worker_under_the_same_name_at_another_address_is_another_worker() -> None:
    made = fleet("w1")
    old = fill(made, "w1", 2)
    made.configure([worker("w1", url="http://elsewhere.test:8000")])
    new = made.workers["w1"]
    assert (new is old, new.in_flight, new.status, old.index) == (False, 0, OFFLINE, -1)


def test_a_removed_worker_finishes_its_jobs_without_being_seen() -> None:
    made = fleet("w1", "w2")
    old = fill(made, "w1", 2)
    made.configure([worker("w2", models=("m",))])
    touched(made)
    made.finished(old, None, 0.0)
    made.finished(old, CONNECT, 0.0)
    assert (old.in_flight, old.index, touched(made), statuses(made)) == (0, -1, set(), {"w2": READY})


def test_a_removed_worker_that_comes_back_starts_afresh() -> None:
    made = fleet("w1", "w2")
    fill(made, "w1", 2)
    made.configure([worker("w2")])
    made.configure([worker("w1"), worker("w2")])
    assert (made.workers["w1"].in_flight, statuses(made)) == (0, {"w1": OFFLINE, "w2": READY})


def test_models_listed_by_the_operator_take_the_place_of_learnt_ones() -> None:
    made = fleet(worker("w1"))
    made.apply(Report("w1", True, ("learnt",), 1.0))
    made.configure([worker("w1", models=("mine",))])
    assert made.workers["w1"].models == ("mine",)


def test_models_that_the_operator_no_longer_lists_are_forgotten() -> None:
    made = fleet(worker("w1", models=("mine",)))
    made.configure([worker("w1")])
    assert made.workers["w1"].models == ()


@pytest.mark.parametrize(("room", "expected"), [(8, (0.5, READY)), (2, (2.0, BUSY))])
def test_load_and_status_follow_a_new_capacity_at_once(room: int, expected: tuple[float, str]) -> None:
    made = fleet(worker("w1", max_concurrency=4))
    one = fill(made, "w1", 4)
    if room == 2:
        made.configure([worker("w1", max_concurrency=8)])
        made.finished(one, None, 0.0)
        made.sent(one, 0.0)
    made.configure([worker("w1", max_concurrency=room)])
    assert (one.load, one.status) == expected


# What the script's mirror of the fleet goes by.


def test_a_new_list_of_workers_is_a_new_version() -> None:
    made = fleet()
    version = made.version
    made.configure([worker("w1")])
    assert made.version == version + 1


def test_models_that_changed_are_a_new_version_and_the_same_models_are_not() -> None:
    made = fleet(worker("w1"))
    versions = [made.version]
    for models in (("a",), ("a",), None, ("a", "b")):
        made.apply(Report("w1", True, models, 1.0))
        versions.append(made.version)
    assert [later - versions[0] for later in versions] == [0, 1, 1, 1, 2]


def test_load_and_status_touch_a_worker_without_a_new_version() -> None:
    made = fleet("w1", "w2", "w3", rules=HealthRules(failures=1))
    version = made.version
    touched(made)
    fill(made, "w2", 1)
    by_a_job = touched(made)
    made.apply(Report("w3", False, None, 0.0))
    by_a_probe = touched(made)
    fail(made, made.workers["w1"], 1, 0.0)
    touched(made)
    made.tick(5.0)
    too_early = touched(made)
    made.tick(10.0)
    assert (by_a_job, by_a_probe, too_early, touched(made), made.version) == ({"w2"}, {"w3"}, set(), {"w1"}, version)


def test_a_worker_that_is_removed_is_no_longer_touched() -> None:
    made = fleet("w1", "w2")
    fill(made, "w1", 1)
    made.configure([worker("w2")])
    assert "w1" not in touched(made)


# Requests of others.


def told(made: Fleet, name: str, now: float = 0.0, **figures: Any) -> Worker:
    made.apply(Report(name, True, None, now, **figures))
    return made.workers[name]


@pytest.mark.parametrize(
    ("figures", "foreign"),
    [
        ({"running": 6, "waiting": 2}, 6), ({"running": 6}, 4), ({"waiting": 3}, 1), ({"running": 1, "waiting": 0}, 0),
        ({"kv_usage": 0.5}, 0), ({}, 0), ({"running": 6, "waiting": 2, "in_flight": 8}, 0),
    ],
)  # fmt: skip
def test_what_the_engine_has_beyond_our_requests_is_foreign_and_part_of_the_load(
    figures: dict[str, Any], foreign: int
) -> None:
    made = fleet(worker("w1", models=("m",), max_concurrency=16))
    fill(made, "w1", 2)
    one = told(made, "w1", **figures)
    assert (one.foreign, one.occupied, one.load) == (foreign, 2 + foreign, (2 + foreign) / 16)


@pytest.mark.parametrize(
    ("running", "waiting", "load"),
    [(4, 4, 1 + 4 / 256), (100, 60, 1 + 60 / 256), (4, 1, 5 / 256), (100, 20, 120 / 256), (0, 9, 9 / 256), (300, 200, 500 / 256)],
)
def test_an_engine_in_which_many_wait_is_full_whatever_its_capacity(running: int, waiting: int, load: float) -> None:
    made = fleet(worker("w1", max_concurrency=256), "w2")
    made.apply(Report("w1", True, None, 1.0, running=running, waiting=waiting))
    one = made.workers["w1"]
    assert (one.load, one.status) == (load, BUSY if load >= 1 else READY)
    made.apply(Report("w1", True, None, 2.0, running=running, waiting=0))
    assert one.load == running / 256, "until nobody waits any more"


def test_a_full_engine_of_which_nothing_is_heard_any_more_is_not_full_for_ever() -> None:
    made = fleet(worker("w1", max_concurrency=256), "w2")
    made.apply(Report("w1", True, None, 1.0, running=4, waiting=4))
    made.tick(1.0 + made.rules.stale_s + 1)
    assert (made.workers["w1"].load, made.workers["w1"].status) == (0.0, READY)


def test_foreign_requests_make_a_worker_busy() -> None:
    made = fleet("w1")
    one = told(made, "w1", running=4, waiting=0)
    seen = [one.status]
    told(made, "w1", running=3, waiting=0)
    assert [*seen, one.status] == [BUSY, READY]


def test_a_guessed_capacity_makes_nobody_wait_before_the_engine_has_all_that_it_may_get() -> None:
    made = fleet(worker("w1", max_concurrency=None))
    one = made.workers["w1"]
    made.apply(Report("w1", True, None, 0.0, slots=1, most=4))
    seen = []
    for _ in range(4):
        made.sent(one, 0.0)
        seen.append((one.status, one.takes_more))
    assert seen == [(BUSY, True), (BUSY, True), (BUSY, True), (BUSY, False)]
    made.finished(one, None, 0.0)
    made.apply(Report("w1", True, None, 1.0, slots=1, most=4, running=1, waiting=2))
    assert not one.takes_more                                # it says itself that requests wait in it
    made.apply(Report("w1", True, None, 2.0, slots=3, running=3))
    assert not one.takes_more                                # and now it tells its slots


def test_what_the_operator_says_of_capacity_is_no_guess() -> None:
    made = fleet(worker("w1", max_concurrency=1))
    one = made.workers["w1"]
    made.apply(Report("w1", True, None, 0.0, slots=1, most=4))
    made.sent(one, 0.0)
    assert (one.status, one.takes_more) == (BUSY, False)


def test_a_worker_that_others_fill_still_takes_half_of_what_it_can_do_from_us() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    made.apply(Report("w1", True, None, 0.0, running=4, waiting=9))
    seen = [(one.status, one.takes_more)]
    for _ in range(2):
        made.sent(one, 0.0)
        seen.append((one.status, one.takes_more))
    assert seen == [(BUSY, True), (BUSY, True), (BUSY, False)]
    made.cool_down(one, 5.0, 0.0)
    made.finished(one, None, 0.0)
    assert not one.takes_more                                # it asked to be left alone


def test_the_age_of_the_load_is_known_only_where_the_engine_tells_its_requests() -> None:
    made = fleet("w1", "w2")
    told(made, "w1", 10.0, running=1, waiting=0)
    told(made, "w2", 10.0, kv_usage=0.5)
    made.tick(13.0)
    assert [(one.load_age_s, one.kv_usage) for one in made.ordered] == [(3.0, None), (None, 0.5)]


def test_a_report_that_is_too_old_is_unknown_and_never_zero() -> None:
    made = fleet("w1", rules=HealthRules(stale_s=15.0))
    one = told(made, "w1", 0.0, running=5, waiting=2, kv_usage=0.5, vram_used=8.0, watts=300.0, owner_active=True)
    made.tick(15.0)
    before = (one.foreign, one.waiting, one.status)
    made.tick(16.1)
    after = (one.running, one.waiting, one.kv_usage, one.vram_used, one.watts, one.owner_active, one.load_age_s)
    assert (before, after, one.foreign, one.load, one.status) == ((7, 2, BUSY), (None,) * 7, 0, 0.0, READY)


def test_a_probe_that_fails_leaves_what_is_known_until_it_is_old() -> None:
    made = fleet("w1", rules=HealthRules(stale_s=15.0))
    one = told(made, "w1", 0.0, running=2, waiting=1)
    made.apply(Report("w1", False, None, 5.0))
    known = (one.waiting, one.foreign)
    made.tick(15.1)
    assert (known, one.waiting, one.foreign) == ((1, 3), None, 0)


def test_a_burst_between_two_reports_spreads_evenly_though_they_are_old_and_unequal() -> None:
    made = fleet(*(worker(f"w{n}", models=("m",), max_concurrency=64) for n in range(4)))
    for name, running in (("w0", 8), ("w1", 2), ("w2", 5), ("w3", 3)):
        told(made, name, 0.0, running=running, waiting=0)
    strategy = LeastRequest(context(3))
    got: Counter[str] = Counter()
    for _ in range(64):
        chosen = strategy.choose(request(), made.ordered)
        got[chosen.id] += 1
        made.sent(chosen, 4.9)
    assert {one.occupied for one in made.ordered} <= {20, 21}
    assert got == {one.id: one.in_flight for one in made.ordered} and sum(got.values()) == 64
    assert max(got.values()) - min(got.values()) <= 8 - 2 + 1


# What engines tell besides.


def test_what_the_operator_left_out_is_filled_in_by_reports() -> None:
    made = Fleet()
    made.configure([WorkerSpec("w1", "http://w1.test", engine="auto")])
    one, version = made.workers["w1"], made.version
    seen = [(one.engine, one.capacity, one.vram, one.loras, one.loaded)]
    told(made, "w1", engine="vllm", vram=24.0, loras=("sql",))
    seen.append((one.engine, one.capacity, one.vram, one.loras, one.loaded))
    made.apply(Report("w1", True, ("a", "b"), 1.0, slots=4, loaded=("a",)))
    seen.append((one.engine, one.capacity, one.vram, one.loras, one.loaded))
    assert seen == [
        ("auto", 16, None, (), ()), ("vllm", 16, 24.0, ("sql",), ()), ("vllm", 4, 24.0, ("sql",), ("a",)),
    ]  # fmt: skip
    assert made.version == version + 2


def test_what_the_operator_says_is_not_overwritten_by_reports() -> None:
    made = fleet(worker("w1", engine="sglang", vram=80.0, loras=("mine",), models=("m",), max_concurrency=4))
    one = told(made, "w1", engine="vllm", vram=24.0, loras=("sql",), slots=99)
    assert (one.engine, one.vram, one.loras, one.models, one.capacity) == ("sglang", 80.0, ("mine",), ("m",), 4)


def test_another_engine_in_the_place_of_one_inherits_nothing_that_it_does_not_say() -> None:
    made = fleet(worker("w1", engine="auto", max_concurrency=None, models=(), vram=None))
    one = made.workers["w1"]
    made.apply(Report("w1", True, ("a", "b"), 0.0, engine="ollama", loaded=("a",), slots=1, most=4))
    made.apply(Report("w1", True, ("c",), 1.0, engine="vllm", slots=256, most=1024))
    assert (one.engine, one.models, one.loaded, one.capacity) == ("vllm", ("c",), ("c",), 256)


def test_all_models_are_loaded_where_the_engine_does_not_tell_the_difference() -> None:
    made = fleet(worker("w1"))
    made.apply(Report("w1", True, ("a", "b"), 1.0))
    assert made.workers["w1"].loaded == ("a", "b")


@pytest.mark.parametrize(
    ("first", "second", "restarts"),
    [
        ({"started_at": 1.0}, {"started_at": 1.4}, 0), ({"started_at": 1.0}, {"started_at": 2.0}, 1),
        ({"generated_tokens": 500.0}, {"generated_tokens": 3.0}, 1),
        ({"generated_tokens": 500.0}, {"generated_tokens": 600.0}, 0),
        ({"prompt_tokens": 5.0}, {"prompt_tokens": 4.0}, 1), ({"cached_tokens": 5.0}, {}, 0),
        ({}, {"started_at": 2.0}, 0),
    ],
)  # fmt: skip
def test_a_restart_is_seen_by_its_start_and_by_counters_that_went_backwards(
    first: dict[str, Any], second: dict[str, Any], restarts: int
) -> None:
    made = fleet("w1")
    one = told(made, "w1", 1.0, **first)
    made.sent(one, 0.0)
    made.finished(one, None, 1.0, 0.0, 0.1, 10)
    told(made, "w1", 2.0, **second)
    assert (one.restarts, one.generation, one.ttft_ms is None) == (restarts, restarts, bool(restarts))


def test_a_worker_that_comes_back_is_another_generation_though_it_shows_no_restart() -> None:
    made = fleet("w1")
    one = down(made, "w1")
    for _ in range(made.rules.rise):
        told(made, "w1", 1.0)
    assert (one.generation, one.restarts) == (1, 0)


# Ejection, trial and slow start.


def many(number: int, **rules: Any) -> Fleet:
    return fleet(*(f"w{n}" for n in range(number)), rules=HealthRules(**{"failures": 1, **rules}))


def test_never_more_than_half_are_ejected_and_the_others_are_used_though_they_fail() -> None:
    made = many(8)
    for one in made.ordered[:5]:
        fail(made, one, 3, 0.0)
    assert [one.status for one in made.ordered] == [OFFLINE] * 4 + [READY] * 4


def test_the_last_worker_of_a_model_is_never_ejected() -> None:
    made = fleet(
        worker("w1", models=("m", "rare")), worker("w2", models=("m",)), worker("w3", models=("m",)),
        rules=HealthRules(failures=1),
    )  # fmt: skip
    fail(made, made.workers["w1"], 9, 0.0)
    assert made.workers["w1"].status == READY


def test_a_worker_is_not_ejected_when_the_others_of_its_model_cannot_be_reached() -> None:
    made = many(4)
    for name in ("w1", "w2", "w3"):
        down(made, name)
    fail(made, made.workers["w0"], 9, 0.0)
    assert statuses(made) == {"w0": READY, "w1": OFFLINE, "w2": OFFLINE, "w3": OFFLINE}


def test_workers_that_refuse_connections_stay_out_however_many_they_are() -> None:
    made = many(4)
    for one in made.ordered:
        for _ in range(made.rules.connect_failures):
            made.sent(one, 0.0)
            made.finished(one, CONNECT, 0.0)
    assert set(statuses(made).values()) == {OFFLINE}


def test_a_share_of_failed_answers_ejects_a_worker_that_never_fails_often_in_a_row() -> None:
    made = many(3, failures=5, error_rate=0.5, error_rate_requests=20)
    one, seen = made.workers["w0"], []
    made.tick(0.0)
    for number in range(20):
        made.sent(one, 1.0)
        made.finished(one, None if number % 2 == 0 else DISCONNECTED, 1.0)
        seen.append(one.status)
    assert seen == [READY] * 19 + [OFFLINE]


def test_the_errors_that_ejected_a_worker_do_not_eject_it_again() -> None:
    made = many(3, failures=100)
    one = made.workers["w0"]
    for _ in range(20):
        fail(made, one, 1, 1.0)
    made.tick(11.0)
    made.sent(one, 11.0)
    made.finished(one, None, 11.5)
    fail(made, one, 1, 12.0)
    assert one.status == READY


def test_the_end_of_an_ejection_is_spread_by_a_fifth() -> None:
    made = Fleet(HealthRules(failures=1, max_ejected=1.0), Random(1))
    made.configure([worker(f"w{n}", models=("m",)) for n in range(30)])
    for one in made.ordered:
        told(made, one.id)
    for one in made.ordered[:-1]:
        fail(made, one, 1, 0.0)
    ends = {one.health.ejected_until for one in made.ordered[:-1]}
    assert len(ends) == 29 and 8.0 <= min(ends) < 9.0 and 11.0 < max(ends) <= 12.0


def ejected(**rules: Any) -> tuple[Fleet, Worker]:
    """A fleet whose w0 has been ejected at 0 s and whose ejection has ended at 10 s."""
    made = many(3, **rules)
    fail(made, made.workers["w0"], 1, 0.0)
    made.tick(10.0)
    return made, made.workers["w0"]


def test_one_request_tries_a_worker_after_its_ejection_and_no_second_one_until_it_succeeds() -> None:
    made, one = ejected()
    seen = [one.status]
    made.sent(one, 10.0)
    seen.append(one.status)
    made.finished(one, None, 11.0, 10.0)
    assert [*seen, one.status] == [READY, OFFLINE, READY]


def test_a_trial_that_fails_ejects_for_longer() -> None:
    made, one = ejected()
    made.sent(one, 10.0)
    made.finished(one, DISCONNECTED, 11.0, 10.0)
    assert (one.status, one.health.ejected_until) == (OFFLINE, 31.0)


def test_a_long_answer_does_not_keep_a_worker_on_trial_that_a_probe_finds_well() -> None:
    made, one = ejected()
    made.sent(one, 10.0)
    seen = []
    for now in (15.0, 20.0):
        told(made, "w0", now)
        seen.append((one.status, one.weight))
    assert seen == [(OFFLINE, 1.0), (READY, 0.1)]
    made.finished(one, DISCONNECTED, 21.0, 10.0)
    assert one.status == OFFLINE


def test_a_trial_that_the_client_left_tells_nothing_and_another_request_may_try() -> None:
    made, one = ejected()
    made.sent(one, 10.0)
    made.finished(one, FAILURES["client_gone"], 11.0, 10.0)
    seen = [one.status]
    made.sent(one, 12.0)
    assert [*seen, one.status] == [READY, OFFLINE]


def test_a_good_probe_stands_for_the_trial_but_the_next_failure_ejects_at_once() -> None:
    made, one = ejected(failures=5, error_rate_requests=1, error_rate=1.0)
    told(made, "w0", 11.0)
    for _ in range(2):
        made.sent(one, 11.0)
    seen = [one.status]
    made.finished(one, DISCONNECTED, 12.0, 11.0)
    assert [*seen, one.status] == [READY, OFFLINE]


def weights(made: Fleet, name: str, times: list[float]) -> list[float]:
    found = []
    for now in times:
        made.tick(now)
        found.append(round(made.workers[name].weight, 2))
    return found


def test_a_worker_that_comes_back_gets_its_weight_back_within_half_a_minute() -> None:
    made, one = ejected()
    made.sent(one, 10.0)
    made.finished(one, None, 11.0, 10.0)
    assert weights(made, "w0", [11.0, 16.0, 26.0, 40.9, 41.0]) == [0.1, 0.25, 0.55, 1.0, 1.0]
    assert made.ramping == set()


def test_a_worker_that_was_away_comes_back_slowly_too_and_a_new_one_does_not() -> None:
    made = fleet("w1", "w2")
    down(made, "w1")
    for _ in range(made.rules.rise):
        told(made, "w1", 5.0)
    assert [one.weight for one in made.ordered] == [0.1, 1.0]


def test_slow_start_can_be_switched_off() -> None:
    made, one = ejected(slow_start_s=0.0)
    told(made, "w0", 11.0)
    made.tick(11.0)
    assert (one.weight, made.ramping) == (1.0, set())


def test_a_reload_may_switch_slow_start_off_while_a_worker_is_in_it() -> None:
    made, one = ejected()
    told(made, "w0", 11.0)
    made.rules = HealthRules(slow_start_s=0.0)
    made.tick(12.0)
    assert (one.weight, one.load) == (1.0, 0.0)


def test_a_worker_in_slow_start_looks_loaded_and_its_requests_count_for_more() -> None:
    made = many(3)
    made.configure([worker(f"w{n}", models=("m",), max_concurrency=100) for n in range(3)])
    one = made.workers["w0"]
    fail(made, one, 1, 0.0)
    made.tick(10.0)
    told(made, "w0", 10.0)
    seen = [one.load]
    for _ in range(20):
        made.sent(one, 10.0)
    seen.append(one.load)
    made.tick(25.0)
    seen.append(one.load)
    made.tick(41.0)
    assert (seen, one.load) == ([0.9, 2.0, 0.45], 0.2)


# Left alone for a while.


def test_a_worker_that_asks_for_it_is_left_alone_for_so_long_but_not_for_ever() -> None:
    made = fleet("w1", "w2", rules=HealthRules(cool_down_cap_s=60.0))
    one, other = made.ordered
    made.cool_down(one, 7.0, 0.0)
    made.cool_down(other, 9999.0, 0.0)
    seen = []
    for now in (0.0, 6.9, 7.0, 59.9, 60.0):
        made.tick(now)
        seen.append((one.status, other.status))
    assert seen == [(BUSY, BUSY), (BUSY, BUSY), (READY, BUSY), (READY, BUSY), (READY, READY)]


def test_a_shorter_cool_down_does_not_end_a_longer_one() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    made.cool_down(one, 30.0, 0.0)
    made.cool_down(one, 1.0, 5.0)
    made.tick(20.0)
    assert (one.status, one.cooling_until) == (BUSY, 30.0)


def test_a_worker_that_refuses_each_time_is_asked_half_as_often_each_time_and_by_one_request() -> None:
    made = fleet("w1", "w2")
    one = made.workers["w1"]
    rests, now = [], 0.0
    for _ in range(8):
        for _ in range(3 if not one.half_open else 1):         # who was sent there at once makes no difference
            made.sent(one, now)
        refused_at = now
        while one.in_flight:
            made.finished(one, FAILURES["upstream_overloaded"], now, refused_at)
            made.cool_down(one, 1.0, now)
        rests.append(one.cooling_until - now)
        now = one.cooling_until
        made.tick(now)
    assert rests == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert (one.status, one.half_open) == (READY, True)
    made.apply(Report("w1", True, None, now))
    assert one.half_open                                     # no probe can show that it takes requests again
    made.sent(one, now)
    assert one.status == OFFLINE                             # nobody else goes there meanwhile
    made.finished(one, None, now + 1.0, now)
    assert (one.status, one.half_open, one.health.refusals) == (READY, False, 0)


def test_a_refusal_after_a_good_answer_is_the_first_again() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    for now in (0.0, 10.0, 20.0):
        made.cool_down(one, 5.0, now)
        made.tick(now + 5.0)
        made.sent(one, now + 5.0)
        made.finished(one, None, now + 6.0, now + 5.0)
    made.cool_down(one, 5.0, 30.0)
    assert one.cooling_until == 35.0


def test_the_only_worker_of_a_model_is_left_alone_for_no_longer_than_it_asks() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    for now in (0.0, 10.0, 20.0, 30.0):
        made.cool_down(one, 1.0, now)
        made.tick(now + 1.0)
        assert (one.cooling_until, one.status, one.half_open) == (now + 1.0, READY, False)


def test_a_worker_that_has_become_the_only_one_is_left_alone_for_no_longer_than_it_asks() -> None:
    made = fleet("w1", "w2")
    one, other = made.ordered
    for now in (0.0, 10.0, 20.0):
        made.cool_down(one, 1.0, now)
    assert one.cooling_until == 24.0
    for now in (21.0, 22.0):
        made.apply(Report(other.id, False, None, now))
    made.cool_down(one, 1.0, 30.0)
    assert one.cooling_until == 31.0


def test_refusals_that_are_not_heeded_by_configuration_keep_no_worker_away() -> None:
    made = fleet("w1", rules=HealthRules(cool_down_cap_s=0.0))
    one = made.workers["w1"]
    for now in (0.0, 1.0, 2.0):
        made.cool_down(one, 5.0, now)
        made.tick(now)
        assert (one.status, one.half_open) == (READY, False)


@pytest.mark.parametrize(("yields", "status"), [(True, BUSY), (False, READY)])
def test_a_machine_whose_owner_is_using_it_is_left_alone_if_the_operator_wants_that(yields: bool, status: str) -> None:
    made = fleet("w1", rules=HealthRules(yield_to_owner=yields))
    one = told(made, "w1", owner_active=True)
    during = one.status
    told(made, "w1", owner_active=False)
    assert (during, one.status) == (status, READY)


# Draining.


def test_a_draining_worker_finishes_what_it_has_and_can_be_taken_back() -> None:
    made = fleet("w1")
    one = fill(made, "w1", 2)
    made.drain("w1")
    seen = [one.status]
    made.finished(one, None, 1.0)
    told(made, "w1", 2.0)
    seen.append(one.status)
    made.undrain("w1")
    assert ([*seen, one.status], one.in_flight) == ([DRAINING, DRAINING, READY], 1)


def test_a_draining_worker_that_cannot_be_reached_is_offline_and_drains_on_when_it_is_back() -> None:
    made = fleet("w1")
    made.drain("w1")
    one = down(made, "w1")
    seen = [one.status]
    made.undrain("w1")
    seen.append(one.status)
    made.drain("w1")
    for _ in range(made.rules.rise):
        told(made, "w1", 1.0)
    assert [*seen, one.status] == [OFFLINE, OFFLINE, DRAINING]


def test_draining_a_worker_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        fleet("w1").drain("w9")


# Whatever happens.

_FAILURES = [None, None, DISCONNECTED, CONNECT, FAILURES["client_gone"]]
_COUNT = st.one_of(st.none(), st.integers(0, 100))
_STEP = st.one_of(
    st.tuples(st.just("sent"), st.integers(0, 3)),
    st.tuples(st.just("finished"), st.integers(0, 3), st.sampled_from(range(len(_FAILURES))), st.booleans()),
    st.tuples(st.just("report"), st.integers(0, 3), st.booleans(), _COUNT, _COUNT, st.floats(0, 1)),
    st.tuples(st.just("tick"), st.floats(0, 40)),
    st.tuples(st.just("cool"), st.integers(0, 3), st.floats(-5, 1000)),
    st.tuples(st.just("drain"), st.integers(0, 3), st.booleans()),
)


class Life:
    """A fleet of four that lives through steps, and what must hold after each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made = fleet("w0", "w1", "w2", "w3", rules=HealthRules(failures=2))
        self.sent: dict[str, list[float]] = {one.id: [] for one in self.made.ordered}

    def step(self, kind: str, *what: Any) -> None:
        made, now = self.made, self.now
        one = made.ordered[what[0]] if kind != "tick" else made.ordered[0]
        if kind == "sent":
            made.sent(one, now)
            self.sent[one.id].append(now)
        elif kind == "finished" and self.sent[one.id]:
            sent = self.sent[one.id].pop(0)
            made.finished(one, _FAILURES[what[1]], now, sent, now - sent if what[2] else None, 10)
        elif kind == "report":
            _, reachable, running, waiting, kv_usage = what
            made.apply(Report(one.id, reachable, None, now, running=running, waiting=waiting, kv_usage=kv_usage))
        elif kind == "tick":
            self.now += what[0]
            made.tick(self.now)
        elif kind == "cool":
            made.cool_down(one, what[1], now)
        elif kind == "drain":
            (made.drain if what[1] else made.undrain)(one.id)

    def hold(self) -> None:
        passively_out = 0
        for one in self.made.ordered:
            assert one.in_flight == len(self.sent[one.id]) >= 0
            assert one.foreign >= 0 and one.occupied >= one.in_flight
            assert math.isfinite(one.load) and one.load == one.occupied / one.capacity
            assert 0.1 <= one.weight <= 1.0
            passively_out += one.health.ejected_until > self.now
            if one.reported_at is None:
                assert (one.running, one.waiting, one.kv_usage, one.load_age_s, one.foreign) == (None,) * 4 + (0,)
            for figure in (one.latency_ms, one.ttft_ms, one.inter_token_ms, one.error_rate, one.tokens_per_s):
                assert figure is None or (math.isfinite(figure) and figure >= 0)
        assert passively_out <= 2, "more than half are ejected"


@quick(max_examples=300)
@given(st.lists(_STEP, max_size=60))
def test_whatever_happens_counts_are_true_and_half_the_fleet_stays(steps: list[Any]) -> None:
    life = Life()
    for kind, *what in steps:
        life.step(kind, *what)
        life.hold()


@quick(max_examples=100)
@given(st.lists(_STEP, max_size=30), st.floats(15.1, 1e6))
def test_whatever_happened_what_engines_said_is_unknown_when_nobody_has_heard_of_them_for_long(
    steps: list[Any], silence_s: float
) -> None:
    life = Life()
    for kind, *what in steps:
        life.step(kind, *what)
    life.step("tick", silence_s)
    assert {(one.running, one.waiting, one.kv_usage, one.foreign) for one in life.made.ordered} == {
        (None, None, None, 0)
    }


# What the machine of a worker tells.


def test_what_a_machine_measures_outlasts_the_engines_reports_until_it_is_too_old() -> None:
    made = fleet("w1")
    one = made.workers["w1"]
    made.hear("w1", Machine(100.0, vram=24.0, vram_used=20.0, temperature_c=61.0, watts=250.0, owner_active=True), 10.0)
    made.hear("nobody", Machine(100.0), 10.0)
    for now in (11.0, 50.0):
        made.apply(Report("w1", True, None, now, vram_used=3.0))
        made.tick(now + 20.0)
        assert (one.vram_used, one.temperature_c, one.watts, one.owner_active) == (20.0, 61.0, 250.0, True)
        assert one.status == BUSY, "its owner is at it"
    made.apply(Report("w1", True, None, 101.0, vram_used=3.0))
    made.tick(101.0)
    assert (one.temperature_c, one.watts, one.owner_active, one.status) == (None, None, None, READY)
    made.apply(Report("w1", True, None, 102.0, vram_used=3.0))
    assert one.vram_used == 3.0


def test_a_machine_tells_the_memory_that_nobody_wrote_down() -> None:
    made = Fleet()
    made.configure([WorkerSpec("said", "http://a:1", vram=48.0), WorkerSpec("unsaid", "http://b:1")])
    for worker_id in made.workers:
        made.hear(worker_id, Machine(100.0, vram=24.0), 0.0)
    assert [one.vram for one in made.ordered] == [48.0, 24.0]
    version = made.version
    made.hear("unsaid", Machine(100.0, vram=24.0), 1.0)
    assert made.version == version
