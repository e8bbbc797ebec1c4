"""What was decided is decided again from what was seen in memory, as a shadow beside the live decisions does it."""

from __future__ import annotations

from typing import Any

import pytest

from rbeerouter.config.sections import Routing
from rbeerouter.core.chance import Chance
from rbeerouter.core.dispatch import Dispatcher, Job
from rbeerouter.core.errors import FAILURES, RouterError
from rbeerouter.core.seen import Call, Listener, Seen
from rbeerouter.core.types import Decision, Env, Outcome, Request
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.replay import Replayer
from rbeerouter.routing.script import Script
from tests.support.builders import SCRIPT, WALL, Clock, down, env, fleet, lua, request

SERVED = Outcome(None, 200, committed=True, delivered=True)
COUNTING = b"""
function route_request(request, workers)
  if rand() < 0.2 then return workers:sample(), "chance " .. state:incr("n") end
  return nil, "failed " .. tostring(state:get("failed", 0)) .. " ended " .. tostring(state:get("ended", 0))
end
function on_failure(request, attempt, workers) state:incr("failed", #attempt.tried) return nil end
function on_complete(request, outcome) state:incr("ended") end
"""


def outcome_of(replayer: Replayer, seen: Seen, request: Request) -> Decision | RouterError:
    """A decision, or the error that there is none: for those who compare."""
    try:
        return replayer.decide(seen, request)
    except RouterError as refusal:
        return refusal


class Live:
    """A decider that serves, and all that its listener has heard."""

    def __init__(self, source: bytes | None, strategy: str = "least-request") -> None:
        self.clock = Clock()
        made = env(self.clock)
        self.env = Env(made.now, made.wall, made.rng, made.utc_offset_s, Chance(17))
        self.fleet = fleet()
        loaded = None if source is None else Script(source, SCRIPT, self.env)
        self.decider = Decider(self.fleet, loaded, strategy, self.env)
        self.heard: list[tuple[Seen | Call, Request, Decision | None]] = []
        self.decider.listener = Listener(
            lambda *heard: self.heard.append(heard), lambda call, request: self.heard.append((call, request, None))
        )  # fmt: skip
        self.decider.watch.tell(lambda roll: None)
        self.dispatcher = Dispatcher(self.fleet, self.decider, self.env)

    def serve(self, outcome: Outcome = SERVED, **changes: Any) -> Job:
        self.clock.advance(1.0)
        job = Job(request(**changes), self.clock.now_s, self.clock.wall_s)
        self.dispatcher.on_request(job)
        if job.worker is not None:
            self.dispatcher.on_outcome(job, outcome)
        return job


def replayer(source: bytes | None, strategy: str = "least-request") -> Replayer:
    return Replayer(lambda made: None if source is None else Script(source, SCRIPT, made), Routing(strategy=strategy))


def told(decision: Decision | RouterError | None) -> tuple[object, ...]:
    if isinstance(decision, Decision):
        return decision.worker and decision.worker.id, decision.action, decision.by, decision.reason
    return (type(decision).__name__,)


def again(by: Replayer, live: Live) -> list[tuple[tuple[object, ...], tuple[object, ...]]]:
    """(as it was, as it is now) of each decision."""
    pairs = []
    for what, asked, decision in live.heard:
        if isinstance(what, Call):
            by.call(what, asked)
            continue
        now = outcome_of(by, what, asked)
        pairs.append((told(decision) if decision is not None else ("RouterError",), told(now)))
    return pairs


@pytest.mark.parametrize(("source", "strategy"), [(None, "least-request"), (None, "round-robin"), (COUNTING, "round-robin")])
def test_a_second_decider_that_hears_of_everything_decides_alike(source: bytes | None, strategy: str) -> None:
    live = Live(source, strategy)
    for number in range(120):
        live.serve(Outcome(FAILURES["upstream_disconnected"]) if number % 5 == 0 else SERVED, id=f"r-{number}")
        live.fleet.tick(live.clock.now_s)
        if number == 50:
            down(live.fleet, "w2")
    live.serve(model="gpt")
    pairs = again(replayer(source, strategy), live)
    assert len(pairs) == 121 and [was for was, now in pairs if was != now] == []
    assert pairs[-1][1] in (("RouterError",), (None, "reject", "strategy", pairs[-1][1][-1]))
    assert len({was for was, _ in pairs}) > 2, "they are not all the same"


def test_another_script_decides_otherwise_where_it_says_so_and_nowhere_else() -> None:
    live = Live(lua("return workers[1]"))
    for number in range(10):
        live.serve(stream=number % 2 == 0)
    pairs = again(replayer(lua("if request.stream then return workers[2] end\nreturn workers[1]")), live)
    assert [now[0] for _, now in pairs] == ["w2", "w1"] * 5


def test_what_was_seen_belongs_to_its_job_and_is_never_changed() -> None:
    live = Live(None, "round-robin")
    job = live.serve()
    assert job.seen is not None
    before = (job.seen.n, job.seen.turns, list(job.seen.packed), job.seen.owed)
    by = replayer(None, "round-robin")
    by.decide(job.seen, job.request)
    by.decide(job.seen, job.request)
    assert (job.seen.n, job.seen.turns, job.seen.packed, job.seen.owed) == before


def test_who_begins_late_goes_on_from_the_next_whole_list() -> None:
    live = Live(None)
    for _ in range(5):
        live.serve()
    live.heard.clear()
    live.decider.watch.tell_all()
    for _ in range(5):
        live.serve()
    assert [was for was, now in again(replayer(None), live) if was != now] == []


def test_a_new_run_begins_with_a_fresh_script_and_its_own_chance() -> None:
    body = lua("return nil, tostring(state:incr('n')) .. ' ' .. math.random(1000000)")
    first, second = Live(body), Live(body)
    second.decider.watch.run, second.env.chance.base = "another", 18  # type: ignore[union-attr]
    for live in (first, second):
        live.serve()
    by = replayer(body)
    assert [was == now for was, now in again(by, first) + again(by, second)] == [True, True]


def test_a_script_that_was_taken_out_of_service_can_be_put_back() -> None:
    live = Live(None)
    live.serve()
    by = Replayer(lambda made: Script(lua("return workers.x.y"), SCRIPT, made), Routing(script_faults=1))
    again(by, live)
    assert by.decider.script is None
    by.reinstate()
    assert by.decider.script is by.script is not None


def test_the_time_that_a_script_is_told_is_whole_milliseconds() -> None:
    live = Live(lua("return nil, string.format('%.6f', timestamp():epoch())"))
    live.clock.wall_s = WALL + 0.0007
    live.serve()
    decision = live.heard[0][2]
    assert decision is not None and decision.reason.startswith(f"routing.lua:2: {WALL + 1:.6f}")
