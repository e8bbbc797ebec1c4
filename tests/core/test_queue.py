"""The waiting room: in which order its jobs go, for how long they stay, and that none is lost or doubled."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.dispatch import Job
from rbeerouter.core.queue import Queue, QueueRules
from rbeerouter.core.types import Attempt, Patience, Worker
from tests.support.builders import fleet, job, quick, worker


def room(*waiting: tuple[Job, Worker | None, int, float]) -> Queue:
    made = Queue()
    for waiter, one, priority, until in waiting:
        made.add(waiter, one, Patience(None, priority), until)
    return made


def admitted(made: Queue, find: Callable[[Job, Worker | None], Worker | None]) -> list[str]:
    return [gone.request.id for gone, _ in made.admit(find)]


def deadline(made: Queue, stream: bool, asked_s: float | None, now: float) -> float:
    return made.deadline(job(stream=stream), Patience(asked_s), now)


def named(name: str, **changes: object) -> Job:
    return job(id=name, **changes)


def test_the_higher_priority_goes_first_then_who_came_first() -> None:
    one = fleet("w1").ordered[0]
    made = room(*((named(name), one, priority, 9.0) for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5))))
    assert admitted(made, lambda job, worker: worker) == ["b", "d", "a", "c"]
    assert (len(made.waiters), made.overdue(1e9)) == (0, [])


def test_of_one_priority_whoever_must_be_sent_soonest_goes_first_and_those_without_such_a_time_last() -> None:
    one = fleet("w1").ordered[0]
    made = Queue()
    for name, priority, due in (("none", 0, inf), ("late", 0, 8.0), ("soon", 0, 5.0), ("first", 1, inf)):
        made.add(named(name), one, Patience(None, priority, due), 9.0)
    newcomers = [made.before(Patience(None, priority, due), one, lambda job, worker: True) for priority, due in (
        (1, 1.0), (1, inf), (2, inf))]  # fmt: skip
    assert newcomers == [False, True, False]
    assert admitted(made, lambda job, worker: worker) == ["first", "soon", "late", "none"]


def test_lanes_compete_by_priority_and_arrival_and_do_not_hold_each_other_up() -> None:
    w1, w2, _ = fleet().ordered
    made = room(
        (named("w1-first"), w1, 0, 9.0), (named("any"), None, 1, 9.0), (named("w2"), w2, 0, 9.0),
        (named("w1-second"), w1, 0, 9.0),
    )  # fmt: skip
    asked: list[str] = []

    def only_w2(waiting: Job, worker: Worker | None) -> Worker | None:
        asked.append(waiting.request.id)
        return w2 if worker is w2 else None

    assert admitted(made, only_w2) == ["w2"]
    assert asked == ["any", "w1-first", "w2"], "behind a head that cannot go nobody is asked"
    assert admitted(made, lambda job, worker: worker or w1) == ["any", "w1-first", "w1-second"]


def test_jobs_for_different_models_stand_in_different_lanes() -> None:
    one = fleet("w1").ordered[0]
    made = room((named("a", model="a"), None, 0, 9.0), (named("b", model="b"), None, 0, 9.0))
    assert admitted(made, lambda job, worker: one if job.request.model == "b" else None) == ["b"]


def test_a_job_whose_worker_was_removed_waits_for_any_with_its_place_kept() -> None:
    made_fleet = fleet("w1", "w2")
    gone, left = made_fleet.ordered
    made = room((named("first"), gone, 0, 9.0), (named("any"), None, 0, 9.0), (named("late"), gone, 0, 9.0))
    made_fleet.configure([worker("w2", models=("m",))])
    seen: list[Worker | None] = []

    def note(waiting: Job, worker: Worker | None) -> Worker | None:
        seen.append(worker)
        return left

    assert (admitted(made, note), seen) == (["first", "any", "late"], [None, None, None])


def test_a_job_that_leaves_gives_up_its_place() -> None:
    one = fleet("w1").ordered[0]
    leaving = named("leaving")
    made = room((leaving, one, 0, 9.0), (named("staying"), one, 0, 9.0))
    made.remove(leaving)
    made.remove(leaving)
    assert admitted(made, lambda job, worker: worker) == ["staying"]


def test_those_whose_time_is_over_are_told_in_that_order_and_stay_until_they_are_removed() -> None:
    made = room(*((named(f"until-{deadline}"), None, 0, deadline) for deadline in (7.0, 5.0, 9.0, 5.0)))
    late = [one.request.id for one in made.overdue(7.0)]
    assert (late, len(made.waiters)) == (["until-5.0", "until-5.0", "until-7.0"], 4)


@pytest.mark.parametrize(
    ("asked_s", "stream", "expected"),
    [(None, False, 30.0), (5.0, False, 5.0), (1e9, False, 300.0), (0.0, False, 0.0), (1e9, True, 300.0)],
)
def test_how_long_a_job_may_wait(asked_s: float | None, stream: bool, expected: float) -> None:
    assert deadline(Queue(), stream, asked_s, 100.0) == 100.0 + expected


def test_nobody_waits_longer_than_the_whole_request_may_take() -> None:
    made = Queue(QueueRules(request_s=10.0, stream_s=20.0))
    deadlines = [deadline(made, stream, 50.0, 105.0) for stream in (False, True)]
    assert deadlines == [110.0, 120.0]


def test_a_newcomer_stands_behind_those_who_could_take_the_same_worker() -> None:
    w1, w2 = fleet(worker("w1", models=("a",)), worker("w2", models=("b",))).ordered
    made = room((named("any-a", model="a"), None, 1, 9.0), (named("w2"), w2, 0, 9.0))

    def before(priority: int, one: Worker) -> bool:
        return made.before(Patience(None, priority), one, lambda waiting, wanted: wanted.serves(waiting.request.model))

    assert [before(priority, w1) for priority in (0, 1, 2)] == [True, True, False]
    assert [before(priority, w2) for priority in (-1, 0, 1)] == [True, True, False]


def test_who_may_not_go_to_a_worker_that_failed_it_holds_up_nobody_who_may() -> None:
    w1 = fleet("w1").ordered[0]
    failed, fresh = named("failed"), named("fresh")
    failed.attempts = [Attempt("w1", "upstream_disconnected", 1.0)]
    made = room((failed, None, 0, 9.0), (fresh, None, 0, 9.0))
    assert admitted(made, lambda job, _: None if w1.id in job.failed_on() else w1) == ["fresh"]
    assert not made.before(Patience(), w1, lambda waiting, wanted: wanted.id not in waiting.failed_on())


JOBS = st.lists(
    st.tuples(st.sampled_from([None, 0, 1, 2]), st.integers(-2, 2), st.sampled_from("ab"), st.booleans()), max_size=30
)


@quick()
@given(JOBS, st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_who_goes_is_who_a_look_at_each_job_in_order_would_let_go(
    asked: list[tuple[int | None, int, str, bool]], places: list[int]
) -> None:
    workers = fleet().ordered

    def taking(left: list[int]) -> Callable[[Job, Worker | None], Worker | None]:
        def find(waiting: Job, worker: Worker | None) -> Worker | None:
            for one in workers if worker is None else [worker]:
                if left[one.index]:
                    left[one.index] -= 1
                    return one
            return None

        return find

    made, jobs = Queue(), []
    for number, (which, priority, model, leaves) in enumerate(asked):
        one = named(str(number), model=model)
        on = None if which is None else workers[which]
        made.add(one, on, Patience(None, priority), 9.0)
        if leaves:
            made.remove(one)
        else:
            jobs.append((-priority, number, one, on))
    find = taking(list(places))
    expected = [one.request.id for _, _, one, on in sorted(jobs, key=lambda row: row[:2]) if find(one, on)]
    assert admitted(made, taking(list(places))) == expected
    assert len(made.waiters) == len(jobs) - len(expected) == len(made.overdue(9.0))


def test_callers_take_turns_however_many_requests_one_of_them_sends() -> None:
    one = fleet("w1").ordered[0]
    made = room(*((named(f"flood-{number}", user_id="flood"), one, 0, 9.0) for number in range(4)))
    made.add(named("single", user_id="single"), one, Patience(), 9.0)
    first, second = [gone.request.id for gone, _ in made.admit(lambda job, worker: worker)][:2]
    assert (first, second) == ("flood-0", "single")


def test_a_caller_that_comes_late_does_not_get_the_turns_that_it_missed() -> None:
    one = fleet("w1").ordered[0]
    made = room(*((named(f"a{number}", user_id="a"), one, 0, 9.0) for number in range(6)))
    room_for = 3

    def find(job: Job, worker: Worker | None) -> Worker | None:
        nonlocal room_for
        room_for -= 1
        return worker if room_for >= 0 else None

    assert admitted(made, find) == ["a0", "a1", "a2"]
    for number in range(3):
        made.add(named(f"b{number}", user_id="b"), one, Patience(), 9.0)
    assert admitted(made, lambda job, worker: worker) == ["a3", "b0", "a4", "b1", "a5", "b2"]


def test_callers_without_a_name_are_told_apart_by_their_credentials() -> None:
    one = fleet("w1").ordered[0]
    jobs = [named(name) for name in ("a0", "a1", "b0")]
    jobs[0].caller = jobs[1].caller = b"Bearer a"
    jobs[2].caller = b"Bearer b"
    made = room(*((waiting, one, 0, 9.0) for waiting in jobs))
    assert admitted(made, lambda job, worker: worker) == ["a0", "b0", "a1"]


def test_nothing_is_remembered_of_callers_that_are_gone() -> None:
    one = fleet("w1").ordered[0]
    made = room(*((named(f"r{number}", user_id=f"u{number}"), one, 0, 9.0) for number in range(50)))
    for _ in made.admit(lambda job, worker: worker):
        pass
    assert (made._last_turns, made._waiting, made._lanes, made._deadlines) == ({}, {}, {}, [])
