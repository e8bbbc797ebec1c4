"""Script, then strategy, then fallback: who is chosen, by whom, for what reason, and who is refused."""

from __future__ import annotations

import gc
import weakref
from base64 import b64encode
from collections import Counter
from typing import Any

import pytest

from rbeerouter.core.errors import FAILURES, Refusal, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import REJECT, WAIT, Attempt, Decision, Patience, Report, Request
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.strategies import STRATEGIES
from tests.support.builders import FULL_WORKER, down, env, fill, fleet, job, request, script, worker

REFUSED = FAILURES["upstream_connect_failed"]


def decider(
    made: Fleet,
    source: str | bytes | None = None,
    strategy: str = "least-request",
    *,
    debug: bool = False,
    seed: int = 7,
    **faults: Any,
) -> Decider:
    """A decider over a fleet; `source` is the body of route_request or a whole file, None for no script."""
    loaded = None if source is None else script(source, explain=debug, seed=seed)
    return Decider(made, loaded, strategy, env(seed=seed), debug, **faults)


def failed(both: Decider, tried: list[str], first: Decision | None = None, **changes: Any) -> Decision | None:
    """What comes after these workers have failed with a request."""
    one = job(**changes)
    one.decision = first or Decision(both.fleet.workers[tried[0]], "script", "routing.lua:2")
    one.tried = list(tried)
    one.attempts = [Attempt(name, REFUSED.code, 12.5) for name in tried]
    return both.another(one, REFUSED)


def without_hint(decision: Decision) -> str | None:
    return None if decision.error is None else decision.error.partition(" (hint: ")[0]


def who(decision: Decision | None) -> str | None:
    return decision.worker.id if decision is not None and decision.worker is not None else None


def one_up(made: Fleet, name: str) -> Fleet:
    """The fleet with all workers but one unreachable, so that the strategy has no choice."""
    for other in made.ordered:
        if other.id != name:
            down(made, other.id)
    return made


def refusal(made: Fleet, asked: Request, source: str | None = None) -> tuple[str, str, str | None]:
    with pytest.raises(RouterError) as raised:
        decider(made, source).decide(asked)
    return raised.value.failure.code, raised.value.message, raised.value.param


EXPECTED = (
    "expected a worker, a worker id, a list of them, nil, queue(...), reject{...} or "
    "{worker = ..., model = ..., headers = ..., reason = ...}"
)

# The script decides.


@pytest.mark.parametrize("answer", ["workers[2]", "'w2'", "workers[2].id"])
def test_the_script_may_name_a_worker_or_its_id(answer: str) -> None:
    made = fleet()
    assert decider(made, f"return {answer}").decide(request()) == Decision(
        made.workers["w2"], "script", "routing.lua:2", None, None, None
    )


def test_a_busy_worker_that_the_script_chose_gets_the_request() -> None:
    made = fleet()
    fill(made, "w3", 9)
    decision = decider(made, "return workers[3]").decide(request())
    assert (decision.worker.id, decision.by, decision.error) == ("w3", "script", None)


def test_the_script_may_choose_a_worker_with_another_model_whose_name_is_then_sent() -> None:
    made = fleet(worker("w1", models=("m",)), worker("w2", models=("tiny", "huge")))
    assert decider(made, "return workers[2]").decide(request()) == Decision(
        made.workers["w2"], "script", "routing.lua:2", "tiny"
    )


@pytest.mark.parametrize("models", [("m",), ("other", "m"), ()])
def test_the_name_of_the_model_is_left_alone_when_the_worker_serves_it(models: tuple[str, ...]) -> None:
    made = fleet(worker("w1", models=models))
    assert decider(made, "return workers[1]").decide(request()).model is None


def test_the_script_may_choose_for_a_model_that_no_worker_serves() -> None:
    made = fleet(worker("w1", models=("tiny",)))
    assert decider(made, "return workers[1]").decide(request(model="gpt-4")).model == "tiny"


# The strategy decides.


def test_without_a_script_the_strategy_chooses() -> None:
    made = one_up(fleet(), "w2")
    assert decider(made).decide(request()) == Decision(
        made.workers["w2"], "strategy", "least-request", strategy="least-request"
    )


def test_nil_leaves_the_choice_to_the_strategy() -> None:
    made = one_up(fleet(), "w2")
    assert decider(made, "if request.stream then return workers[1] end\nreturn nil").decide(request()) == Decision(
        made.workers["w2"], "strategy", "least-request; routing.lua:3 returned nil", strategy="least-request",
    )


def test_a_script_that_ends_without_a_return_leaves_the_choice_too() -> None:
    made = one_up(fleet(), "w2")
    assert decider(made, "local x = 1").decide(request()) == Decision(
        made.workers["w2"], "strategy", "least-request; routing.lua returned nil", strategy="least-request",
    )


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("\nerror('No workers available')", "routing.lua:3: No workers available"),
        ("local role = workers[1].role\nreturn role.name", "routing.lua:3: attempt to index a nil value (local 'role')"),
        ("return 'w9'", f"routing.lua:2: route_request returned the unknown worker id 'w9'; {EXPECTED}"),
        ("return 5", f"routing.lua:2: route_request returned a number; {EXPECTED}"),
        ("return false", "routing.lua:2: route_request returned false, expected a worker, nil or reject{...}"),
        ("return {workers[1], 'w3'}", "routing.lua:2: the script chose w1, w3, which is offline"),
        ("\nreturn workers[1]", "routing.lua:3: the script chose w1, which is offline"),
        ("while true do end", "routing.lua:2: budget exceeded"),
    ],
    ids=[
        "raises", "indexes nil", "an unknown id", "a number", "false", "offline workers", "an offline worker",
        "never ends",
    ],
)
def test_a_script_that_fails_is_replaced_by_the_strategy_and_the_fault_is_told(source: str, error: str) -> None:
    made = one_up(fleet(), "w2")
    decision = decider(made, source).decide(request())
    assert (who(decision), decision.by, decision.reason) == ("w2", "fallback", "least-request")
    assert without_hint(decision) == error


def test_the_decision_after_a_failed_one_is_the_scripts_again() -> None:
    made = fleet()
    both = decider(made, "if request.stream then error('no') end return workers[3]")
    seen = [both.decide(request(stream=stream)) for stream in (True, False)]
    assert [(decision.by, decision.error) for decision in seen] == [
        ("fallback", "routing.lua:2: no"), ("script", None),
    ]  # fmt: skip
    assert seen[1].worker.id == "w3"


# Who is eligible.


def test_the_strategy_sees_only_ready_workers_that_serve_the_model() -> None:
    made = fleet("ready", "busy", "down", worker("other", models=("x",)), worker("any", models=()))
    fill(made, "busy", 4)
    down(made, "down")
    both = decider(made, strategy="round-robin")
    assert Counter(both.decide(request()).worker.id for _ in range(10)) == {"ready": 5, "any": 5}


@pytest.mark.parametrize(("source", "by"), [(None, "strategy"), ("return nil", "strategy"), ("error('no')", "fallback")])
def test_when_nobody_has_room_the_request_waits_for_any_that_serves_its_model(source: str | None, by: str) -> None:
    made = fleet("w1", "w2", "w3")
    fill(made, "w1", 5)
    fill(made, "w2", 4)
    down(made, "w3")
    decision = decider(made, source).decide(request(priority="high"))
    assert (decision.action, decision.worker, decision.by, decision.patience) == (WAIT, None, by, Patience(None, 1))
    assert decision.reason.endswith("no worker has room")


def test_a_request_waits_for_the_busy_worker_that_the_script_named_and_for_no_other() -> None:
    made = fleet("w1", "w2")
    fill(made, "w2", 4)
    decision = decider(made, "return workers[2]").decide(request())
    assert (decision.action, decision.worker.id, decision.by) == (WAIT, "w2", "script")


@pytest.mark.parametrize("source", [None, "return nil"])
def test_a_model_that_no_worker_serves_is_not_found(source: str | None) -> None:
    made = fleet()
    assert refusal(made, request(model="gpt-4"), source) == (
        "model_not_found", "the model 'gpt-4' does not exist on any worker", "model",
    )  # fmt: skip


def test_what_the_script_said_is_not_lost_when_the_strategy_finds_nobody_after_it() -> None:
    decision = decider(fleet(), "log('looked') error('No workers available')").decide(request(model="gpt-4"))
    assert (decision.worker, decision.by, decision.action) == (None, "fallback", REJECT)
    assert (decision.error, decision.log) == ("routing.lua:2: No workers available", ("looked",))
    assert decision.refusal == Refusal(
        FAILURES["model_not_found"], "the model 'gpt-4' does not exist on any worker", "model"
    )


def test_a_long_model_name_is_shortened_in_the_refusal() -> None:
    _, message, _ = refusal(fleet(), request(model="x" * 101))
    assert message == f"the model '{'x' * 100}...' does not exist on any worker"


def test_a_model_whose_workers_are_all_down_is_not_missing() -> None:
    made = fleet("w1", worker("w2", models=("x",)))
    down(made, "w1")
    assert refusal(made, request()) == (
        "no_healthy_worker", "no worker that serves this model can be reached at the moment", None,
    )  # fmt: skip


def test_a_worker_that_was_never_reached_may_have_the_model() -> None:
    made = fleet(worker("w1", models=()), up=False)
    assert refusal(made, request(model="gpt-4"))[0] == "no_healthy_worker"


def test_a_fleet_without_workers_says_so() -> None:
    made = Fleet()
    made.configure([])
    assert refusal(made, request()) == ("no_healthy_worker", "no worker is configured", None)


# Another worker.


def test_the_next_worker_is_never_one_that_was_tried() -> None:
    made = fleet()
    both = decider(made, "return workers[1]")
    tried = [both.decide(request()).worker.id]
    for _ in range(2):
        decision = failed(both, tried)
        assert decision is not None and decision.model is None
        assert (decision.by, decision.reason) == ("failover", f"least-request after {tried[-1]} failed")
        tried.append(decision.worker.id)
    assert sorted(tried) == ["w1", "w2", "w3"]
    assert failed(both, tried) is None


def test_the_next_worker_is_the_least_loaded_of_those_left() -> None:
    made = fleet()
    fill(made, "w2", 2)
    fill(made, "w3", 1)
    decision = failed(decider(made), ["w1"])
    assert decision is not None and decision.worker.id == "w3"


def test_after_a_failure_a_request_waits_when_all_that_are_left_are_busy() -> None:
    made = fleet("w1", "w2")
    fill(made, "w2", 4)
    down(made, "w1")
    decision = failed(decider(made), ["w1"])
    assert decision is not None and (decision.action, decision.worker) == (WAIT, None)


def test_after_a_failure_a_request_waits_for_the_busy_ones_also_while_the_failed_one_still_counts_as_ready() -> None:
    made = fleet("w1", "w2")
    fill(made, "w2", 4)
    decision = failed(decider(made), ["w1"])
    assert decision is not None and (decision.action, decision.by) == (WAIT, "failover")
    assert decision.reason == "no worker has room after w1 failed"


def test_no_worker_takes_over_that_is_down_or_serves_another_model() -> None:
    made = fleet("w1", "w2", worker("w3", models=("x",)))
    down(made, "w2")
    assert failed(decider(made), ["w1"]) is None


def test_the_model_that_the_script_chose_is_what_the_next_worker_must_serve() -> None:
    made = fleet("w1", worker("w2", models=("tiny",)), worker("w3", models=("tiny",)))
    first = Decision(made.workers["w2"], "script", "routing.lua:2", "tiny")
    assert failed(decider(made), ["w2"], first) == Decision(
        made.workers["w3"], "failover", "least-request after w2 failed", "tiny", strategy="least-request",
    )


def test_when_nobody_else_has_the_other_model_those_that_serve_the_one_asked_for_are_next() -> None:
    made = fleet("w1", worker("w2", models=("tiny",)))
    implied = Decision(made.workers["w2"], "script", "routing.lua:2", "tiny")
    assert failed(decider(made), ["w2"], implied) == Decision(
        made.workers["w1"], "failover", "least-request after w2 failed", strategy="least-request",
    )
    named = Decision(made.workers["w2"], "script", "routing.lua:2", "tiny", wanted="tiny")
    assert failed(decider(made), ["w2"], named) is None


def test_each_worker_of_a_list_gets_a_model_of_its_own() -> None:
    made = fleet(worker("w1", models=("a",)), worker("w2", models=("b",)))
    one = decider(made, "return {'w1', 'w2'}")
    first = one.decide(request(model="b"))
    assert (first.worker.id, first.model) == ("w1", "a")
    after = failed(one, ["w1"], first, model="b")
    assert (after.worker.id, after.model) == ("w2", None)


# Why not the others.


def steps(decision: Decision) -> dict[str, list[dict[str, Any]]]:
    """What became of each worker that has something to tell."""
    assert decision.explanation is not None
    return {row["id"]: row["steps"] for row in decision.explanation if "steps" in row}


def chosen(decision: Decision) -> list[str]:
    assert decision.explanation is not None
    return [row["id"] for row in decision.explanation if row.get("chosen")]


def test_debug_tells_each_workers_status_and_load_and_who_was_chosen() -> None:
    made = fleet()
    fill(made, "w1", 1)
    down(made, "w3")
    decision = decider(made, "return workers[2]", debug=True).decide(request())
    assert decision.explanation == [
        {"id": "w1", "status": "ready", "load": 0.25},
        {"id": "w2", "status": "ready", "load": 0.0, "chosen": True},
        {"id": "w3", "status": "offline", "load": 0.0},
    ]


def test_debug_names_the_line_of_the_filter_that_left_a_worker_out_and_what_it_read() -> None:
    made = fleet()
    fill(made, "w1", 4)
    fill(made, "w3", 1)
    source = """local ready = workers:filter(function(w)
      return w.status == "ready"
    end)
    local quiet = ready:filter(function(w) return w.load == 0 end)
    return quiet[1]"""
    decision = decider(made, source, debug=True).decide(request())
    assert (who(decision), decision.reason, chosen(decision)) == ("w2", "routing.lua:6", ["w2"])
    assert steps(decision) == {
        "w1": [{"by": "filter", "line": 2, "read": {"status": "busy"}}],
        "w3": [{"by": "filter", "line": 5, "read": {"load": 0.25}}],
    }


def test_debug_names_the_line_of_the_sort_that_put_another_first() -> None:
    made = fleet()
    fill(made, "w1", 1)
    fill(made, "w2", 2)
    decision = decider(made, "local sorted = workers:sort_by('load')\nreturn sorted[1]", debug=True).decide(request())
    assert steps(decision) == {
        name: [{"by": "sort_by", "line": 2, "taken": "w3", "read": {"load": load}}]
        for name, load in (("w1", 0.25), ("w2", 0.5), ("w3", 0))
    }


def test_debug_tells_the_place_in_a_list_that_was_sorted_whole() -> None:
    made = fleet()
    fill(made, "w1", 1)
    body = "local sorted = workers:sort_by('load')\nlocal last = sorted[3]\nreturn sorted[1]"
    told = steps(decider(made, body, debug=True).decide(request()))
    assert {name: (rows[0]["place"], rows[0]["taken"]) for name, rows in told.items()} == {
        "w2": (1, "w2"), "w3": (2, "w2"), "w1": (3, "w2"),
    }  # fmt: skip


@pytest.mark.parametrize("helper", ["min_by('load')", "max_by('load')", "weighted('capacity')", "pick_by_hash('k')",
                                    "sample()"])  # fmt: skip
def test_debug_names_the_line_of_the_helper_that_took_another(helper: str) -> None:
    made = fleet("w1", "w2")
    decision = decider(made, f"local best = workers:{helper}\nreturn best", debug=True).decide(request())
    name = helper.partition("(")[0]
    assert {worker: [(row["by"], row["line"], row["taken"]) for row in rows] for worker, rows in steps(decision).items()} == {
        worker: [(name, 2, who(decision))] for worker in ("w1", "w2")
    }


def test_debug_tells_of_a_strategy_that_the_script_asked() -> None:
    made = one_up(fleet("w1", "w2"), "w2")
    body = "local one = strategy('least-request')(request, workers)\nreturn one"
    decision = decider(made, body, debug=True).decide(request())
    assert steps(decision) == {
        name: [{"by": 'strategy "least-request"', "line": 2, "taken": "w2"}] for name in ("w1", "w2")
    }


@pytest.mark.parametrize(
    ("condition", "read"),
    [
        ("w.models:contains('x')", {"models:contains(x)": False}),
        ("w.metadata.region == 'us'", {"metadata.region": "eu"}),
        ("w.metadata:get('tier', 0) > 9", {"metadata.tier": 2}),
        ("w.role == 'prefill'", {"role": "nil"}),
        ("w.cost_per_hour < 0.1 and w.status == 'busy'", {"cost_per_hour": 0.75}),
    ],
)
def test_debug_tells_what_a_filter_looked_at(condition: str, read: dict[str, object]) -> None:
    made = fleet(FULL_WORKER)
    decision = decider(made, f"local one = workers:filter(function(w) return {condition} end)[1]", debug=True)
    assert steps(decision.decide(request(model="a")))["gpu-1"][0]["read"] == read


def test_debug_keeps_a_bounded_number_of_steps() -> None:
    body = "for i = 1, 50 do workers:filter(function(w) return w.load > 1 end) end return workers[1]"
    told = steps(decider(fleet(), body, debug=True).decide(request()))
    assert {name: len(rows) for name, rows in told.items()} == {"w1": 16, "w2": 16, "w3": 16}


def test_debug_forgets_the_reasons_of_the_decision_before() -> None:
    made = fleet()
    source = (
        "if request.stream then return workers:filter(function(w) return w.id == 'w2' end)[1] end return workers[1]"
    )
    both = decider(made, source, debug=True)
    seen = [set(steps(both.decide(request(stream=stream)))) for stream in (True, False)]
    assert seen == [{"w1", "w3"}, set()]


def test_debug_says_why_the_strategy_did_not_take_a_worker() -> None:
    made = fleet("w1", "w2", "w3", "w4", worker("w5", models=("x",)))
    fill(made, "w2", 4)
    down(made, "w3")
    fill(made, "w4", 2)
    decision = decider(made, debug=True).decide(request())
    assert chosen(decision) == ["w1"]
    assert steps(decision) == {
        name: [{"by": "least-request", "why": why}]
        for name, why in (
            ("w2", "busy"), ("w3", "offline"), ("w4", "least-request chose w1 (load 0.50 against 0.00)"),
            ("w5", "does not serve 'm'"),
        )
    }  # fmt: skip


def test_debug_among_ready_workers_compares_their_loads() -> None:
    made = fleet("w1", "w2")
    fill(made, "w1", 1)
    fill(made, "w2", 3)
    assert steps(decider(made, debug=True).decide(request())) == {
        "w2": [{"by": "least-request", "why": "least-request chose w1 (load 0.75 against 0.25)"}]
    }


def test_debug_tells_of_every_worker_when_none_has_room() -> None:
    made = fleet("w1", "w2")
    fill(made, "w1", 4)
    fill(made, "w2", 4)
    decision = decider(made, debug=True).decide(request())
    assert [(row["id"], row["status"]) for row in decision.explanation] == [("w1", "busy"), ("w2", "busy")]


def test_debug_tells_both_what_the_script_did_and_what_the_strategy_did() -> None:
    made = one_up(fleet("w1", "w2"), "w2")
    body = "local x = workers:filter(function(w) return w.load > 1 end)[1]\nreturn x"
    told = steps(decider(made, body, debug=True).decide(request()))
    assert [row["by"] for row in told["w1"]] == ["filter", "least-request"]
    assert [row["by"] for row in told["w2"]] == ["filter"]


def test_without_debug_nothing_is_noted() -> None:
    assert decider(fleet(), "return workers[1]").decide(request()).explanation is None


# Names.


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("least-request", "least-request"), ("LEAST_REQUEST", "least-request"), ("round_robin", "round-robin"),
        ("Round-Robin", "round-robin"),
    ],
)  # fmt: skip
def test_a_strategys_name_may_be_spelled_with_either_dash_in_any_case(name: str, found: str) -> None:
    assert Decider(fleet(), None, name, env()).strategy.name == found


GATHERING = {"vtc-basic"}
"""They put users together who got alike, and nobody has anything yet."""


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in GATHERING])
def test_every_strategy_spreads_an_idle_fleet_over_all_workers(name: str) -> None:
    both = decider(fleet(), strategy=name)
    decisions = [both.decide(of_somebody(number)) for number in range(60)]
    assert {decision.worker.id for decision in decisions} == {"w1", "w2", "w3"}
    assert {decision.reason for decision in decisions} <= {name, f"least-request, as {name} knows too little"}


def of_somebody(number: int) -> Request:
    """A request of that session, user and client."""
    return request(session_id=f"session-{number}", user_id=f"user-{number}", client=f"10.0.{number >> 8}.{number & 255}")


def test_deciding_changes_no_worker() -> None:
    made = fleet()
    both = decider(made, "return workers[1]")
    for _ in range(5):
        both.decide(request())
    assert [(one.in_flight, one.load, one.served) for one in made.ordered] == [(0, 0.0, 0)] * 3


@pytest.mark.parametrize("look", ["w.metadata[s .. i]", "w.models:contains(s .. i)"])
def test_what_debug_tells_of_one_decision_is_bounded(look: str) -> None:
    body = f"local s = ('x'):rep(60000) for i = 1, 12 do workers:filter(function(w) local x = {look} end) end return workers[1]"
    decision = decider(fleet(), body, debug=True).decide(request())
    assert len(str(decision.explanation)) < 100_000


# Workers that come back, that are to be left alone, and that drain.


def recovering(weight_at_s: float, number: int = 3, room: int = 100) -> Fleet:
    """Workers with some requests each, of which w0 has been away and came back so many seconds ago."""
    made = fleet(*(worker(f"w{n}", models=("m",), max_concurrency=room) for n in range(number)))
    down(made, "w0")
    for _ in range(made.rules.rise):
        made.apply(Report("w0", True, None, 1.0))
    for n in range(1, number):
        fill(made, f"w{n}", 5)
    made.tick(1.0 + weight_at_s)
    return made


def shares(both: Decider, requests: int = 3000) -> dict[str, float]:
    """What each worker got of so many requests, in fair shares; they end at once."""
    got: Counter[str | None] = Counter(who(both.decide(of_somebody(number))) for number in range(requests))
    return {one.id: got[one.id] * len(both.fleet.ordered) / requests for one in both.fleet.ordered}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("after_s", "least", "most"), [(0.0, 0.05, 0.16), (5.0, 0.18, 0.32), (15.0, 0.45, 0.65)])
def test_a_worker_that_comes_back_gets_its_share_little_by_little(
    strategy: str, after_s: float, least: float, most: float
) -> None:
    assert least < shares(decider(recovering(after_s), strategy=strategy))["w0"] < most


def test_a_client_without_a_session_gets_one_whoever_chose_its_worker() -> None:
    both = decider(fleet(), strategy="session-affinity")
    first = both.decide(request())
    assert (first.strategy, [name for name, _ in first.told]) == ("least-request", ["x-session-id"])
    again = both.decide(request(session_id=first.told[0][1]))
    assert (again.strategy, again.worker, again.told) == ("session-affinity", first.worker, first.told)


def test_a_client_is_told_its_session_also_where_the_script_asked_for_its_worker() -> None:
    source = b"""function route_request(request, workers)
      local chosen = strategy(request.metadata.by)(request, workers)
      if request.metadata.nil_after then return nil end
      if request.metadata.other then return workers[1].id == chosen.id and workers[2] or workers[1] end
      return chosen
    end"""
    asked = decider(fleet(), source)
    first = asked.decide(request(metadata={"by": "session-affinity"}))
    assert first.worker is not None and first.by == "script"
    assert first.told == (("x-session-id", b64encode(first.worker.id.encode()).decode()),)
    listed = asked.decide(request(metadata={"by": "session-affinity:9,least-request"}, session_id=first.told[0][1]))
    assert (listed.worker, listed.told) == (first.worker, first.told)
    for more in ({"by": "least-request"}, {"by": "session-affinity", "other": True},
                 {"by": "session-affinity", "nil_after": True}):
        assert asked.decide(request(metadata=more)).told == ()


def test_who_goes_on_after_a_failure_is_told_its_session_by_the_strategy_that_on_failure_asked() -> None:
    source = b"""function route_request(request, workers) return strategy("session-affinity")(request, workers) end
    function on_failure(request, attempt, workers)
      local left = workers:filter(function(w) return w.id ~= attempt.worker_id end)
      return strategy("session-affinity")(request, left)
    end"""
    asked = decider(fleet(), source)
    first = asked.decide(request(session_id=b64encode(b"w1").decode()))
    another = failed(asked, ["w1"], first)
    assert another is not None and another.worker is not None and another.worker.id != "w1"
    assert another.told == (("x-session-id", b64encode(another.worker.id.encode()).decode()),)


def test_where_the_chosen_strategy_knows_too_little_the_next_keeps_to_that_share_in_its_own_way() -> None:
    """A strategy by load would pass by a worker that counts each request for more than one; it is the chance that counts."""
    both = decider(recovering(5.0), strategy="ip-hash")
    got = Counter(who(both.decide(request())) for _ in range(3000))
    assert 0.18 < got["w0"] * 3 / 3000 < 0.32, got


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("number", [2, 3, 8])
def test_in_its_first_five_seconds_it_gets_less_than_a_quarter_of_its_share(strategy: str, number: int) -> None:
    made = recovering(0.0, number)
    both, got, requests = decider(made, strategy=strategy), 0, 0
    for step in range(50):
        made.tick(1.0 + step / 10)
        for _ in range(40):
            got += who(both.decide(of_somebody(requests))) == "w0"
            requests += 1
    assert 0 < got * number / requests < 0.25


def test_a_script_that_goes_by_load_passes_by_a_worker_that_has_just_come_back() -> None:
    assert who(decider(recovering(0.0), 'return workers:min_by("load")').decide(request())) == "w1"


def test_a_strategy_that_a_script_asks_keeps_to_the_shares_too() -> None:
    script_of = 'return strategy("least-request")(request, workers)'
    assert shares(decider(recovering(5.0), script_of), 600)["w0"] < 0.5


def test_when_all_come_back_together_they_share_as_ever() -> None:
    made = fleet("w1", "w2")
    for name in ("w1", "w2"):
        down(made, name)
        for _ in range(made.rules.rise):
            made.apply(Report(name, True, None, 1.0))
    assert all(0.8 < share < 1.2 for share in shares(decider(made, strategy="round-robin"), 400).values())


def test_a_worker_that_cools_down_gets_nothing_even_when_all_others_are_full() -> None:
    made = fleet("w1", "w2")
    made.cool_down(made.workers["w1"], 7.0, 100.0)
    both = decider(made)
    idle = {who(both.decide(request())) for _ in range(20)}
    fill(made, "w2", 4)
    full = {(decision.action, who(decision)) for decision in (both.decide(request()) for _ in range(20))}
    made.tick(107.0)
    assert (idle, full, who(both.decide(request()))) == ({"w2"}, {(WAIT, None)}, "w1")


def test_requests_wait_for_a_worker_that_cools_down_when_no_other_can_be_had() -> None:
    made = fleet("w1", "w2")
    down(made, "w2")
    made.cool_down(made.workers["w1"], 7.0, 100.0)
    decision = decider(made).decide(request())
    assert (decision.action, decision.worker) == (WAIT, None)


def test_a_draining_worker_gets_nothing_whoever_names_it() -> None:
    made = fleet("w1", "w2")
    made.drain("w1")
    by_strategy = {who(decider(made).decide(request())) for _ in range(5)}
    by_script = decider(made, "return workers[1]").decide(request())
    assert (by_strategy, who(by_script), by_script.by) == ({"w2"}, "w2", "fallback")
    made.drain("w2")
    with pytest.raises(RouterError):
        decider(made).decide(request())


def test_a_script_reads_that_a_worker_drains() -> None:
    made = fleet("w1", "w2")
    made.drain("w1")
    both = decider(made, 'log(workers[1].status) return workers[2]')
    assert both.decide(request()).log == ("draining",)


# What strategies remember.


def test_whose_turn_it_is_outlives_a_reload() -> None:
    made = fleet()
    old = Decider(made, None, "round-robin", env())
    order = [old.decide(request()).worker.id for _ in range(4)]
    new = Decider(made, None, "round-robin", env())
    new.succeed(old)
    order += [new.decide(request()).worker.id for _ in range(5)]
    first = int(order[0][1])
    assert order == [f"w{(first - 1 + step) % 3 + 1}" for step in range(9)]
    assert new.seen is not None and new.seen.turns == {"round-robin": old.strategy.state() + 4}


def test_turns_by_weight_outlive_a_reload_that_changes_nobodys_place() -> None:
    made = fleet(worker("a", models=("m",), weight=5), worker("b", models=("m",)), worker("c", models=("m",)))
    decide, order = Decider(made, None, "weighted", env()), ""
    for _ in range(7):
        order += decide.decide(request()).worker.id
        new = Decider(made, None, "weighted", env())
        new.succeed(decide)
        decide = new
    assert order in ("aabacaa", "aacabaa")


def test_a_decider_is_gone_with_its_last_user_and_its_script_with_it() -> None:
    gc.disable()
    try:
        one = decider(fleet(), "return workers[1]")
        one.decide(request())
        gone = weakref.ref(one), weakref.ref(one.script)
        del one
        assert (gone[0](), gone[1]()) == (None, None)
    finally:
        gc.enable()
