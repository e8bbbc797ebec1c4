"""vtc-basic: what users are charged, who is next, which worker it is, and that a flood takes nothing from others."""

from __future__ import annotations

import random
from collections import Counter, deque
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Fairness, Strategies
from rbeerouter.core.dispatch import DONE, Job
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.memory import Memories
from rbeerouter.core.queue import Queue, QueueRules
from rbeerouter.core.types import Patience, Worker
from rbeerouter.routing.strategies.fairness import NOBODY, LedgerRules, TokenLedger, VtcBasic
from rbeerouter.sim.types import Arrival, Scenario
from rbeerouter.sim.world import run
from tests.sim.small import Listed, config
from tests.sim.small import request as asked
from tests.sim.small import worker as machine
from tests.support.builders import context, fill, fleet, job, quick, request
from tests.support.service import Service

W1 = fleet("w1").ordered[0]
DISCONNECTED, GONE = FAILURES["upstream_disconnected"], FAILURES["client_gone"]


def named(user: str | None, tokens_in: int = 100, max_tokens: int | None = None, **more: Any) -> Job:
    return job(user_id=user, prompt_tokens=tokens_in, max_tokens=max_tokens, **more)


def send(ledger: TokenLedger, one: Job, now: float = 0.0) -> Job:
    one.tried = [*one.tried, "w1"]
    ledger.sent(one, W1, now)
    return one


def end(ledger: TokenLedger, one: Job, tokens_in: int | None, tokens_out: int | None, now: float = 0.0) -> None:
    one.tokens_in, one.tokens_out, one.status = tokens_in, tokens_out, 200
    ledger.released(one, W1, None, now)


def spend(ledger: TokenLedger, user: str, tokens_in: int, tokens_out: int, now: float = 0.0) -> None:
    end(ledger, send(ledger, named(user, tokens_in), now), tokens_in, tokens_out, now)


def got(ledger: TokenLedger, user: str, now: float = 0.0) -> float:
    return ledger.recent(ledger.account_of(user, b""), now)


# What is charged


def test_an_attempt_costs_what_is_expected_and_then_what_was_used() -> None:
    ledger = TokenLedger()
    one = send(ledger, named("anna", 100, max_tokens=40))
    assert got(ledger, "anna") == 100 + 2 * 40
    end(ledger, one, 110, 7)
    assert got(ledger, "anna") == 110 + 2 * 7


def test_an_answer_is_expected_to_be_as_long_as_those_before_it_and_no_longer_than_allowed() -> None:
    ledger = TokenLedger()
    send(ledger, named("first", 100))
    assert got(ledger, "first") == 100 + 2 * 150, "nothing is known: half as much again as the prompt"
    spend(ledger, "anna", 10, 60)
    send(ledger, named("bob", 10))
    assert got(ledger, "bob") == 10 + 2 * 60, "as those of others"
    spend(ledger, "anna", 10, 10)
    before = got(ledger, "anna")
    send(ledger, named("anna", 10))
    send(ledger, named("anna", 10, max_tokens=20))
    assert got(ledger, "anna") - before == (10 + 2 * 50) + (10 + 2 * 20), "60, and a fifth of the way to 10"


def test_an_attempt_that_failed_costs_nothing_and_the_next_one_is_charged_anew() -> None:
    ledger = TokenLedger()
    one = send(ledger, named("anna", 100, max_tokens=40))
    ledger.released(one, W1, DISCONNECTED, 0.0)
    assert got(ledger, "anna") == 0.0
    end(ledger, send(ledger, one), 100, 30)
    assert got(ledger, "anna") == 160.0


def test_a_workers_own_error_costs_nothing() -> None:
    ledger = TokenLedger()
    one = send(ledger, named("anna", 100))
    one.status = 400
    ledger.released(one, W1, None, 0.0)
    assert got(ledger, "anna") == 0.0


def test_who_leaves_early_or_hides_its_usage_pays_what_was_expected() -> None:
    ledger = TokenLedger()
    ledger.released(send(ledger, named("gone", 100, max_tokens=40)), W1, GONE, 0.0)
    end(ledger, send(ledger, named("silent", 100, max_tokens=40)), None, None)
    assert (got(ledger, "gone"), got(ledger, "silent")) == (180.0, 180.0)


def test_a_stream_that_is_longer_than_expected_is_charged_as_it_goes_on() -> None:
    ledger, one = TokenLedger(LedgerRules(window_s=1e7)), fleet("w1").ordered[0]
    one.inter_token_ms = 20.0
    stream, bounded = named("stream", 100, stream=True), named("bounded", 100, 40, stream=True)
    whole = named("whole", 100, 40)
    for each in (stream, bounded, whole):
        send(ledger, each, 0.0)
        each.worker = one
    stream.first_content = bounded.first_content = 1.0
    ledger.tick(3.0, [one])
    had = [got(ledger, user, 3.0) for user in ("stream", "bounded", "whole")]
    assert had == pytest.approx([100 + 2 * 150, 180, 180], rel=1e-4), "100 tokens so far, and 150 were expected"
    ledger.tick(11.0, [one])
    had = [got(ledger, user, 11.0) for user in ("stream", "bounded", "whole")]
    assert had == pytest.approx([100 + 2 * 500, 180, 180], rel=1e-4)
    end(ledger, stream, 100, 510, 11.5)
    assert got(ledger, "stream", 11.5) == pytest.approx(100 + 2 * 510, rel=1e-4)


def test_an_embedding_costs_its_input() -> None:
    ledger = TokenLedger()
    end(ledger, send(ledger, named("anna", 100)), 90, None)
    assert got(ledger, "anna") == 90.0


def test_a_tier_of_weight_four_pays_a_quarter() -> None:
    ledger = TokenLedger(LedgerRules(tiers=(("free", 1.0), ("premium", 4.0)), tier="plan"))
    for user, metadata in (("p", {"plan": "premium"}), ("f", {"plan": "free"}), ("n", {"tier": "premium"})):
        send(ledger, named(user, 100, max_tokens=50, metadata=metadata))
    assert [got(ledger, user) for user in "pfn"] == [50.0, 200.0, 200.0]


def test_a_steady_stream_is_worth_one_window_of_it_and_old_use_fades() -> None:
    ledger = TokenLedger(LedgerRules(window_s=60.0))
    for second in range(600):
        spend(ledger, "anna", 10, 0, float(second))
    assert got(ledger, "anna", 599.0) == pytest.approx(600.0, rel=0.01)
    assert got(ledger, "anna", 659.0) == pytest.approx(600.0 / 2.71828, rel=0.02)


def test_a_refund_takes_back_exactly_what_is_left_of_the_charge() -> None:
    ledger = TokenLedger(LedgerRules(window_s=60.0))
    one = send(ledger, named("anna", 100), 0.0)
    spend(ledger, "anna", 30, 0, 50.0)
    ledger.released(one, W1, DISCONNECTED, 70.0)
    assert got(ledger, "anna", 50.0) == pytest.approx(30.0)


# Who pays


def test_an_account_is_of_the_user_or_of_the_key_and_holds_neither() -> None:
    by_user, by_key = TokenLedger(), TokenLedger(LedgerRules(by="key"))
    anna, key = by_user.account_of("anna", b""), by_user.account_of(None, b"Bearer sk-secret")
    assert by_user.account_of("anna", b"Bearer sk-secret") == by_key.account_of("anna", b"") == anna
    assert by_key.account_of("anna", b"Bearer sk-secret") == by_key.account_of(None, b"Bearer sk-secret") == key
    assert by_user.account_of(None, b"") == NOBODY
    assert len({anna, key, by_user.account_of("Bearer sk-secret", b"")}) == 3
    assert (len(anna), len(by_user.account_of("x" * 4096, b"")), b"secret" in key) == (16, 16, False)


def test_users_are_forgotten_after_a_window_unless_they_wait_or_are_served() -> None:
    ledger = TokenLedger(LedgerRules(window_s=60.0))
    spend(ledger, "idle", 10, 10)
    served = send(ledger, named("served", 10))
    spend(ledger, "waits", 10, 10)
    ledger.begins(ledger.account_of("waits", b""))
    ledger.tick(61.0, [])
    assert [got(ledger, user, 61.0) > 0 for user in ("idle", "served", "waits")] == [False, True, True]
    end(ledger, served, 10, 10, 62.0)
    ledger.ends(ledger.account_of("waits", b""))
    ledger.tick(200.0, [])
    assert (ledger._accounts, ledger._charges, ledger._waiting) == ({}, {}, {})


def test_many_new_names_do_not_drive_out_who_had_much() -> None:
    ledger = TokenLedger(LedgerRules(users=50))
    spend(ledger, "heavy", 100_000, 0)
    for number in range(1000):
        spend(ledger, f"name-{number}", 1, 0)
    assert (len(ledger._accounts), got(ledger, "heavy")) == (50, 100_000.0)


def test_a_job_that_was_sent_before_there_was_a_ledger_is_nobodys() -> None:
    ledger = TokenLedger()
    end(ledger, named("anna"), 10, 10)
    assert got(ledger, "anna") == 0.0


# Who is next: the queue with the ledger, and nothing else


class Engine:
    """Users who always have requests waiting, and a machine that works on some at once and ends any of them."""

    def __init__(self, slots: int, sizes: dict[str, tuple[int, int]], ledger: TokenLedger | None, seed: int = 1) -> None:
        self.ledger = ledger or TokenLedger()
        self.queue = Queue(QueueRules(length=10_000, per_caller=10_000))
        self.queue.share_by(ledger)
        self.sizes, self.slots, self.rng = sizes, slots, random.Random(seed)
        self.running: deque[tuple[Job, int, int]] = deque()
        self.served: Counter[str] = Counter()
        self.order: list[str] = []

    def wait(self, user: str, priority: int = 0, metadata: dict[str, Any] | None = None) -> Job:
        most_in, most_out = self.sizes[user]
        one = named(user, self.rng.randint(1, most_in), most_out, metadata=metadata or {"type": "llm"})
        one.queued = 1.0
        self.queue.add(one, None, Patience(None, priority), 1e9)
        return one

    def step(self) -> list[str]:
        """One job ends, if the machine is full; who has room then goes."""
        if len(self.running) == self.slots:
            self.running.rotate(self.rng.randrange(self.slots))
            one, tokens_in, tokens_out = self.running.popleft()
            end(self.ledger, one, tokens_in, tokens_out)
            self.served[str(one.request.user_id)] += tokens_in + 2 * tokens_out
        gone = []
        for one, _ in self.queue.admit(lambda job, _: W1 if len(self.running) < self.slots else None):
            user = str(one.request.user_id)
            send(self.ledger, one)
            most_out = self.sizes[user][1]
            self.running.append((one, int(one.request.prompt_tokens or 0), self.rng.randint(1, most_out)))
            gone.append(user)
        self.order += gone
        return gone


MOST_IN, MOST_OUT = 60, 40


def run_backlogged(engine: Engine, users: list[str], steps: int, each: Any) -> None:
    for user in users:
        for _ in range(5):
            engine.wait(user)
    for _ in range(steps):
        for user in engine.step():
            engine.wait(user)
        each()


@quick(max_examples=40)
@given(
    st.integers(1, 6), st.lists(st.tuples(st.integers(1, MOST_IN), st.integers(1, MOST_OUT)), min_size=2, max_size=5),
    st.integers(0, 999),
)  # fmt: skip
def test_two_users_who_wait_get_alike_within_the_bound_of_the_paper(
    slots: int, sizes: list[tuple[int, int]], seed: int
) -> None:
    """Theorem 4.4 of Sheng et al.: their counters differ by no more than the prompt of one request or the answers that
    can be under way. Here a request is charged what it is expected to need before it is known, so by both."""
    users = [f"u{number}" for number in range(len(sizes))]
    engine = Engine(slots, dict(zip(users, sizes, strict=True)), TokenLedger(), seed)
    under_way = slots * (MOST_IN + 2 * MOST_OUT)
    bound = MOST_IN + 2 * MOST_OUT * (slots + 1)

    def compare() -> None:
        had = [engine.ledger.had(engine.ledger.account_of(user, b"")) for user in users]
        assert max(had) - min(had) <= bound
        served = [engine.served[user] for user in users]
        assert max(served) - min(served) <= 2 * bound + under_way

    run_backlogged(engine, users, 400, compare)


def test_in_turns_the_same_users_do_not_get_alike() -> None:
    engine = Engine(2, {"large": (MOST_IN, MOST_OUT), "small": (1, 1)}, None)
    run_backlogged(engine, ["large", "small"], 1000, lambda: None)
    assert engine.served["large"] > 10 * engine.served["small"]


def test_tiers_get_tokens_by_their_weights() -> None:
    ledger = TokenLedger(LedgerRules(tiers=(("free", 1.0), ("premium", 4.0))))
    engine = Engine(3, {"free": (50, 40), "premium": (50, 40)}, ledger)
    for _ in range(1500):
        for user in ("free", "premium"):
            engine.wait(user, metadata={"tier": user})
        engine.step()
    assert engine.served["premium"] / engine.served["free"] == pytest.approx(4.0, rel=0.05)


def test_who_was_idle_does_not_come_back_with_credit() -> None:
    engine = Engine(2, {"flood": (50, 40), "late": (50, 40)}, TokenLedger())
    run_backlogged(engine, ["flood"], 300, lambda: None)
    before = dict(engine.served)
    for _ in range(5):
        engine.wait("late")
    run_backlogged(engine, ["late"], 300, lambda: None)
    gained = [engine.served[user] - before.get(user, 0) for user in ("flood", "late")]
    assert gained[1] == pytest.approx(gained[0], rel=0.1), "without the lift the newcomer would have it all"


def test_who_comes_when_nobody_waits_stands_where_the_last_one_did() -> None:
    ledger = TokenLedger()
    for _ in range(10):
        spend(ledger, "flood", 1000, 100)
    spend(ledger, "light", 1, 1)
    flood, light = (ledger.account_of(user, b"") for user in ("flood", "light"))
    ledger.begins(light)
    ledger.begins(flood)
    assert ledger.had(light) == ledger.had(flood) == 10 * 1200 + 3


def test_a_newcomer_stands_neither_before_nor_behind_all_who_wait() -> None:
    ledger = TokenLedger()
    before = send(ledger, named("before", 0, 500))
    a, b, c, d = (ledger.account_of(user, b"") for user in "abcd")
    ledger.begins(a)
    end(ledger, before, 0, 500)
    ledger.begins(b)
    assert (ledger.had(a), ledger.had(b)) == (0, 0), "what one got who does not wait is no part of theirs"
    one = named("a", 100, 40)
    one.queued = 1.0
    end(ledger, send(ledger, one), 100, 40)
    ledger.begins(c)
    assert (ledger.had(a), ledger.had(b), ledger.had(c)) == (180, 0, 90), "even parts of two"
    ledger.ends(b)
    ledger.ends(c)
    ledger.begins(d)
    assert ledger.had(d) == 180


def test_long_answers_that_are_yet_to_come_lift_nobody() -> None:
    ledger = TokenLedger()
    for _ in range(10):
        send(ledger, named("flood", 100, 1000, metadata={}))   # which is expected to have 150
    flood, light = (ledger.account_of(user, b"") for user in ("flood", "light"))
    ledger.begins(flood)
    ledger.begins(light)
    assert (ledger.had(flood), ledger.had(light)) == (10 * (100 + 2 * 150), 10 * 100)


def test_everybody_gets_their_turn_and_priorities_go_first() -> None:
    users = ["flood", *(f"light-{number}" for number in range(4))]
    engine = Engine(1, dict.fromkeys(users, (50, 40)) | {"urgent": (50, 40)}, TokenLedger())
    for _ in range(100):
        engine.wait("flood")
    engine.wait("urgent", priority=1)
    engine.wait("urgent", priority=1)
    for user in users[1:]:
        engine.wait(user)
    for _ in range(12):
        engine.step()
    assert engine.order[:2] == ["urgent", "urgent"]
    assert set(users[1:]) <= set(engine.order[2:8]), engine.order


def test_an_endless_row_of_newcomers_does_not_keep_out_who_had_more() -> None:
    sizes = {"heavy": (50, 40)} | {f"new-{number}": (50, 40) for number in range(600)}
    engine = Engine(2, sizes, TokenLedger(), 3)
    for _ in range(6):
        engine.wait("heavy")
    for number in range(3):
        engine.wait(f"new-{number}")
    for number in range(3, 600):                               # there are always some who have had nothing
        engine.wait(f"new-{number}")
        engine.step()
    turns = [place for place, user in enumerate(engine.order) if user == "heavy"]
    assert len(turns) == 6 and max(after - before for before, after in pairwise(turns)) < 30, turns


# Which worker


def strategy(strict: bool = False, memories: Memories | None = None, **options: Any) -> VtcBasic:
    told = Strategies(strict=strict, fairness=Fairness(**options))
    return VtcBasic(context(options=told, memories=memories or Memories()))


def without_chance(made: VtcBasic, user: str, workers: list[Worker], **more: Any) -> list[float]:
    """Scores as they are at the least: chance adds up to 0.1 to each."""
    rows = []
    for _ in range(200):
        made.context.chance.n += 1
        scores = made.scores(request(user_id=user, **more), workers)
        assert scores is not None
        rows.append(scores)
    return [round(min(column), 1) for column in zip(*rows, strict=True)]


def test_users_with_more_tokens_go_to_later_workers_by_id_whatever_the_order_of_the_list() -> None:
    made, workers = strategy(), fleet("c", "a", "b").ordered
    spend(made.ledger, "heavy", 8000, 0, 100.0)
    spend(made.ledger, "light", 2000, 0, 100.0)
    made.ledger.tick(100.0, [])
    assert without_chance(made, "new", workers) == [1.0, 0.0, 0.5], "c, a, b"
    assert without_chance(made, "light", workers) == [0.8, 0.2, 0.3], "2000 of 2000 + 8000"
    assert without_chance(made, "heavy", workers) == [0.2, 0.8, 0.3]


def test_the_load_for_what_a_worker_can_do_counts_as_much_as_the_way_from_the_first_to_the_last() -> None:
    made, all_of = strategy(), fleet("w1", "w2")
    fill(all_of, "w1", 3)
    assert without_chance(made, "new", all_of.ordered) == [0.8, 1.0]
    weighted = strategy(fairness_weight=0.5, utilization_weight=2.0)
    assert without_chance(weighted, "new", all_of.ordered) == [1.5, 0.5]
    assert without_chance(made, "new", all_of.ordered[:1]) == [0.8], "a single worker is where everybody is"


def test_small_users_are_all_alike() -> None:
    made, workers = strategy(bucket_tokens=500.0), fleet("w1", "w2").ordered
    spend(made.ledger, "anna", 200, 0, 100.0)
    made.ledger.tick(100.0, [])
    assert without_chance(made, "anna", workers) == [0.2, 0.8], "a bucket is never smaller than bucket_tokens"


def test_chance_decides_between_workers_that_are_nearly_alike() -> None:
    made, all_of = strategy(fairness_weight=0.0), fleet()
    counted: Counter[str] = Counter()
    for _ in range(3000):
        made.context.chance.n += 1
        chosen = made.choose(request(user_id="anna"), all_of.ordered)
        assert isinstance(chosen, Worker)
        counted[chosen.id] += 1
    assert sum((count - 1000) ** 2 / 1000 for count in counted.values()) < 13.82, counted


def test_without_a_user_another_strategy_chooses_unless_its_key_names_it() -> None:
    made, workers = strategy(), fleet().ordered
    assert made.choose(request(), workers) is None
    assert made.choose(request(caller=b"Bearer a"), workers) is not None


def test_the_account_outlives_a_reload_with_the_same_rules() -> None:
    memories = Memories()
    first = strategy(memories=memories, tiers={"free": 1.0, "premium": 4.0})
    again = strategy(memories=memories, tiers={"premium": 4.0, "free": 1.0}, fairness_weight=2.0)
    assert again.ledger is first.ledger is again.shares
    assert strategy(memories=memories, window_s=60.0).ledger is not first.ledger


# As AIBrix does


def test_strict_estimates_by_the_prompt_never_settles_and_leaves_the_queue_alone() -> None:
    made = strategy(strict=True)
    end(made.ledger, send(made.ledger, named("anna", 101, max_tokens=5)), 101, 5)
    assert (got(made.ledger, "anna"), made.shares) == (101 + 2 * 152, None)


def test_strict_scores_are_those_of_the_original() -> None:
    made, all_of = strategy(strict=True), fleet()
    fill(all_of, "w2", 3)
    all_of.ordered[2].running = 40
    made.ledger.sent(named("heavy", 2500), W1, 100.0)          # 2500 + 2 * 3750, never settled
    made.ledger.sent(named("light", 250), W1, 100.0)           # 250 + 2 * 375
    made.ledger.tick(100.0, [])
    far = {"light": 1000 / 5500, "heavy": 10_000 / 5500}
    for user, target in far.items():
        for _ in range(30):
            made.context.chance.n += 1
            scores = made.scores(request(user_id=user), all_of.ordered)
            assert scores is not None
            distances = [score - load for score, load in zip(scores, (0.0, 0.03, 0.4), strict=True)]
            for found, place in zip(sorted(distances), sorted(range(3), key=lambda i: abs(i - target)), strict=True):
                assert 0.0 <= found - abs(place - target) < 0.1 + 1e-9


def test_strict_takes_a_random_worker_whether_there_is_a_user_or_not() -> None:
    made, all_of = strategy(strict=True), fleet()
    fill(all_of, "w2", 3)
    for user in (None, "anna"):
        counted: Counter[str] = Counter()
        for _ in range(3000):
            made.context.chance.n += 1
            chosen = made.choose(request(user_id=user), all_of.ordered)
            assert isinstance(chosen, Worker)
            counted[chosen.id] += 1
        assert min(counted.values()) > 850, (user, counted)


# All of it, in the simulator

LIGHT = [f"light-{number}" for number in range(4)]


def traffic(seconds: float, flood: tuple[float, int, int], light: tuple[float, int, int]) -> Listed:
    """(requests a second, tokens of the prompt, of the answer) of the one and of each of the others."""
    rng, rows = random.Random(1), []
    for user in ("flood", *LIGHT):
        (rate, tokens_in, tokens_out), at = flood if user == "flood" else light, 0.0
        while (at := at + rng.expovariate(rate)) < seconds:
            luck = rng.lognormvariate(0, 0.4)
            rows.append((at, user, int(tokens_in * luck) + 1, int(tokens_out * luck) + 1))
    return Listed(*(
        Arrival(at, asked(f"r-{number}", user_id=user, prompt_tokens=read, max_tokens=None), read, written)
        for number, (at, user, read, written) in enumerate(sorted(rows))
    ))  # fmt: skip


def simulated(name: str, workload: Listed, seconds: float) -> tuple[float, float]:
    """(Jain's index of the service in 30 s, averaged; 95 % of the light users' first tokens come within so many s)."""
    service, waits = Service(30.0), []

    def ended(one: Job) -> None:
        service.ended(one)
        if one.state == DONE and one.request.user_id in LIGHT and one.first_content is not None:
            waits.append(one.first_content - one.arrived)

    machines = tuple(machine(f"w{number}", slots=8, step_s=0.02, prefill_s=0.0002) for number in range(4))
    limits = config(limits={"queue_s": 60.0, "queue_most_s": 60.0})
    run(Scenario(limits, machines, workload, strategy=name), on_line=ended)
    even = service.jain(["flood", *LIGHT], range(1, int(seconds / 30)))
    return sum(even) / len(even), sorted(waits)[int(0.95 * len(waits))]


OTHERS = ("random", "least-request")


def test_one_who_floods_gets_no_more_than_others_who_wait_too() -> None:
    """Each asks for more than its part, one of them for ten times as many tokens as each of the others."""
    workload = traffic(180.0, (5.0, 2000, 1000), (5.0, 200, 100))
    even = {name: simulated(name, workload, 180.0)[0] for name in ("vtc-basic", *OTHERS)}
    assert even["vtc-basic"] > 0.98 and max(even[name] for name in OTHERS) < 0.6, even


def test_who_asks_for_less_than_its_part_hardly_waits_for_the_one_who_floods() -> None:
    workload = traffic(180.0, (5.0, 2000, 1000), (2.0, 200, 100))
    waits = {name: simulated(name, workload, 180.0)[1] for name in ("vtc-basic", *OTHERS)}
    assert 8 * waits["vtc-basic"] < min(waits[name] for name in OTHERS), waits
