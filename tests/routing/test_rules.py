"""Hard rules: a worker that may not have a request never gets it, whoever chooses and whatever fails."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.sections import Split
from rbeerouter.core.dispatch import Dispatcher, Job, Send
from rbeerouter.core.errors import FAILURES, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import NO_MODELS, Model, Models
from rbeerouter.core.types import REJECT, WAIT, Outcome, Report, Request
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.rules import Rules
from rbeerouter.routing.split import make_split
from tests.support.builders import WALL, Clock, down, env, fill, fleet, quick, request, script, worker

HOUSE = (
    worker("gpu1", models=("m", "n")), worker("gpu2", models=("m",)),
    worker("cloud", models=("m", "n"), deployment="remote"),
)  # fmt: skip
FAILED = FAILURES["upstream_disconnected"]


def decider(
    *models: Model, source: str | None = None, made: Fleet | None = None, split: float | None = None, seed: int = 7,
    **options: Any,
) -> Decider:  # fmt: skip
    registry = Models(models)
    shared = make_split(Split(split) if split is not None else None, registry)
    loaded = script(source, explain=options.get("debug", False)) if source is not None else None
    return Decider(made or fleet(*HOUSE), loaded, "least-request", env(seed=seed), models=registry, split=shared, **options)


def chosen(by: Decider, asked: Request, times: int = 40) -> set[str]:
    """Who gets a request in so many decisions, which ties make differ."""
    decisions = [by.decide(asked) for _ in range(times)]
    return {one.worker.id for one in decisions if one.worker is not None}


def test_only_workers_that_a_model_names_get_its_requests() -> None:
    by = decider(Model("m", workers=("gpu2", "cl*")))
    assert chosen(by, request()) == {"gpu2", "cloud"}
    assert chosen(by, request(model="n")) == {"gpu1", "cloud"}, "the rule is that of one model"


def test_a_model_of_one_side_never_leaves_it_not_even_when_that_is_full_or_down() -> None:
    made = fleet(*HOUSE)
    by = decider(Model("m", deployment="local"), made=made)
    assert chosen(by, request()) == {"gpu1", "gpu2"}
    for name in ("gpu1", "gpu2"):
        fill(made, name, 9)
    assert chosen(by, request()) <= {"gpu1", "gpu2"}
    for name in ("gpu1", "gpu2"):
        down(made, name)
    with pytest.raises(RouterError) as raised:
        by.decide(request())
    assert raised.value.failure.code == "no_healthy_worker"


@pytest.mark.parametrize(("side", "expected"), [("local", {"gpu1", "gpu2"}), ("remote", {"cloud"})])
def test_a_request_can_ask_for_one_side_without_any_rule_in_the_configuration(side: str, expected: set[str]) -> None:
    assert chosen(decider(), request(deployment=side)) == expected


def test_when_nobody_who_serves_a_model_may_have_it_the_client_is_told_which_rule_forbids_it() -> None:
    made = fleet(worker("cloud", models=("m",), deployment="remote"))
    for by, asked, why in (
        (decider(made=made), request(deployment="local"), "the request is for local workers only"),
        (decider(Model("m", deployment="local"), made=made), request(), "the model 'm' is for local workers only"),
        (decider(Model("m", workers=("gpu*", "mac")), made=made), request(), "the model 'm' is for gpu*, mac only"),
    ):
        with pytest.raises(RouterError) as raised:
            by.decide(asked)
        assert raised.value.failure.code == "model_not_found"
        assert raised.value.message == f"the model 'm' does not exist on any worker that may have this request: {why}"


CLOUD = "return workers:filter(function(w) return w.id == 'cloud' end)"


def test_a_script_that_chooses_a_forbidden_worker_is_at_fault_and_the_strategy_decides() -> None:
    by = decider(Model("m", deployment="local"), source=f"{CLOUD}:first()")
    decision = by.decide(request())
    assert decision.worker is not None and decision.worker.id in ("gpu1", "gpu2")
    assert decision.by == "fallback"
    assert decision.error is not None and decision.error.startswith(
        "routing.lua:2: the script chose cloud, which may not have this request: the model 'm' is for local workers only"
    )
    free = by.decide(request(model="n"))
    assert (free.worker.id, free.by) == ("cloud", "script")  # type: ignore[union-attr]


def test_a_list_of_a_script_loses_its_forbidden_workers_as_it_loses_those_that_are_offline() -> None:
    by = decider(Model("m", workers=("gpu*",)), source="return workers:sort_by('id')")
    decision = by.decide(request())
    assert (decision.by, decision.error) == ("script", None)
    assert [decision.worker.id, *(one.id for one in decision.then or ())] == ["gpu1", "gpu2"]  # type: ignore[union-attr]


def test_a_script_can_not_get_around_a_rule_with_another_model_or_by_waiting() -> None:
    for source in (
        "return {worker = workers:filter(function(w) return w.id == 'cloud' end):first(), model = 'n'}",
        "return queue(workers:filter(function(w) return w.id == 'cloud' end):first())",
    ):
        decision = decider(Model("m", deployment="local"), source=source).decide(request())
        assert decision.by == "fallback" and "local workers only" in (decision.error or ""), source
        assert decision.worker is not None and decision.worker.id != "cloud"
    named = decider(Model("n", workers=("gpu1",)), source="return {worker = workers:last(), model = 'n'}").decide(request())
    assert named.by == "fallback" and "'n' is for gpu1 only" in (named.error or ""), "the other model's rule holds, too"


def test_an_on_failure_that_names_a_forbidden_worker_is_at_fault_and_the_strategy_goes_on() -> None:
    made = fleet(*HOUSE)
    source = (
        b"function route_request(request, workers) return 'gpu1' end\n"
        b"function on_failure(request, attempt, workers) return 'cloud' end\n"
    )
    by = decider(Model("m", deployment="local"), made=made)
    by.script = script(source)
    dispatcher = Dispatcher(made, by, env(Clock()))
    job = Job(request(), 100.0, WALL)
    dispatcher.on_request(job)
    effect = dispatcher.on_outcome(job, Outcome(FAILED))
    assert isinstance(effect, Send) and effect.worker.id == "gpu2"
    assert "chose cloud, which may not have this request: the model 'm' is for local workers only" in job.decision.error  # type: ignore


def test_an_alias_in_a_scripts_answer_is_the_model_that_it_stands_for() -> None:
    by = decider(Model("n", aliases=("fast",)), source="return {worker = workers:first(), model = 'fast'}")
    assert by.decide(request()).model == "n"


def test_the_strategy_for_scripts_sees_no_forbidden_worker() -> None:
    made = fleet(*HOUSE)
    for name in ("gpu1", "gpu2"):
        fill(made, name, 3)
    by = decider(Model("m", deployment="local"), source="return strategy('least-request')(request, workers)", made=made)
    by.script = script("return strategy('least-request')(request, workers)")
    assert chosen(by, request()) == {"gpu1", "gpu2"}


def test_who_waits_gets_a_worker_that_may_have_it() -> None:
    made = fleet(*HOUSE)
    for name in ("gpu1", "gpu2"):
        fill(made, name, 4)
    by = decider(made=made, source="return queue()")
    clock = Clock()
    dispatcher = Dispatcher(made, by, env(clock))
    local, anywhere = (Job(request(deployment=side), clock.now_s, WALL) for side in ("local", None))
    dispatcher.on_request(local)
    assert local.state == "waiting"
    effect = dispatcher.on_request(anywhere)
    assert isinstance(effect, Send) and effect.worker.id == "cloud", "who must stay local holds nobody else up"
    assert dispatcher.on_tick(clock.now_s) == []
    made.finished(made.workers["gpu2"], None, clock.now_s)
    ((_, sent),) = dispatcher.on_tick(clock.now_s)
    assert isinstance(sent, Send) and sent.worker.id == "gpu2"


def test_explanations_name_the_rule() -> None:
    by = decider(Model("m", workers=("gpu1",)), debug=True)
    rows = {row["id"]: row for row in by.decide(request()).explanation or ()}
    assert rows["cloud"]["steps"][0]["why"] == "the model 'm' is for gpu1 only"


def test_rules_are_worked_out_again_when_the_list_of_workers_changes() -> None:
    made = fleet(*HOUSE)
    by = decider(Model("m", deployment="local"), made=made)
    assert chosen(by, request()) == {"gpu1", "gpu2"}
    made.configure([HOUSE[0], worker("cloud", models=("m",)), worker("gpu2", models=("m",), deployment="remote")])
    made.apply(Report("cloud", True, None, 0.0))
    assert chosen(by, request()) == {"gpu1", "cloud"}


def test_without_rules_nothing_is_asked() -> None:
    assert not Rules(NO_MODELS).hold_for(fleet(), request())
    assert not Rules(Models([Model("m", price_in=1.0)])).hold_for(fleet(), request())
    assert Rules(Models([Model("m", workers=("a",))])).hold_for(fleet(), request(model="other"))


def test_protocols_are_those_of_the_fleet_that_decides_now_as_a_reload_puts_another_in_place() -> None:
    """A reload builds its decider on a trial fleet that nobody has asked anything yet."""
    both = worker("both", models=("m",), speaks=frozenset({"openai", "ollama"}))
    by = decider(made=fleet(both))
    assert chosen(by, request(protocol="ollama")) == {"both"}
    by.fleet = fleet(both, worker("plain", models=("m",)))
    assert chosen(by, request(protocol="ollama")) == {"both"}


SCRIPTS = (
    None, "return workers:sample()", "return workers", f"{CLOUD}:first()", "return queue()", "return queue(workers:sample())",
    "return {worker = workers:sample(), model = 'n'}", "error('no')",
)


@quick(max_examples=150)
@given(seed=st.integers(0, 2**32), source=st.sampled_from(SCRIPTS))
def test_no_forbidden_worker_gets_a_request_whatever_fleet_rules_script_and_failures_there_are(
    seed: int, source: str | None
) -> None:
    dice = random.Random(seed)
    names = ("a1", "a2", "b1", "b2", "c1")
    made = fleet(
        *(
            worker(name, models=dice.choice([(), ("m",), ("n", "m"), ("n",)]), deployment=dice.choice(["local", "remote"]))
            for name in names
        )
    )
    rules = {
        model: Model(
            model, workers=tuple(dice.sample(["a*", "b1", "c*", "*2"], dice.randrange(3))),
            deployment=dice.choice([None, None, "local", "remote"]),
        )
        for model in ("m", "n")
    }  # fmt: skip
    by = decider(*rules.values(), source=source, made=made, split=dice.choice([None, 0.5]), seed=seed)
    clock = Clock()
    dispatcher = Dispatcher(made, by, env(clock))
    for name in names:
        fill(made, name, dice.choice([0, 0, 4]))
        if dice.random() < 0.2:
            down(made, name)
    for _ in range(6):
        job = Job(request(model=dice.choice("mn"), deployment=dice.choice([None, None, "local"])), clock.now_s, WALL)
        effect = dispatcher.on_request(job)
        while isinstance(effect, Send):
            got, asked = effect.worker, job.request
            assert rules[asked.model].allows(got), (asked.model, got.id, job.decision)
            assert asked.deployment in (None, got.spec.deployment)
            if effect.model in rules:
                assert rules[effect.model].allows(got)
            clock.advance(0.1)
            effect = dispatcher.on_outcome(job, Outcome(FAILED) if dice.random() < 0.7 else Outcome(None, 200, delivered=True))


def test_a_rejected_request_is_not_given_to_anybody() -> None:
    decision = decider(Model("m", workers=("nobody*",)), source="log('x') return nil").decide(request())
    assert (decision.action, decision.worker, decision.refusal.failure.code) == (REJECT, None, "model_not_found")  # type: ignore[union-attr]
    waiting = decider(Model("m", workers=("nobody*",)), source="return queue()").decide(request())
    assert waiting.action == REJECT != WAIT


# Protocols.

OPEN, CLAUDE, LLAMA, TABLES = (
    worker("open", models=("m",)), worker("claude", models=("m",), speaks=frozenset({"openai", "anthropic"})),
    worker("llama", models=("m",), speaks=frozenset({"openai", "anthropic", "ollama"})),
    worker("tables", speaks=frozenset({"data"})),
)  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "able"),
    [
        ("openai", {"open", "claude", "llama"}), ("anthropic", {"open", "claude", "llama"}), ("ollama", {"llama"}),
        ("data", {"tables"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("source", [None, "return workers:sample()", "return workers", "error('no')"])
def test_a_request_goes_only_to_workers_that_it_can_be_put_to(protocol: str, able: set[str], source: str | None) -> None:
    model = "data" if protocol == "data" else "m"
    by = decider(source=source, made=fleet(OPEN, CLAUDE, LLAMA, TABLES))
    assert chosen(by, request(protocol=protocol, model=model)) <= able
    assert source is not None or chosen(by, request(protocol=protocol, model=model)) == able


def test_a_script_that_names_a_worker_of_another_protocol_is_told_so() -> None:
    by = decider(source="return workers:filter(function(w) return w.id == 'open' end)", made=fleet(OPEN, LLAMA))
    decision = by.decide(request(protocol="ollama", path="/api/chat"))
    assert decision.worker is not None and (decision.worker.id, decision.by) == ("llama", "fallback")
    assert "open, which may not have this request: /api/chat is for workers that speak Ollama's API" in str(decision.error)


def test_a_model_that_only_others_serve_does_not_exist_for_a_protocol() -> None:
    with pytest.raises(RouterError) as raised:
        decider(made=fleet(OPEN, TABLES)).decide(request(protocol="ollama", path="/api/chat"))
    assert raised.value.failure.code == "model_not_found"
    assert raised.value.message.endswith("/api/chat is for workers that speak Ollama's API")


def test_what_a_worker_speaks_may_turn_out_later() -> None:
    made = fleet(OPEN, LLAMA)
    by = decider(made=made)
    assert chosen(by, request(protocol="ollama")) == {"llama"}
    made.apply(Report("open", True, None, 0.0, speaks=frozenset({"openai", "ollama"})))
    assert chosen(by, request(protocol="ollama")) == {"llama", "open"}


def test_where_all_workers_speak_alike_nothing_is_asked() -> None:
    made = fleet(OPEN, CLAUDE)
    rules = Rules(NO_MODELS)
    assert not rules.hold_for(made, request()) and not rules.hold_for(made, request(protocol="anthropic"))
    assert rules.hold_for(made, request(protocol="ollama")) and rules.hold_for(made, request(protocol="data"))
