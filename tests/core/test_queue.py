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


# By what each has had, in place of turns


class Had:
    """What each user has had: 10 for each job that went, besides what it began with. It notes who waits."""

    def __init__(self, **had: float) -> None:
        self.counters = {user.encode(): value for user, value in had.items()}
        self.told: list[str] = []

    def account(self, job: Job) -> bytes:
        return (job.request.user_id or "").encode()

    def begins(self, account: bytes) -> None:
        self.told.append(f"{account.decode()} begins")

    def ends(self, account: bytes) -> None:
        self.told.append(f"{account.decode()} ends")

    def had(self, account: bytes) -> float:
        return self.counters[account]

    def admit(self, made: Queue, find: Callable[[Job, Worker | None], Worker | None]) -> list[str]:
        gone = []
        for one, _ in made.admit(find):
            self.counters[self.account(one)] += 10.0
            gone.append(one.request.id)
        return gone


def of(*names: str, **changes: object) -> list[Job]:
    """Jobs whose users are their first letters."""
    return [named(name, user_id=name[0], **changes) for name in names]


def sharing(shares: Had, *waiting: tuple[Job, Worker | None, int, float]) -> Queue:
    made = Queue()
    made.share_by(shares)
    for waiter, one, priority, until in waiting:
        made.add(waiter, one, Patience(None, priority), until)
    return made


def test_who_has_had_least_goes_first_and_each_job_that_goes_counts_at_once() -> None:
    one, shares = fleet("w1").ordered[0], Had(a=25.0, b=0.0, c=7.0)
    made = sharing(shares, *((job, one, 0, 9.0) for job in of("a1", "a2", "b1", "b2", "b3", "c1", "c2")))
    assert shares.admit(made, lambda job, worker: worker) == ["b1", "c1", "b2", "c2", "b3", "a1", "a2"]
    assert (len(made.waiters), made._accounts, made._lanes) == (0, {}, {})


def test_priorities_come_before_what_somebody_has_had() -> None:
    one, shares = fleet("w1").ordered[0], Had(a=1000.0, b=0.0)
    a1, a2, b1 = of("a1", "a2", "b1")
    made = sharing(shares, (a1, one, 0, 9.0), (a2, one, 5, 9.0), (b1, one, 0, 9.0))
    assert shares.admit(made, lambda job, worker: worker) == ["a2", "b1", "a1"]


def test_what_goes_from_one_lane_counts_in_the_others() -> None:
    (w1, w2), shares = fleet("w1", "w2").ordered, Had(a=0.0, b=5.0)
    a1, a2, b1, b2 = of("a1", "a2", "b1", "b2")
    made = sharing(shares, (a1, w1, 0, 9.0), (a2, w2, 0, 9.0), (b1, w2, 0, 9.0), (b2, w1, 0, 9.0))
    assert shares.admit(made, lambda job, worker: worker) == ["a1", "b1", "a2", "b2"]


def test_behind_a_head_that_cannot_go_nobody_of_the_same_line_is_asked_whoever_it_is_of() -> None:
    (w1, w2), shares = fleet("w1", "w2").ordered, Had(a=0.0, b=5.0, c=9.0)
    a1, b1, c1 = of("a1", "b1", "c1")
    made = sharing(shares, (a1, w1, 0, 9.0), (b1, w1, 0, 9.0), (c1, w2, 0, 9.0))
    asked: list[str] = []

    def find(job: Job, worker: Worker | None) -> Worker | None:
        asked.append(job.request.id)
        return worker if worker is w2 else None

    assert (shares.admit(made, find), asked) == (["c1"], ["a1", "c1"])


def test_shares_are_told_when_the_first_of_an_account_comes_and_the_last_one_goes() -> None:
    one, shares = fleet("w1").ordered[0], Had(a=0.0, b=50.0)
    a1, a2, b1 = of("a1", "a2", "b1")
    made = sharing(shares, *((job, one, 0, 9.0) for job in (a1, a2, b1)))
    made.remove(a1)
    made.remove(b1)
    assert shares.admit(made, lambda job, worker: worker) == ["a2"]
    assert shares.told == ["a begins", "b begins", "b ends", "a ends"]


def test_those_who_wait_are_put_in_another_order_when_another_strategy_comes_into_force() -> None:
    one, first, second = fleet("w1").ordered[0], Had(a=0.0, b=50.0), Had(a=50.0, b=0.0)
    made = sharing(first, *((job, one, 0, 9.0) for job in of("a1", "a2", "b1")))
    made.share_by(second)
    assert (first.told[-2:], second.told) == (["a ends", "b ends"], ["a begins", "b begins"])
    left = 1

    def find(job: Job, worker: Worker | None) -> Worker | None:
        nonlocal left
        left -= 1
        return worker if left >= 0 else None

    assert second.admit(made, find) == ["b1"]
    made.share_by(None)
    assert (admitted(made, lambda job, worker: worker), second.told[-1]) == (["a1", "a2"], "a ends")


def test_a_place_is_told_as_if_all_jobs_cost_the_same() -> None:
    one = fleet("w1").ordered[0]
    jobs = of("a1", "a2", "b1")
    made = sharing(Had(a=0.0, b=50.0), *((job, one, 0, 9.0) for job in jobs))
    assert [made.position(job) for job in jobs] == [0, 2, 1]


def test_with_shares_a_job_whose_worker_was_removed_keeps_its_account_and_its_place() -> None:
    made_fleet, shares = fleet("w1", "w2"), Had(a=0.0, b=5.0)
    gone, left = made_fleet.ordered
    made = sharing(shares, *((job, gone, 0, 9.0) for job in of("a1", "b1", "a2")))
    made_fleet.configure([worker("w2", models=("m",))])
    assert shares.admit(made, lambda job, worker: left) == ["a1", "b1", "a2"]
    assert shares.told == ["a begins", "b begins", "b ends", "a ends"]


@quick()
@given(
    st.lists(st.tuples(st.sampled_from([None, 0, 1, 2]), st.integers(-1, 1), st.sampled_from("abc")), max_size=25),
    st.lists(st.integers(0, 4), min_size=3, max_size=3), st.lists(st.integers(0, 40), min_size=3, max_size=3),
)  # fmt: skip
def test_with_shares_who_goes_is_who_a_look_at_each_job_in_order_would_let_go(
    asked: list[tuple[int | None, int, str]], places: list[int], began: list[int]
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

    had = dict(zip("abc", map(float, began), strict=True))
    shares, left = Had(**had), []
    made = sharing(shares)
    for number, (which, priority, user) in enumerate(asked):
        one, on = named(str(number), user_id=user), None if which is None else workers[which]
        made.add(one, on, Patience(None, priority), 9.0)
        left.append((one, on, user))
    find, expected = taking(list(places)), []
    while left:
        left.sort(key=lambda row: _rank(made, row[0], had[row[2]]))
        gone = next((row for row in left if find(row[0], row[1])), None)
        if gone is None:
            break
        left.remove(gone)
        expected.append(gone[0].request.id)
        had[gone[2]] += 10.0
    assert shares.admit(made, taking(list(places))) == expected
    assert len(made.waiters) == sum(made._accounts.values()) == len(left)


def _rank(made: Queue, one: Job, had: float) -> tuple[float, ...]:
    priority, *others = made.waiters[one].place
    return priority, had, *others


def test_a_time_by_which_a_job_must_go_is_no_way_around_what_its_user_has_had() -> None:
    one, shares = fleet("w1").ordered[0], Had(a=0.0, b=50.0)
    a, b = of("a1", "b1")
    made = sharing(shares, (a, one, 0, 9.0))
    assert made.before(Patience(None, 0, due=5.0), one, lambda job, worker: True)
    made.add(b, one, Patience(None, 0, due=5.0), 9.0)
    assert shares.admit(made, lambda job, worker: worker) == ["a1", "b1"]
