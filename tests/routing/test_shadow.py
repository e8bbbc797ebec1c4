"""Tests of the shadow's counting and deciding: by hand, and beside a live decider that it must agree with."""

from __future__ import annotations

import random
from typing import Any

import pytest

from rbeerouter.config import sections
from rbeerouter.core.chance import Chance
from rbeerouter.core.errors import FAILURES, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.mirror import Mirror
from rbeerouter.core.models import NO_MODELS
from rbeerouter.core.types import REJECT, REMOTE, SEND, WAIT, Decision, Worker
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.replay import FollowedSplit
from rbeerouter.routing.shadow import OTHERS, REJECTED, RESULTS, WAITING, Shadow, Tally, compared, place, who
from rbeerouter.routing.split import Split
from tests.support.builders import Clock, env, fleet, job, lua, request, script, worker

FLEET = fleet()
W1, W2, _ = FLEET.ordered


def decision(worker: Worker | None = W1, **changes: Any) -> Decision:
    return Decision(**{"worker": worker, "by": "script", "reason": "routing.lua:3", **changes})


SENT, WAITS_ANY = decision(), decision(None, action=WAIT)
REFUSED = decision(None, action=REJECT)


@pytest.mark.parametrize(
    ("live", "shadow", "result"),
    [
        (SENT, SENT, "agree"),
        (SENT, decision(reason="new.lua:9", headers=(("x-a", "b"),), then=(W2,)), "agree"),
        (SENT, decision(W2), "other_worker"),
        (SENT, decision(model="x"), "other_model"),
        (SENT, decision(W2, model="x"), "other_worker"),
        (SENT, WAITS_ANY, "waits"),
        (SENT, decision(action=WAIT), "waits"),
        (SENT, REFUSED, "rejects"),
        (SENT, None, "rejects"),
        (WAITS_ANY, SENT, "sends"),
        (WAITS_ANY, WAITS_ANY, "agree"),
        (WAITS_ANY, decision(action=WAIT), "other_worker"),
        (REFUSED, SENT, "sends"),
        (None, SENT, "sends"),
        (None, REFUSED, "agree"),
        (None, None, "agree"),
        (REFUSED, WAITS_ANY, "waits"),
        (SENT, decision(error="new.lua:3: no"), "fault"),
        (decision(error="routing.lua:3: no"), SENT, "agree"),
        (SENT, decision(None, action=REJECT, error="new.lua:3: no"), "fault"),
    ],
)
def test_every_pair_of_decisions_has_its_result(live: Decision | None, shadow: Decision | None, result: str) -> None:
    assert compared(live, shadow) == result
    assert result in RESULTS


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (SENT, "routing.lua:3"),
        (decision(reason="routing.lua:3: canary of anna"), "routing.lua:3"),
        (decision(reason="...-routing.lua:12: a: b:7"), "...-routing.lua:12"),
        (decision(reason="routing.lua"), "routing.lua"),
        (decision(by="strategy", reason="least-request"), "strategy"),
        (decision(by="strategy", reason="least-request; routing.lua:9 returned nil"), "routing.lua:9 returned nil"),
        (decision(by="fallback", reason="least-request"), "fallback"),
        (None, "nobody can have it"),
    ],
)
def test_a_place_is_a_line_without_what_the_script_says(made: Decision | None, shown: str) -> None:
    assert place(made) == shown


def test_who_gets_it_is_a_worker_or_what_stands_for_one() -> None:
    assert [who(one) for one in (SENT, decision(W2, action=WAIT), WAITS_ANY, REFUSED, None)] == [
        "w1", "w2", WAITING, REJECTED, REJECTED,
    ]  # fmt: skip


def test_a_tally_is_what_can_be_counted_by_hand() -> None:
    tally = Tally()
    for number, (live, shadow) in enumerate([(SENT, SENT), (SENT, decision(W2)), (SENT, decision(W2)), (SENT, None)]):
        tally.add(request(id=f"r-{number}"), float(number), live, shadow)
    assert dict(tally.results) == {"agree": 1, "other_worker": 2, "rejects": 1}
    assert dict(tally.pairs) == {
        ("routing.lua:3", "routing.lua:3", "other_worker"): 2, ("routing.lua:3", "nobody can have it", "rejects"): 1,
    }  # fmt: skip
    assert tally.shares() == {
        REJECTED: {"live": 0.0, "shadow": 0.25}, "w1": {"live": 1.0, "shadow": 0.25}, "w2": {"live": 0.0, "shadow": 0.5},
    }  # fmt: skip
    assert [(one.request_id, one.result, one.live_worker, one.shadow_worker) for one in tally.last] == [
        ("r-1", "other_worker", "w1", "w2"), ("r-2", "other_worker", "w1", "w2"), ("r-3", "rejects", "w1", REJECTED),
    ]  # fmt: skip


def test_nothing_of_a_tally_grows_without_end() -> None:
    tally = Tally()
    many = fleet(*(f"n{number}" for number in range(600)))
    for number, one in enumerate(many.ordered):
        tally.add(request(id=f"r-{number}"), 0.0, SENT, decision(one, reason=f"new.lua:{number}"))
    assert (len(tally.pairs), len(tally.last), len(tally.shadow)) == (101, 20, 501)
    assert tally.pairs[OTHERS, OTHERS, "other_worker"] == 500 == tally.pairs.total() - 100
    assert tally.shadow.total() == tally.live.total() == 600


# Beside a live decider.


class Beside:
    """A live decider with a shadow, and a clock that the shadow's work moves."""

    def __init__(
        self,
        live: str | bytes,
        shadow: str | bytes,
        most: int = 1000,
        faults: int = 0,
        made: Fleet | None = None,
        strategy: str = "least-request",
        split: bool = False,
    ) -> None:
        self.clock = Clock()
        self.woken = 0
        self.fleet = made or fleet("w1", "w2", worker("w3", models=("m",), deployment=REMOTE), worker("w4", models=("m",)))
        shared = sections.Split(0.6) if split else None
        self.live = Decider(
            self.fleet, script(live), strategy, env(self.clock), split=Split(shared, NO_MODELS) if split else None
        )
        self.mirror = Mirror()
        base = Chance(self.live.chance.base)
        its = env(self.clock)
        decider = Decider(
            self.mirror, script(shadow), strategy, type(its)(its.now, its.wall, its.rng, its.utc_offset_s, base),
            faults=faults, split=FollowedSplit(shared, NO_MODELS) if split else None,
        )  # fmt: skip
        self.shadow = Shadow(decider, self.mirror, most, self._wake, lambda: self.clock.now_s, Tally())
        self.live.watch.tell(lambda roll: None)
        self.live.listen(self.shadow.listener())

    def _wake(self) -> None:
        self.woken += 1

    def ask(self, **changes: Any) -> Decision | None:
        """One request, decided by the live script alone."""
        try:
            return self.live.decide(request(**changes))
        except RouterError:
            return None

    def work(self) -> Tally:
        self.shadow.run(1e9)
        return self.shadow.tally


def traffic(beside: Beside, requests: int, seed: int) -> None:
    """Requests that are sent and end, workers that fill and come and go."""
    rng, busy = random.Random(seed), []
    for number in range(requests):
        made = beside.ask(id=f"r-{number}", max_tokens=rng.randrange(100))
        if made is not None and made.action == SEND and made.worker is not None:
            beside.fleet.sent(made.worker, beside.clock.now_s)
            busy.append(made.worker)
        while busy and rng.random() < 0.51:
            ended = busy.pop(rng.randrange(len(busy)))
            failure = FAILURES["upstream_disconnected"] if rng.random() < 0.05 else None
            beside.fleet.finished(ended, failure, beside.clock.now_s, beside.clock.now_s - 0.5)
        if rng.random() < 0.05:
            beside.fleet.drain("w2") if rng.random() < 0.5 else beside.fleet.undrain("w2")
        beside.clock.advance(0.05)
        beside.fleet.tick(beside.clock.now_s)


RANDOM = """
  local ready = workers:filter(function(w) return w.status == "ready" end)
  if rand() < 0.3 then return ready:sample(1)[1] end
  if request.max_tokens < 50 then return nil end
  return ready:min_by(function(w) return w.load + (w.latency_ms or 0) / 1000 end)
"""


@pytest.mark.parametrize("seed", range(5))
def test_a_shadow_that_is_the_live_script_agrees_on_every_request(seed: int) -> None:
    beside = Beside(RANDOM, RANDOM)
    traffic(beside, 300, seed)
    tally = beside.work()
    assert (dict(tally.results), list(tally.last)) == ({"agree": 300}, [])


def test_it_agrees_on_those_that_are_left_when_there_was_no_time_for_the_others() -> None:
    beside = Beside(RANDOM, RANDOM, most=7)
    for seed in range(8):
        traffic(beside, 40, seed)
        assert beside.shadow.waiting == 7
        beside.work()
    tally = beside.shadow.tally
    assert (tally.results["agree"], tally.requests, tally.skipped) == (56, 56, 320 - 56)


def test_a_shadow_sees_figures_that_the_live_script_never_reads() -> None:
    reads = 'return workers:max_by(function(w) return w.latency_ms or 0 end)'
    beside = Beside('return "w1"', reads)
    beside.ask()
    beside.fleet.sent(beside.fleet.workers["w3"], 100.0)
    beside.fleet.finished(beside.fleet.workers["w3"], None, 103.0, 100.0)
    beside.ask()
    assert [one.shadow_worker for one in (beside.work().last)][-1:] == ["w3"]


def test_deciding_is_left_for_later_and_asked_for_once() -> None:
    beside = Beside('return "w1"', 'return "w2"')
    for _ in range(3):
        beside.ask()
    assert (beside.woken, beside.shadow.waiting, beside.shadow.tally.requests) == (1, 3, 0)
    assert dict(beside.work().results) == {"other_worker": 3}
    beside.ask()
    assert beside.woken == 2


def test_it_stops_when_its_time_is_over_but_never_before_it_has_done_one() -> None:
    beside = Beside('return "w1"', 'return "w2"')
    for _ in range(3):
        beside.ask()
    ticks = iter([0.0, 5.0])
    beside.shadow._now = lambda: next(ticks)
    assert beside.shadow.run(0.001) == 5.0
    assert (beside.shadow.waiting, beside.shadow.tally.spent_s) == (2, 5.0)


def test_its_state_is_its_own_and_lives_by_its_hooks() -> None:
    counts = b"""
function route_request(request, workers)
  if (state:get("done") or 0) >= 2 then return "w2" end
  return "w1"
end
function on_complete(request, outcome) state:set("done", (state:get("done") or 0) + 1) end
"""
    beside = Beside('return "w1"', counts)
    for number in range(4):
        beside.live.completed(_served(beside, f"r-{number}"))
    assert dict(beside.work().results) == {"agree": 2, "other_worker": 2}
    assert beside.live.script is not None and beside.live.script.state() == []


def _served(beside: Beside, name: str) -> Any:
    made = job(id=name, max_tokens=60)
    made.decision = beside.live.decide(made.request)
    made.tried.append("w1")
    made.status, made.finished = 200, 101.0
    return made


def test_live_scripts_hooks_reach_the_shadow_too_and_the_live_fleet_is_seen_right() -> None:
    hooked = lua(RANDOM) + b"function on_complete(r, o) state:set('x', 1) end\n"
    beside = Beside(hooked, hooked)
    rng = random.Random(3)
    for number in range(60):
        served = _served(beside, f"r-{number}")
        worker = served.decision.worker
        if worker is not None and served.decision.action == SEND:
            beside.fleet.sent(worker, beside.clock.now_s)
            if rng.random() < 0.6:
                beside.fleet.finished(worker, None, beside.clock.now_s, beside.clock.now_s)
        beside.live.completed(served)
    assert dict(beside.work().results) == {"agree": 60}


def test_one_that_fails_again_and_again_stops() -> None:
    beside = Beside('return "w1"', "return workers[9].load", faults=3)
    for _ in range(5):
        beside.ask()
    tally = beside.work()
    assert (dict(tally.results), beside.shadow.waiting) == ({"fault": 3}, 2)
    assert beside.shadow.stopped is not None and "index a nil value" in beside.shadow.stopped


def test_a_defect_in_it_stops_it_and_reaches_nobody() -> None:
    beside = Beside('return "w1"', 'return "w1"')
    beside.ask()

    def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    beside.shadow.tally.add = broken  # type: ignore[method-assign]
    beside.work()
    assert beside.shadow.stopped == "RuntimeError('a defect')"


def test_requests_that_nobody_can_have_are_compared_as_well() -> None:
    beside = Beside("return nil", 'return reject{status = 429}')
    assert beside.ask(model="unknown") is None
    assert dict(beside.work().results) == {"agree": 1}


def test_what_the_live_decision_leaves_for_the_log_is_not_touched() -> None:
    beside = Beside("return nil", "return nil")
    beside.ask()
    seen = beside.live.seen
    assert seen is not None
    before = (seen.n, seen.packed[:], seen.owed, seen.turns)
    beside.work()
    assert (seen.n, seen.packed, seen.owed, seen.turns) == before


def test_where_both_leave_it_to_strategy_and_split_they_agree_though_some_are_skipped() -> None:
    beside = Beside("return nil", "local left = nil\n  return left", most=7, strategy="round-robin", split=True)
    for seed in range(8):
        traffic(beside, 40, seed)
        beside.work()
    assert dict(beside.shadow.tally.results) == {"agree": 56}


def test_a_strategy_that_remembers_traffic_is_not_compared_as_it_knows_of_the_live_decision() -> None:
    beside = Beside("return nil", "return nil", strategy="vtc-basic")
    for number in range(5):
        beside.ask(id=f"r-{number}")
    tally = beside.work()
    assert (tally.unsure, tally.requests, tally.skipped) == (5, 0, 0)
    beside = Beside("return nil", "return workers[1]", strategy="vtc-basic")
    beside.ask()
    assert (beside.work().unsure, beside.work().requests) == (0, 1)
