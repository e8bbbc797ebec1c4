"""What a decision makes of rich answers, of on_failure and on_complete, and of a script that only fails (decide.py)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.core.dispatch import Job
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import REJECT, SEND, WAIT, Attempt, Decision, Patience
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Abilities, Limits
from tests.support import lua_fuzz
from tests.support.builders import down, env, fill, fleet, job, lua, quick, request, script, worker

REFUSED = FAILURES["upstream_connect_failed"]
ABLE = Abilities(set_headers=("x-route",))


def decider(made: Fleet, source: str | bytes, *, limits: Limits | None = None, **faults: Any) -> Decider:
    return Decider(made, script(source, abilities=ABLE, limits=limits), "least-request", env(), **faults)


def hook(body: str, route: str = "return workers[1]") -> bytes:
    return lua(route) + f"function on_failure(request, attempt, workers)\n{body}\nend\n".encode()


def failing(both: Decider, *, tried: int = 0, **changes: Any) -> tuple[Job, Decision | None]:
    """A job that was decided and has failed on its worker, and `tried` times more; what comes then."""
    one = job(**changes)
    one.decision = both.decide(one.request)
    another = None
    for _ in range(tried + 1):
        now = another or one.decision
        assert now.worker is not None
        one.tried.append(now.worker.id)
        one.attempts.append(Attempt(now.worker.id, REFUSED.code, 12.5))
        another = both.another(one, REFUSED)
    return one, another


def ids(decision: Decision | None) -> list[str]:
    assert decision is not None and decision.worker is not None
    return [decision.worker.id, *(one.id for one in decision.then or ())]


# Lists.


def test_the_first_of_a_list_that_has_room_gets_the_request_and_the_others_follow() -> None:
    made = fleet("w1", "w2", "w3", "w4")
    down(made, "w3")
    fill(made, "w4", 4)
    decision = decider(made, "return { 'w3', 'w4', 'w2' }").decide(request())
    assert (ids(decision), decision.by, decision.error) == (["w2", "w4"], "script", None)


def test_when_none_of_a_list_has_room_the_request_waits_for_the_first_that_is_not_offline() -> None:
    made = fleet("w1", "w2", "w3", "w4")
    down(made, "w3")
    for name in ("w2", "w4"):
        fill(made, name, 4)
    decision = decider(made, "return { 'w3', 'w4', 'w2' }").decide(request())
    assert (ids(decision), decision.action, decision.error) == (["w4", "w2"], WAIT, None)


def test_after_a_failure_the_list_is_followed_to_its_end_and_not_beyond() -> None:
    both = decider(fleet("w1", "w2", "w3", "w4"), "return { 'w3', 'w1', 'w3', 'w2' }")
    followed = [failing(both, tried=count)[1] for count in range(3)]
    assert [decision and decision.worker and decision.worker.id for decision in followed] == ["w1", "w2", None]
    assert followed[0] is not None
    assert (followed[0].by, followed[0].reason) == ("failover", "next in the script's list after w3 failed")


def test_of_a_list_those_that_are_offline_by_now_are_left_out() -> None:
    made = fleet()
    both = decider(made, "return { 'w1', 'w2', 'w3' }")
    one = job()
    one.decision = both.decide(one.request)
    one.tried, one.attempts = ["w1"], [Attempt("w1", REFUSED.code, 1.0)]
    down(made, "w2")
    assert ids(both.another(one, REFUSED)) == ["w3"]
    made.configure([worker("w1", models=("m",))])
    assert both.another(one, REFUSED) is None


def test_the_model_and_headers_of_an_answer_are_kept() -> None:
    made = fleet(worker("w1", models=("m",)), worker("w2", models=("tiny",)))
    decision = decider(made, "return { worker = workers, model = 'tiny', headers = { ['x-route'] = 'a' } }").decide(request())
    assert (decision.model, decision.headers, ids(decision)) == ("tiny", (("x-route", "a"),), ["w1", "w2"])


def test_a_table_without_a_worker_sends_the_model_to_whom_the_strategy_finds() -> None:
    made = fleet(worker("w1", models=("m",)), worker("w2", models=("tiny",)))
    decision = decider(made, "return { model = 'tiny', headers = { ['x-route'] = 'a' }, reason = 'small' }").decide(request())
    assert (ids(decision), decision.by, decision.model, decision.headers, decision.reason) == (
        ["w2"], "strategy", "tiny", (("x-route", "a"),), "routing.lua:2: small",
    )  # fmt: skip


def test_a_reason_stands_behind_the_line() -> None:
    assert decider(fleet(), "return workers[1], 'cheapest'").decide(request()).reason == "routing.lua:2: cheapest"


# reject, queue.


def test_a_rejected_request_is_told_why() -> None:
    decision = decider(fleet(), "log('x') return reject { status = 429, message = 'slow', retry_after = 2.5 }, 'quota'").decide(request())
    assert (decision.action, decision.worker, decision.reason, decision.log) == (REJECT, None, "routing.lua:2: quota", ("x",))
    refusal = decision.refusal
    assert refusal is not None
    assert (refusal.failure.status, refusal.failure.code, refusal.message, refusal.failure.retry_after) == (429, "script_rejected", "slow", 3)


def test_a_rejection_without_words_has_some() -> None:
    refusal = decider(fleet(), "return reject {}").decide(request()).refusal
    assert refusal is not None and (refusal.failure.status, refusal.message) == (403, "the routing script rejected this request")


@pytest.mark.parametrize(
    ("answer", "priority", "patience", "named"),
    [
        ("queue()", None, Patience(None, 0), None), ("queue()", "high", Patience(None, 1), None), ("queue()", "LOW", Patience(None, -1), None),
        ("queue()", 7, Patience(None, 7), None), ("queue()", 10**6, Patience(None, 1000), None), ("queue()", "odd", Patience(None, 0), None),
        ("queue(nil, { priority = 5 })", "high", Patience(None, 5), None), ("queue('w2', { timeout_s = 3 })", None, Patience(3.0, 0), "w2"),
    ],
)  # fmt: skip
def test_a_request_may_wait(answer: str, priority: str | int | None, patience: Patience, named: str | None) -> None:
    decision = decider(fleet(), f"return {answer}").decide(request(priority=priority))
    assert (decision.action, decision.patience) == (WAIT, patience)
    assert (decision.worker.id if decision.worker else None) == named


def test_a_request_for_a_model_of_nobody_does_not_wait() -> None:
    decision = decider(fleet(), "log('asked') return queue()").decide(request(model="gpt-4"))
    assert (decision.action, decision.by, decision.log) == (REJECT, "script", ("asked",))
    assert decision.refusal is not None and decision.refusal.failure.code == "model_not_found"


# on_failure.


def test_on_failure_chooses_the_next_worker() -> None:
    _, decision = failing(decider(fleet(), hook("log('again') return workers[3], 'the spare one'")))
    assert decision is not None
    assert (ids(decision), decision.by, decision.reason, decision.log) == (
        ["w3"], "failover", "on_failure routing.lua:5: the spare one", ("again",),
    )  # fmt: skip


def test_on_failure_is_told_what_happened() -> None:
    body = "log(attempt.worker_id, attempt.error, attempt.duration_ms, attempt.number, attempt.tried[1], #attempt.tried)"
    _, decision = failing(decider(fleet(), hook(body)), tried=1)
    assert decision is not None and decision.log[0].split()[1:4] == ["upstream_connect_failed", "12.5", "2"]
    assert decision.log[0].split()[4:] == ["w1", "2"]


@pytest.mark.parametrize(("field", "near"), [("wroker_id", "worker_id"), ("errror", "error"), ("nothing_near", None)])
def test_an_unknown_field_of_an_attempt_raises(field: str, near: str | None) -> None:
    _, decision = failing(decider(fleet(), hook(f"local x = attempt.{field}")))
    assert decision is not None and decision.error is not None
    told = f"routing.lua:5: an attempt has no field '{field}'" + (f"; did you mean '{near}'?" if near else "")
    assert decision.error.startswith(told)


def test_on_failure_may_give_up() -> None:
    assert failing(decider(fleet(), hook("return false")))[1] is None


def test_on_failure_may_answer_in_words_of_its_own() -> None:
    _, decision = failing(decider(fleet(), hook("return reject { status = 503, message = 'all gone' }")))
    assert decision is not None and decision.action == REJECT and decision.refusal is not None
    assert (decision.refusal.failure.status, decision.refusal.message) == (503, "all gone")


@pytest.mark.parametrize("body", ["return nil", "", "return workers:filter(function() end)", "return 'w1' == attempt.worker_id and nil"])
def test_on_failure_that_says_nothing_leaves_it_to_the_list_or_the_strategy(body: str) -> None:
    assert ids(failing(decider(fleet(), hook(body, "return { 'w1', 'w3' }")))[1]) == ["w3"]
    _, decision = failing(decider(fleet("w1", "w2"), hook(body)))
    assert decision is not None and (ids(decision), decision.reason) == (["w2"], "least-request after w1 failed")


def test_on_failure_that_names_only_workers_that_are_offline_leaves_it_to_the_strategy() -> None:
    made = fleet()
    down(made, "w3")
    assert ids(failing(decider(made, hook("return workers[3]")))[1]) == ["w2"]


def test_a_list_of_on_failure_takes_the_place_of_the_first() -> None:
    _, decision = failing(decider(fleet("w1", "w2", "w3", "w4"), hook("return { 'w4', 'w2' }", "return { 'w1', 'w3' }")))
    assert ids(decision) == ["w4", "w2"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("error('lost')", "routing.lua:5: lost"), ("return 5", "routing.lua:5: route_request returned a number"),
        ("while true do end", "routing.lua:5: budget exceeded"), ("local s = 'x' while true do s = s .. s end", "routing.lua: not enough memory"),
        ("local x = attempt.nothing.x", "routing.lua:5: an attempt has no field 'nothing'"),
    ],
)  # fmt: skip
def test_a_fault_in_on_failure_is_told_and_the_strategy_goes_on(body: str, error: str) -> None:
    both = decider(fleet("w1", "w2"), hook(body))
    for _ in range(3):
        _, decision = failing(both)
        assert decision is not None and decision.error is not None
        assert (ids(decision), decision.error.startswith(error)) == (["w2"], True), decision.error


# on_complete.


def completing(both: Decider, **changes: Any) -> Job:
    one = job(**changes)
    one.decision = both.decide(one.request)
    one.tried, one.attempts = ["w1"], [Attempt("w1", "ok", 20.0)]
    one.state, one.status, one.finished, one.tokens_out = "done", 200, one.arrived + 0.5, 16
    both.completed(one)
    return one


def complete(body: str) -> bytes:
    return lua("return workers[1]") + f"function on_complete(request, outcome)\n{body}\nend\n".encode()


def test_on_complete_is_told_how_it_ended() -> None:
    fields = ("worker_id", "ok", "status", "outcome", "error", "ttft_ms", "total_ms", "tokens_in", "tokens_out", "attempts")
    body = "log(request.model, " + ", ".join(f"outcome.{name}" for name in fields) + ")"
    one = completing(decider(fleet(), complete(body)))
    assert one.decision is not None and one.decision.log == ("m w1 true 200 done nil nil 500.0 nil 16 1",)


def test_on_complete_may_keep_what_it_learns_for_the_next_decision() -> None:
    source = lua("return workers[state:get('best', 1)]") + b"function on_complete(r, outcome) state:set('best', 3) end"
    both = decider(fleet(), source)
    completing(both)
    assert ids(both.decide(request())) == ["w3"]


@pytest.mark.parametrize(
    ("body", "error"),
    [("error('x')", "routing.lua:5: x"), ("while true do end", "routing.lua:5: budget exceeded"),
     ("local t = {} for i = 1, 1e9 do t[i] = { i } end", "routing.lua"), ("local x = outcome.statsu", "routing.lua:5: an outcome has no field 'statsu'")],
)  # fmt: skip
def test_a_fault_in_on_complete_is_noted_and_costs_nothing_else(body: str, error: str) -> None:
    both = decider(fleet(), complete(body))
    for _ in range(3):
        one = completing(both)
        assert one.decision is not None and (one.decision.error or "").startswith(error)
        assert ids(one.decision) == ["w1"]


def test_what_on_complete_answers_does_not_matter() -> None:
    decision = completing(decider(fleet(), complete("return 'w3', {}, 5"))).decision
    assert decision is not None and (ids(decision), decision.error, decision.log) == (["w1"], None, ())


def test_a_hook_stands_under_the_same_budget_as_a_decision() -> None:
    limits = Limits(instructions=20_000, cpu_s=5.0)
    one = completing(decider(fleet(), complete("for i = 1, 1e6 do end"), limits=limits))
    assert one.decision is not None and "budget exceeded" in (one.decision.error or "")
    one = completing(decider(fleet(), complete("for i = 1, 1000 do end"), limits=limits))
    assert one.decision is not None and one.decision.error is None


# A script that only fails.

BROKEN = "if request.stream then local x = workers[1].role.name end return workers[1]"


def test_a_script_that_fails_too_often_in_a_row_is_taken_out_of_service() -> None:
    both = decider(fleet(), BROKEN, faults=3)
    broken = both.script
    for _ in range(2):
        assert both.decide(request(stream=True)).by == "fallback"
        assert both.suspended is None
    assert both.decide(request(stream=True)).by == "fallback"
    assert both.script is None and both.suspended is not None
    assert both.suspended[0] is broken and "attempt to index a nil value" in both.suspended[1]
    assert both.decide(request()).by == "strategy"


def test_a_decision_that_goes_well_counts_the_faults_from_the_beginning() -> None:
    both = decider(fleet(), BROKEN, faults=3)
    for _ in range(5):
        for stream in (True, True, False):
            both.decide(request(stream=stream))
    assert both.suspended is None


def test_errors_that_the_script_means_do_not_count() -> None:
    both = decider(fleet(), "error('No workers available')", faults=3)
    for _ in range(10):
        assert both.decide(request()).by == "fallback"
    assert both.suspended is None


def test_without_a_number_of_faults_a_script_is_never_taken_out_of_service() -> None:
    both = decider(fleet(), "return 5", faults=0)
    for _ in range(50):
        both.decide(request())
    assert both.suspended is None


@pytest.mark.parametrize("source", ["return 5", "while true do end", "local s = 'x' while true do s = s .. s end", "return workers[1].nothing"])
def test_every_fault_counts(source: str) -> None:
    both = decider(fleet(), source, faults=2)
    for _ in range(2):
        both.decide(request())
    assert both.suspended is not None


def test_the_faults_of_each_function_are_counted_by_themselves() -> None:
    both = decider(fleet(), hook("return 5"), faults=2)
    failing(both)
    assert both.suspended is None
    failing(both)
    assert both.suspended is not None, "that each decision went well does not help"
    both = decider(fleet(), hook("if attempt.number == 1 then return 5 end"), faults=2)
    for _ in range(5):
        failing(both, tried=1)
    assert both.suspended is None, "each row ends with an answer that is right"


def test_the_last_good_script_comes_back_with_the_state_and_the_params() -> None:
    made = fleet()
    good = script("return workers[state:get('n', 1)], param('p', 1, 0, 9) .. ''")
    bad = script("state:set('n', 2) param('p', 1, 0, 9) return 5")
    bad.set_param("p", 7)
    both = Decider(made, bad, "least-request", env(), faults=2, last_good=good)
    for _ in range(2):
        both.decide(request())
    assert both.script is good and both.last_good is None
    decision = both.decide(request())
    assert (ids(decision), decision.reason) == (["w2"], "routing.lua:2: 7")


def test_when_the_last_good_script_fails_as_well_the_strategy_decides() -> None:
    both = Decider(fleet(), script("return 5"), "least-request", env(), faults=2, last_good=script("return 6"))
    for _ in range(4):
        both.decide(request())
    assert both.script is None and both.suspended is not None and "a number" in both.suspended[1]
    assert both.decide(request()).by == "strategy"


# The explained decision is the plain one.


@quick(max_examples=150)
@given(st.integers(0, 10**6), st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=5), st.booleans())
def test_explaining_changes_no_decision(seed: int, loads: list[tuple[int, bool]], stream: bool) -> None:
    source = lua_fuzz.Grammar(random.Random(seed)).program().encode()
    found = []
    for explain in (False, True):
        made = fleet(*(worker(f"w{number}", models=("m",)) for number in range(len(loads))))
        for number, (jobs, up) in enumerate(loads):
            fill(made, f"w{number}", jobs)
            if not up:
                down(made, f"w{number}")
        limits = Limits(instructions=200_000, cpu_s=0.2, memory_bytes=4 << 20)
        try:
            loaded = script(source, abilities=Abilities(set_headers=("x-route",), explain=explain), limits=limits)
            both = Decider(made, loaded, "round-robin", env(), debug=explain)
            decision = both.decide(request(stream=stream))
        except Exception as error:
            found.append((type(error), str(error)))
            continue
        limited = any(word in (decision.error or "") for word in ("budget", "memory"))
        shown = None if limited else (ids(decision) if decision.worker else [], decision.action, decision.reason, decision.error, decision.log)
        found.append((SEND, shown))
    assert found[0] == found[1] or (SEND, None) in found


@pytest.mark.parametrize(
    ("answer", "error"), [("return false", None), ("return request.metadata.zz + 1", "attempt to perform arithmetic")]
)
def test_what_on_failure_said_is_kept_when_nobody_is_tried_after_it(answer: str, error: str | None) -> None:
    source = f"""
function route_request(request, workers) return {{ "w1" }} end
function on_failure(request, attempt, workers)
  log("failed", attempt.worker_id)
  {answer}
end
"""
    one = decider(fleet(), source.encode())
    ended = job()
    ended.decision = one.decide(ended.request)
    ended.tried, ended.attempts = ["w1"], [Attempt("w1", "upstream_connect_failed", 1.0)]
    assert one.another(ended, FAILURES["upstream_connect_failed"]) is None
    assert ended.decision is not None and ended.decision.log == ("failed w1",)
    assert (ended.decision.error is None) == (error is None)
    assert error is None or error in str(ended.decision.error)


def test_the_script_that_comes_back_sees_the_fleet_as_it_is_now() -> None:
    made = fleet()
    good = script("return workers:min_by('load')", abilities=ABLE)
    assert good.route(request(), made).worker is made.workers["w1"]
    both = decider(made, "return request.metadata.nothing.x", faults=2, last_good=good)
    for name in ("w1", "w2"):
        fill(made, name, 2)
        both.decide(request())
    assert both.script is good
    assert both.decide(request()).worker is made.workers["w3"]
