"""What is known of the workers, and what each report, job and reconfiguration changes of it."""

from __future__ import annotations

import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.health import HealthRules
from rbeerouter.core.types import BUSY, OFFLINE, READY, Report, Worker
from tests.support.builders import down, fill, fleet, worker

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
