"""Who says which strategy a request has: model, client, profile, and what is in force; and how names are read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.config.strategies import Names, StrategyError, spelled
from rbeerouter.core.errors import RouterError
from rbeerouter.core.models import Model, Models, Profile
from rbeerouter.core.types import WAIT, Patience, Request, Wishes, Worker
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.selection import chosen_name, profile_of
from rbeerouter.routing.strategies import NAMES
from rbeerouter.routing.strategies.base import Hold, Strategy
from tests.support.builders import context, env, fill, fleet, job, quick, request, script

SOME = Names(
    ("random", "least-request", "least-latency", "prefix-cache", "slo-least-load", "slo"),
    {"least-connections": "least-request"}, {"pd": "comes later"},
    frozenset(("least-request", "least-latency", "prefix-cache")),
)  # fmt: skip


def wishing(**wishes: Any) -> Request:
    sizes = {name: wishes.pop(name) for name in ("prompt_tokens", "max_tokens") if name in wishes}
    return request(wishes=Wishes(**wishes), **sizes)


# Names and lists


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("random", (("random", 1),)), ("Least_Request", (("least-request", 1),)),
        ("least_connections", (("least-request", 1),)), (" random ", (("random", 1),)),
        ("least-request:2,prefix-cache:1", (("least-request", 2), ("prefix-cache", 1))),
        ("least_request , PREFIX_CACHE : 3", (("least-request", 1), ("prefix-cache", 3))),
        ("least-request:0,prefix-cache", (("prefix-cache", 1),)), ("random:7", (("random", 1),)),
        ("random:0,least-request:4", (("least-request", 1),)),
        ("least-request,least-connections:2,least-latency", (("least-request", 3), ("least-latency", 1))),
        ("least-request:9,slo-least-load:1,slo:5", (("slo-least-load", 1),)),
        ("least-request:1000000,prefix-cache:1", (("least-request", 1_000_000), ("prefix-cache", 1))),
    ],
)  # fmt: skip
def test_a_name_or_a_list_is_read_in_any_spelling(text: str, parts: tuple[tuple[str, int], ...]) -> None:
    assert SOME.read(text) == parts
    assert SOME.read(spelled(parts)) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "least-requests",
            "'least-requests': did you mean 'least-request'? expected one of random, least-request, least-latency, "
            "prefix-cache, slo-least-load, slo",
        ),
        ("", "'': expected one of random, least-request, least-latency, prefix-cache, slo-least-load, slo"),
        ("PD", "'PD': comes later"),
        ("least-request,pd:2", "'pd': comes later"),
        ("least-request:-1", "'least-request:-1': the weight '-1': expected a whole number from 0 to 1000000"),
        ("least-request:1.5", "'least-request:1.5': the weight '1.5': expected a whole number from 0 to 1000000"),
        ("least-request:1000001,slo", "'least-request:1000001': the weight '1000001': expected a whole number from 0 to "
         "1000000"),
        ("least-request:", "'least-request:': the weight '': expected a whole number from 0 to 1000000"),
        ("least-request,,random", "'': expected NAME:WEIGHT, such as least-request:2,prefix-cache:1"),
        ("random:0", "'random:0': every weight is 0; expected at least one strategy"),
        (
            "random:2,least-request",
            "'random:2,least-request': random gives no scores, and cannot be part of a list; those that can: "
            "least-request, least-latency, prefix-cache",
        ),
        ("random," * 200, "a list of 1400 characters: expected at most 1000"),
    ],
)  # fmt: skip
def test_a_name_or_a_list_that_makes_no_sense_is_refused_with_what_was_expected(text: str, message: str) -> None:
    with pytest.raises(StrategyError) as caught:
        SOME.read(text)
    assert str(caught.value) == message


@quick()
@given(st.text(max_size=40))
def test_whatever_a_client_writes_is_a_strategy_or_refused_in_words(text: str) -> None:
    try:
        parts = NAMES.read(text)
    except StrategyError as error:
        assert len(str(error)) > 10
    else:
        assert parts and all(name in NAMES.known and weight > 0 for name, weight in parts)


# Precedence

PROFILED = Model("m", profiles=(Profile("default", "least-request"), Profile("short", "round-robin")))
LOCKED = Model("m", locked_strategy="least-request", profiles=PROFILED.profiles)


@pytest.mark.parametrize(
    ("model", "wishes", "header", "chosen"),
    [
        (LOCKED, {"strategy": "round-robin", "profile": "short"}, True, "least-request"),
        (PROFILED, {"strategy": "random", "profile": "short"}, True, "random"),
        (PROFILED, {"strategy": "random", "profile": "short"}, False, "round-robin"),
        (PROFILED, {"profile": "short"}, True, "round-robin"),
        (PROFILED, {"profile": "unknown"}, True, "least-request"),
        (PROFILED, {"session_key": "s"}, True, "least-request"),
        (Model("m", default_profile="short", profiles=PROFILED.profiles), {}, True, "round-robin"),
        (Model("m", profiles=(Profile("other", "random"),)), {}, True, None),
        (Model("m"), {"profile": "short"}, True, None), (None, {"strategy": "random"}, True, "random"),
        (None, {}, True, None),
    ],
)  # fmt: skip
def test_model_goes_before_client_and_client_before_profile(
    model: Model | None, wishes: dict[str, str], header: bool, chosen: str | None
) -> None:
    asked = wishing(**wishes) if wishes else request()
    assert chosen_name(asked, model, header) == chosen


SIZES = (
    Profile("default"), Profile("long", prompt_tokens_gte=1000), Profile("longer", prompt_tokens_gte=4000),
    Profile("middle", prompt_tokens_gte=1000, prompt_tokens_lt=2000),
    Profile("close", prompt_tokens_gte=1000, prompt_tokens_lt=1500),
    Profile("talk", max_tokens_gte=100), Profile("chat", max_tokens_gte=200, max_tokens_lt=900),
    Profile("brief", max_tokens_gte=200, max_tokens_lt=300), Profile("brief2", max_tokens_gte=200, max_tokens_lt=300),
)  # fmt: skip


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "name"),
    [
        (10, None, "default"), (None, None, "default"), (5000, None, "longer"), (1999, None, "middle"),
        (1499, None, "close"), (1000, 250, "close"), (10, 100, "talk"), (10, 250, "brief"), (10, 899, "chat"),
        (10, 900, "talk"), (10, 99, "default"), (2000, 250, "brief"), (3000, 150, "long"),
    ],
)  # fmt: skip
def test_auto_finds_the_most_special_profile_whose_sizes_all_hold(
    prompt_tokens: int | None, max_tokens: int | None, name: str
) -> None:
    asked = wishing(profile="auto", prompt_tokens=prompt_tokens, max_tokens=max_tokens)
    found = profile_of(asked, Model("m", profiles=SIZES))
    assert found is not None and found.name == name


# In the decider


def decider(models: Models | None = None, strategy: str = "least-request", **options: Any) -> Decider:
    return Decider(fleet(), None, strategy, env(), models=models or Models(), **options)


def test_a_clients_strategy_decides_and_is_named() -> None:
    decision = decider().decide(wishing(strategy="Round_Robin"))
    assert (decision.strategy, decision.reason, decision.told) == ("round-robin", "round-robin", ())


def test_an_unknown_strategy_of_a_client_is_refused_with_the_names_even_where_a_script_decides() -> None:
    for one in (decider(), Decider(fleet(), script("return workers[1]"), "least-request", env())):
        with pytest.raises(RouterError) as caught:
            one.decide(wishing(strategy="fastest"))
        assert (caught.value.failure.code, caught.value.failure.status) == ("invalid_header", 400)
        assert caught.value.message.startswith("routing-strategy: 'fastest': ")
        assert all(name in caught.value.message for name in NAMES.known)


def test_where_clients_may_not_choose_their_header_is_as_if_it_were_not_there() -> None:
    assert decider(header=False).decide(wishing(strategy="fastest")).strategy == "least-request"


def test_the_profile_is_told_to_the_client() -> None:
    decision = decider(Models([PROFILED])).decide(wishing(profile="short"))
    assert (decision.strategy, decision.told) == ("round-robin", (("x-rbee-profile", "short"),))


def test_a_locked_model_takes_no_notice_of_the_header_nor_of_its_faults() -> None:
    assert decider(Models([LOCKED])).decide(wishing(strategy="fastest")).strategy == "least-request"


def test_what_clients_write_is_kept_within_bounds_and_lists_that_mean_the_same_are_one() -> None:
    one = decider()
    for number in range(1, 2000):
        one.decide(wishing(strategy=f"least-request:{number}"))
    assert len(one.panel._lists) <= 256


def test_a_reload_goes_on_with_what_clients_have_asked_for_but_not_with_what_is_no_longer_in_force() -> None:
    old, new = decider(), decider()
    old.use("weighted", "runtime")
    old.use("least-request")
    old.decide(wishing(strategy="round-robin"))
    new.succeed(old)
    assert new.panel.by_name.keys() == {"least-request", "round-robin"}
    assert new.panel.by_name["round-robin"].state() == old.panel.by_name["round-robin"].state()


def test_a_script_may_ask_a_list_or_an_alias() -> None:
    one = decider()
    for busy in ("w1", "w2"):
        fill(one.fleet, busy, 1)
    for name in ("least_request : 2 , least-kv-cache", "Least_Connections"):
        one.script = script(f"return strategy('{name}')(request, workers)")
        decision = one.decide(request())
        assert (decision.error, decision.by, decision.worker and decision.worker.id) == (None, "script", "w3")


# Fallbacks and waiting


class Scripted(Strategy):
    """A strategy that gives what a test says, and notes that it was asked."""

    def __init__(self, name: str, gives: Worker | Hold | None, asked: list[str]) -> None:
        super().__init__(context())
        self.name = name  # type: ignore[misc]
        self.gives, self.asked = gives, asked

    def choose(self, request: Request, workers: list[Worker]) -> Worker | Hold | None:
        self.asked.append(self.name)
        return self.gives

    def headers(self, worker: Worker) -> tuple[tuple[str, str], ...]:
        return (("x-of", self.name),)


def chained(*gives: str | Hold | None) -> tuple[Decider, list[str]]:
    """A decider whose strategies, named 0 and so on, give these; and whom it has asked."""
    one, asked = decider(), list[str]()
    made = [
        Scripted(str(at), one.fleet.workers[what] if isinstance(what, str) else what, asked) for at, what in enumerate(gives)
    ]
    one.panel.strategy, one.panel.fallback = made[0], tuple(made[1:])
    return one, asked


@pytest.mark.parametrize(
    ("gives", "asked", "worker", "reason"),
    [
        (("w2", "w3"), ["0"], "w2", "0"),
        ((None, "w3", "w1"), ["0", "1"], "w3", "1, as 0 knows too little"),
        ((None, None, "w1"), ["0", "1", "2"], "w1", "2, as 0 knows too little"),
    ],
)
def test_each_fallback_is_asked_where_the_one_before_knows_too_little(
    gives: tuple[str | None, ...], asked: list[str], worker: str, reason: str
) -> None:
    one, told = chained(*gives)
    decision = one.decide(request())
    assert (told, decision.worker and decision.worker.id, decision.reason) == (asked, worker, reason)
    assert decision.strategy == asked[-1]


def test_where_no_fallback_knows_anything_the_least_loaded_is_taken_and_nobody_by_chance() -> None:
    one, asked = chained(None, None)
    for busy in ("w1", "w2"):
        fill(one.fleet, busy, 1)
    decisions = [one.decide(request()) for _ in range(20)]
    assert {(decision.worker and decision.worker.id, decision.strategy) for decision in decisions} == {
        ("w3", "least-request")
    }
    assert asked[:2] == ["0", "1"]
    assert decisions[0].reason == "least-request, as 0 knows too little"


def test_a_request_that_a_strategy_holds_goes_with_the_decision_of_whoever_lets_it_go() -> None:
    one, _ = chained(Hold(2.0, 5, "all too slow"), "w3")
    held = one.decide(request())
    assert (held.action, held.worker, held.reason, held.strategy) == (WAIT, None, "0; all too slow", "0")
    assert held.patience == Patience(2.0, 5)
    waits = job()
    waits.decision = held
    assert one.room_for(waits) is None
    one.strategy.gives = one.fleet.workers["w1"]  # type: ignore[attr-defined]
    found = one.room_for(waits)
    assert found is not None and found.worker is not None
    assert (found.worker.id, found.reason, found.strategy, found.told) == ("w1", "0; all too slow", "0", (("x-of", "0"),))
    one.strategy.gives = None  # type: ignore[attr-defined]
    found = one.room_for(waits)
    assert found is not None and found.worker is not None
    assert (found.worker.id, found.reason, found.strategy) == ("w3", "0; all too slow; then 1", "1")
