"""What is learned of workers' speed from jobs, as the dispatcher tells of them, and what it says of the next one."""

from __future__ import annotations

import itertools
import random
from math import inf

import msgspec
import pytest

from rbeerouter.config.sections import Slo
from rbeerouter.core.dispatch import Job
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Wishes, Worker
from rbeerouter.routing.strategies.speeds import Ask, Law, Speeds
from tests.support.builders import fleet, job, worker

TTFT, TPOT = (0.1, 0.2, 0.05, 0.01), (0.02, 0.001, 0.002)
NUMBERS = itertools.count()


class Told:
    """Jobs that are told to a `Speeds`, at times that the test says."""

    def __init__(self, made: Fleet, options: Slo | None = None) -> None:
        self.made, self.speeds, self.now = made, Speeds(options), 100.0

    def sent(self, one: Worker, prompt: int = 1000, **changes: object) -> Job:
        fields = {"id": f"r-{next(NUMBERS)}", "stream": True, "prompt_tokens": prompt} | changes
        sent = job(**fields)
        sent.sent, sent.status = self.now, 200
        self.made.sent(one, self.now)
        self.speeds.sent(sent, one, self.now)
        return sent

    def first(self, sent: Job, one: Worker, after_s: float) -> None:
        self.now += after_s
        sent.first_content = self.now
        self.speeds.answering(sent, one, self.now)

    def ends(self, sent: Job, one: Worker, tokens: int | None, after_s: float, failure: str | None = None) -> None:
        self.now += after_s
        sent.tokens_out = tokens
        failed = FAILURES[failure] if failure else None
        self.made.finished(one, failed, self.now)
        self.speeds.released(sent, one, failed, self.now)

    def answers(self, one: Worker, count: int, times: float = 1.0, seed: int = 1, **changes: object) -> None:
        """A worker of the laws TTFT and TPOT, or so many times slower, with as many others on it as may be."""
        rng = random.Random(seed)
        for _ in range(count):
            others = [self.sent(one, rng.randrange(100, 4000), **changes) for _ in range(rng.randrange(4))]
            queued = sum(other.request.prompt_tokens or 0 for other in others) / 1000
            mine = self.sent(one, prompt := rng.randrange(100, 4000), **changes)
            law = Law(tuple(times * part for part in TTFT), tuple(times * part for part in TPOT))
            got = law.expected(Ask(prompt / 1000, 101), queued, len(others), queued)
            self.first(mine, one, got.ttft_s)
            self.ends(mine, one, 101, 100 * self._while_there(law, len(others), queued + prompt / 1000))
            for other in others:
                self.ends(other, one, None, 0.0, "client_gone")

    @staticmethod
    def _while_there(law: Law, others: int, prompts: float) -> float:
        e, f, g = law.tpot
        return e + f * (others + 1) + g * prompts

    def taken(self, one: Worker) -> float:
        return self.speeds.work(one, self.now)[0]

    def law(self, one: Worker, model: str = "m") -> Law:
        return self.speeds.laws([one], model)[0]


def two() -> tuple[Told, Worker, Worker]:
    made = fleet(worker("w1", models=("m",)), worker("w2", models=("m",)))
    return Told(made, Slo(caution=0.0)), *made.ordered


def test_the_laws_of_a_worker_are_found_from_its_answers() -> None:
    told, w1, _ = two()
    told.answers(w1, 400)
    law = told.law(w1)
    assert law.ttft == pytest.approx(TTFT, rel=0.05)
    assert law.tpot == pytest.approx(TPOT, rel=0.05)


def test_caution_adds_what_answers_are_off_by() -> None:
    told, w1, _ = two()
    careful = Told(told.made, Slo(caution=1.0))
    rng = random.Random(1)
    for _ in range(300):
        for one in (told, careful):
            sent = one.sent(w1)
            one.first(sent, w1, 1.0 if rng.random() < 0.5 else 3.0)
            one.ends(sent, w1, None, 1.0)
    mean, cautious = (one.law(w1).expected(Ask(1.0, 10)).ttft_s for one in (told, careful))
    assert mean == pytest.approx(2.0, rel=0.1) and cautious == pytest.approx(3.0, rel=0.15)


def test_of_a_worker_nobody_knows_the_mean_of_the_others_holds() -> None:
    made = fleet()
    told = Told(made, Slo(caution=0.0))
    w1, w2, w3 = made.ordered
    told.answers(w1, 200)
    told.answers(w2, 200, times=3.0)
    assert told.law(w3).ttft == pytest.approx([2 * part for part in TTFT], rel=0.05)
    assert told.law(w3).tpot == pytest.approx([2 * part for part in TPOT], rel=0.05)


def test_where_performance_is_known_the_mean_is_as_much_slower() -> None:
    made = fleet(worker("w1", models=("m",), performance=100.0), worker("w2", models=("m",), performance=50.0))
    told = Told(made, Slo(caution=0.0))
    w1, w2 = made.ordered
    told.answers(w1, 200)
    assert told.law(w2).ttft == pytest.approx([2 * part for part in TTFT], rel=0.05)


def test_before_there_are_enough_answers_moving_averages_hold_and_without_those_nothing_is_known() -> None:
    told, w1, w2 = two()
    assert told.law(w1) == Law()
    w1.ttft_ms, w1.inter_token_ms = 300.0, 25.0
    constant = Law((0.3, 0.0, 0.0, 0.0), (0.025, 0.0, 0.0))
    assert told.speeds.laws([w1, w2], "m") == [constant, constant]
    told.answers(w1, 9)
    assert told.law(w1) == constant
    told.answers(w1, 1)
    assert told.law(w1) != constant


def test_each_model_has_its_own_laws_and_of_too_many_the_one_used_longest_ago_goes() -> None:
    made = fleet("w1")
    told, w1 = Told(made, Slo(models_kept=2)), made.ordered[0]
    for model in ("a", "b", "a", "c"):
        told.answers(w1, 20, model=model)
    assert [told.law(w1, model) == Law() for model in "abc"] == [False, True, False]
    assert told.speeds.ask(job(model="b").request).tokens_out == Slo().output_tokens, "nor are the lengths of its answers"


def test_a_worker_that_was_started_anew_is_not_known_any_more() -> None:
    told, w1, w2 = two()
    told.answers(w1, 50)
    told.answers(w2, 50, times=2.0)
    before, began = told.law(w2), told.sent(w1)
    w1.generation += 1
    assert told.law(w1) == before, "so the mean of the others holds"
    told.first(began, w1, 0.1)
    told.ends(began, w1, 10, 1.0)
    assert told.law(w1) == before, "and what it said before says nothing of it"


def test_what_is_remembered_ends_with_its_jobs_and_workers() -> None:
    told, w1, w2 = two()
    told.answers(w1, 20)
    sent = told.sent(w2)
    told.speeds.tick(told.now, [w1])
    assert told.speeds.working("m") == []
    told.ends(sent, w2, 10, 1.0)
    told.speeds.tick(told.now, [])
    assert msgspec.json.encode(told.law(w1)) == msgspec.json.encode(Law())


@pytest.mark.parametrize(("failure", "status"), [("upstream_disconnected", 200), ("client_gone", 200), (None, 400)])
def test_failures_teach_nothing_and_free_what_they_took(failure: str | None, status: int) -> None:
    told, w1, _ = two()
    for _ in range(20):
        sent = told.sent(w1)
        sent.status = status
        told.first(sent, w1, 0.1)
        told.ends(sent, w1, 10, 1.0, failure)
    assert (told.law(w1), told.taken(w1), told.speeds.working("m")) == (Law(), 0.0, [])


def test_answers_in_one_piece_tell_the_time_per_token_and_not_that_until_the_first() -> None:
    told, w1, _ = two()
    for _ in range(30):
        sent = told.sent(w1, stream=False)
        told.first(sent, w1, 5.0)
        told.ends(sent, w1, 101, 0.0)
    law = told.law(w1)
    assert law.ttft is None and law.expected(Ask(1.0, 101)).e2e_s == pytest.approx(5.0, rel=0.01)


def first_s(told: Told, one: Worker, after_s: float = 0.0) -> float:
    """Until the first content of a prompt of no length that comes so much later."""
    _, queued, prompts = told.speeds.work(one, told.now + after_s)
    late = told.law(one).lateness(Ask(0.0, 2, ttft_s=1.0), queued, one.in_flight, prompts)
    assert late is not None
    return late


def test_a_prompt_is_queued_until_its_first_content_comes_or_should_have_come_long_ago() -> None:
    told, w1, _ = two()
    told.answers(w1, 100)
    idle = first_s(told, w1)
    sent = told.sent(w1, 4000)
    queued = first_s(told, w1)
    assert queued - idle == pytest.approx(4 * TTFT[2] + TTFT[3], rel=0.05)
    assert first_s(told, w1, 60.0) - idle == pytest.approx(TTFT[3], rel=0.05)
    told.first(sent, w1, 0.1)
    assert first_s(told, w1) - idle == pytest.approx(TTFT[3], rel=0.05)


@pytest.mark.parametrize(
    ("ask", "room"),
    [
        (Ask(0.0, 11), 8.0),
        (Ask(0.0, 11, tpot_s=0.030), 2.0),                     # 0.020 + 0.005 * 2
        (Ask(1.0, 11, tpot_s=0.040), 20 / 7),                  # 0.020 + (0.005 + 0.002) * 20 / 7
        (Ask(0.0, 11, ttft_s=0.13), 4.0),                      # 0.1 + 0.01 * (4 - 1)
        (Ask(0.0, 11, e2e_s=0.4), 1.0 + 0.05 / 0.06),          # 0.1 + 0.01 * (n - 1) + 10 * (0.020 + 0.005 * n)
        (Ask(0.0, 11, tpot_s=0.020), 1.0),
    ],
)  # fmt: skip
def test_how_many_requests_a_worker_can_have_and_be_in_time_with_all(ask: Ask, room: float) -> None:
    assert Law((0.1, 0.2, 0.05, 0.01), (0.02, 0.005, 0.002)).room(ask, 8) == pytest.approx(room)


def test_a_worker_without_laws_has_room_for_what_it_can_work_on_at_once() -> None:
    assert Law().room(Ask(1.0, 10, 0.1, 0.1, 0.1), 8) == 8.0


def test_its_requests_take_of_a_worker_what_littles_law_says() -> None:
    told, w1, _ = two()
    told.answers(w1, 300)
    of_tpot = (0.040 - TPOT[0]) / (TPOT[1] + TPOT[2])          # 6.7, of a worker that can work on four at once
    assert told.taken(w1) == 0.0
    sent = told.sent(w1, 1000, wishes=Wishes(slo_tpot_ms=40.0))
    assert told.taken(w1) == pytest.approx(1 / min(of_tpot, 4))
    tight = told.sent(w1, 1000, wishes=Wishes(slo_tpot_ms=26.0))
    assert told.taken(w1) == pytest.approx(1 / 4 + 1 / 2, rel=0.05)
    w1.foreign = 2
    assert told.taken(w1) == pytest.approx(1 / 4 + 1 / 2 + 2 / 4, rel=0.05), "somebody else's count, too"
    w1.foreign = 0
    for one in (sent, tight):
        told.ends(one, w1, 10, 1.0)
    assert told.taken(w1) == 0.0


def test_a_worker_that_was_busy_before_anything_was_remembered_counts_its_requests() -> None:
    told, w1, _ = two()
    told.made.sent(w1, 0.0)
    assert told.taken(w1) == 0.25


def test_targets_are_the_clients_then_the_configurations_and_of_an_answer_in_one_piece_only_the_end_counts() -> None:
    speeds = Speeds(Slo(ttft_ms=500.0, e2e_ms=9000.0))
    wishes = Wishes(slo_ttft_ms=200.0, slo_tpot_ms=30.0)
    assert speeds.ask(job(stream=True, wishes=wishes, prompt_tokens=2000).request) == Ask(2.0, 256, 0.2, 0.03, 9.0)
    assert speeds.ask(job(stream=True, max_tokens=50).request) == Ask(0.0, 50, 0.5, None, 9.0)
    assert speeds.ask(job(wishes=wishes).request) == Ask(0.0, 256, None, None, 9.0)


def test_caution_counts_half_for_the_length_of_an_answer_and_nothing_for_what_it_takes_of_a_worker() -> None:
    made = fleet("w1")
    told = Told(made, Slo(caution=1.0))
    for tokens in (20, 100) * 20:
        told.ends(told.sent(made.ordered[0], 1000), made.ordered[0], tokens, 1.0)
    ask = told.speeds.ask(job(prompt_tokens=1000).request)
    assert (ask.tokens_out, ask.tokens_more) == pytest.approx((60.0, 20.0), rel=0.05)
    law = Law(None, (0.01, 0.0, 0.0))
    assert law.lateness(Ask(1.0, 101, e2e_s=2.0, tokens_more=100)) == pytest.approx(1.0)
    assert law.room(Ask(1.0, 101, e2e_s=1.5, tokens_more=100), 8) == 8


def test_the_length_of_an_answer_is_that_of_those_before() -> None:
    told, w1, _ = two()
    for _ in range(3):
        told.ends(told.sent(w1, 1000), w1, 40, 1.0)
    asks = [told.speeds.ask(job(prompt_tokens=1000, max_tokens=most).request) for most in (None, 30)]
    assert [ask.tokens_out for ask in asks] == pytest.approx([40.0, 30.0])


KNOWN = Law((0.1, 0.1, 0.0, 0.0), (0.01, 0.01, 0.0))
"""Of a prompt of 1000 tokens the first comes after 200 ms, each other one after 20 ms, ten after 380 ms."""


@pytest.mark.parametrize(
    ("ask", "lateness", "slack_s"),
    [
        (Ask(1.0, 10, ttft_s=0.5), 0.4, 0.3), (Ask(1.0, 10, ttft_s=0.1), 2.0, -0.1),
        (Ask(1.0, 10, tpot_s=0.04), 0.5, inf), (Ask(1.0, 10, tpot_s=0.01), 2.0, -inf),
        (Ask(1.0, 10, ttft_s=0.5, e2e_s=0.4), 0.95, 0.02), (Ask(1.0, 10, 0.5, 0.01, 0.4), 2.0, -inf),
        (Ask(1.0, 10), None, inf),
    ],
)  # fmt: skip
def test_lateness_is_the_worst_share_of_a_target_and_slack_the_time_that_is_left(
    ask: Ask, lateness: float | None, slack_s: float
) -> None:
    assert KNOWN.lateness(ask) == (None if lateness is None else pytest.approx(lateness))
    assert KNOWN.expected(ask).slack_s(ask) == pytest.approx(slack_s)


def test_what_was_waited_counts() -> None:
    assert KNOWN.lateness(Ask(1.0, 10, ttft_s=0.5), waited_s=0.3) == pytest.approx(1.0)
    assert KNOWN.lateness(Ask(1.0, 10, e2e_s=0.76), waited_s=0.38) == pytest.approx(1.0)


def test_what_nobody_knows_is_not_late() -> None:
    assert Law().lateness(Ask(1.0, 10, 0.1, 0.1, 0.1)) is None
