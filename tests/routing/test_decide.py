"""Script, then strategy, then fallback: who is chosen, by whom, for what reason, and who is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from rbeerouter.core.errors import RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Decision, Request
from rbeerouter.routing.decide import STRATEGIES, Decider, strategy_name
from tests.support.builders import down, env, fill, fleet, request, script, worker


def decider(
    made: Fleet, source: str | None = None, strategy: str = "least-request", *, debug: bool = False, seed: int = 7
) -> Decider:
    """A decider over a fleet; `source` is the body of route_request, None for no script."""
    loaded = None if source is None else script(source, explain=debug, seed=seed)
    return Decider(made, loaded, strategy, env(seed=seed), debug)


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
    assert decider(made).decide(request()) == Decision(made.workers["w2"], "strategy", "least-request")


def test_nil_leaves_the_choice_to_the_strategy() -> None:
    made = one_up(fleet(), "w2")
    assert decider(made, "if request.stream then return workers[1] end\nreturn nil").decide(request()) == Decision(
        made.workers["w2"], "strategy", "least-request; routing.lua:3 returned nil"
    )


def test_a_script_that_ends_without_a_return_leaves_the_choice_too() -> None:
    made = one_up(fleet(), "w2")
    assert decider(made, "local x = 1").decide(request()) == Decision(
        made.workers["w2"], "strategy", "least-request; routing.lua returned nil"
    )


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("\nerror('No workers available')", "routing.lua:3: No workers available"),
        ("local gpu = workers[1].gpu\nreturn gpu.name", "routing.lua:3: attempt to index a nil value (local 'gpu')"),
        ("return 'w9'", "routing.lua:2: route_request returned the unknown worker id 'w9'"),
        ("return 5", "routing.lua:2: route_request returned a number, expected a worker, a worker id or nil"),
        ("\nreturn workers[1]", "routing.lua:3: the script chose w1, which is offline"),
        ("while true do end", "routing.lua:2: budget exceeded"),
    ],
    ids=["raises", "indexes nil", "an unknown id", "a number", "an offline worker", "never ends"],
)
def test_a_script_that_fails_is_replaced_by_the_strategy_and_the_fault_is_told(source: str, error: str) -> None:
    made = one_up(fleet(), "w2")
    assert decider(made, source).decide(request()) == Decision(
        made.workers["w2"], "fallback", "least-request", None, error
    )


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


def test_when_nobody_is_ready_the_busy_ones_queue() -> None:
    made = fleet("w1", "w2", "w3")
    fill(made, "w1", 5)
    fill(made, "w2", 4)
    down(made, "w3")
    assert decider(made).decide(request()).worker.id == "w2"


@pytest.mark.parametrize("source", [None, "return nil", "error('x')"])
def test_a_model_that_no_worker_serves_is_not_found(source: str | None) -> None:
    made = fleet()
    assert refusal(made, request(model="gpt-4"), source) == (
        "model_not_found", "the model 'gpt-4' does not exist on any worker", "model",
    )  # fmt: skip


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
        decision = both.another(request(), tried, "m")
        assert decision is not None and decision.model is None
        assert (decision.by, decision.reason) == ("failover", f"least-request after {tried[-1]} failed")
        tried.append(decision.worker.id)
    assert sorted(tried) == ["w1", "w2", "w3"]
    assert both.another(request(), tried, "m") is None


def test_the_next_worker_is_the_least_loaded_of_those_left() -> None:
    made = fleet()
    fill(made, "w2", 2)
    fill(made, "w3", 1)
    decision = decider(made).another(request(), ["w1"], "m")
    assert decision is not None and decision.worker.id == "w3"


def test_a_busy_worker_takes_over_when_the_ready_ones_were_tried() -> None:
    made = fleet("w1", "w2")
    fill(made, "w2", 4)
    down(made, "w1")
    decision = decider(made).another(request(), ["w1"], "m")
    assert decision is not None and decision.worker.id == "w2"


def test_a_busy_worker_takes_over_also_while_the_failed_one_still_counts_as_ready() -> None:
    made = fleet("w1", "w2")
    fill(made, "w2", 4)
    decision = decider(made).another(request(), ["w1"], "m")
    assert decision is not None and decision.worker.id == "w2"


def test_no_worker_takes_over_that_is_down_or_serves_another_model() -> None:
    made = fleet("w1", "w2", worker("w3", models=("x",)))
    down(made, "w2")
    assert decider(made).another(request(), ["w1"], "m") is None


def test_the_model_that_the_script_chose_is_what_the_next_worker_must_serve() -> None:
    made = fleet("w1", worker("w2", models=("tiny",)), worker("w3", models=("tiny",)))
    assert decider(made).another(request(), ["w2"], "tiny") == Decision(
        made.workers["w3"], "failover", "least-request after w2 failed", "tiny"
    )


# Why not the others.


def test_debug_names_the_line_of_the_filter_that_left_a_worker_out() -> None:
    made = fleet()
    fill(made, "w1", 4)
    fill(made, "w3", 1)
    source = """local ready = workers:filter(function(w)
      return w.status == "ready"
    end)
    local quiet = ready:filter(function(w) return w.load == 0 end)
    return quiet[1]"""
    decision = decider(made, source, debug=True).decide(request())
    assert (decision.worker.id, decision.reason, decision.excluded) == (
        "w2", "routing.lua:6", {"w1": "filter at line 2", "w3": "filter at line 5"},
    )  # fmt: skip


def test_debug_names_the_line_of_the_sort_that_put_another_first() -> None:
    made = fleet()
    fill(made, "w1", 1)
    fill(made, "w2", 2)
    decision = decider(made, "local sorted = workers:sort_by('load')\nreturn sorted[1]", debug=True).decide(request())
    assert decision.excluded == dict.fromkeys(["w1", "w2"], "sort_by at line 2 put worker(w3) first")


@pytest.mark.parametrize("helper", ["min_by", "max_by"])
def test_debug_names_the_line_of_the_min_or_max_that_took_another(helper: str) -> None:
    made = fleet("w1", "w2")
    decision = decider(made, f"local best = workers:{helper}('load')\nreturn best", debug=True).decide(request())
    assert decision.excluded == {"w2": f"{helper} at line 2 took worker(w1)"}


def test_debug_names_the_return_where_nothing_else_excluded_a_worker() -> None:
    made = fleet()
    decision = decider(made, "return workers[2]", debug=True).decide(request())
    assert decision.excluded == dict.fromkeys(["w1", "w3"], "routing.lua:2 returned w2")


def test_debug_forgets_the_reasons_of_the_decision_before() -> None:
    made = fleet()
    source = (
        "if request.stream then return workers:filter(function(w) return w.id == 'w2' end)[1] end return workers[1]"
    )
    both = decider(made, source, debug=True)
    seen = [both.decide(request(stream=stream)).excluded for stream in (True, False)]
    assert seen == [
        dict.fromkeys(["w1", "w3"], "filter at line 2"), dict.fromkeys(["w2", "w3"], "routing.lua:2 returned w1"),
    ]  # fmt: skip


def test_debug_says_why_the_strategy_did_not_take_a_worker() -> None:
    made = fleet("w1", "w2", "w3", "w4", worker("w5", models=("x",)))
    fill(made, "w2", 4)
    down(made, "w3")
    fill(made, "w4", 2)
    assert decider(made, debug=True).decide(request()).excluded == {
        "w2": "busy",
        "w3": "offline",
        "w4": "least-request chose w1 (load 0.50 against 0.00)",
        "w5": "does not serve 'm'",
    }


def test_debug_among_busy_workers_compares_their_loads() -> None:
    made = fleet("w1", "w2")
    fill(made, "w1", 4)
    fill(made, "w2", 6)
    assert decider(made, debug=True).decide(request()).excluded == {
        "w2": "least-request chose w1 (load 1.50 against 1.00)"
    }


def test_without_debug_nothing_is_noted() -> None:
    assert decider(fleet(), "return workers[1]").decide(request()).excluded is None


# Names.


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("least-request", "least-request"), ("LEAST_REQUEST", "least-request"), ("round_robin", "round-robin"),
        ("Round-Robin", "round-robin"), ("random", None), ("", None),
    ],
)  # fmt: skip
def test_a_strategys_name_may_be_spelled_with_either_dash_in_any_case(name: str, found: str | None) -> None:
    assert strategy_name(name) == found


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_spreads_an_idle_fleet_over_all_workers(name: str) -> None:
    both = decider(fleet(), strategy=name)
    assert {both.decide(request()).worker.id for _ in range(60)} == {"w1", "w2", "w3"}
    assert both.decide(request()).reason == name


def test_deciding_changes_no_worker() -> None:
    made = fleet()
    both = decider(made, "return workers[1]")
    for _ in range(5):
        both.decide(request())
    assert [(one.in_flight, one.load, one.served) for one in made.ordered] == [(0, 0.0, 0)] * 3
