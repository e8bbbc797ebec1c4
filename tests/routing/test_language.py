"""The table of the language says what the sandbox really has: each name is asked of a real script."""

from __future__ import annotations

import pytest

from rbeerouter.core.types import BUSY, DRAINING, OFFLINE, READY
from rbeerouter.routing.language import LANGUAGE
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.strategies import STRATEGIES
from tests.support.builders import FULL_WORKER, ask, fleet, shown

VALUES = {
    "list": "workers", "metadata": "request.metadata", "text": "('a')", "clock": "timestamp()", "state": "state",
}  # fmt: skip
KINDS = {
    "text": {"string"}, "number": {"number"}, "boolean": {"boolean"}, "metadata": {"table"}, "headers": {"table"},
    "texts": {"table"}, "any": {"string", "number"},
}  # fmt: skip
OWNERS = {"request": "request", "worker": "workers[1]"}


def error(expression: str) -> str | None:
    return ask(f"local x = {expression}").error


@pytest.mark.parametrize(("owner", "field"), [(owner, field) for owner in OWNERS for field in LANGUAGE.records[owner]])
def test_each_field_is_there_and_has_its_kind(owner: str, field: str) -> None:
    kind = LANGUAGE.records[owner][field]
    told = shown(f"type({OWNERS[owner]}.{field})", fleet(FULL_WORKER), abilities=Abilities(expose_prompt=True))
    allowed = KINDS[kind.removesuffix("?")] | ({"nil"} if kind.endswith("?") else set())
    assert told in allowed


@pytest.mark.parametrize("owner", OWNERS)
def test_no_other_field_is_there(owner: str) -> None:
    walked = shown(
        f"(function() local t = '' for k in pairs({OWNERS[owner]}) do t = t .. ' ' .. k end return t end)()",
        fleet(FULL_WORKER),
    )
    assert set(walked.split()) <= set(LANGUAGE.records[owner])
    assert "has no field 'colour'" in (error(f"{OWNERS[owner]}.colour") or "")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in VALUES for name in LANGUAGE.methods[kind]])
def test_each_method_is_there(kind: str, name: str) -> None:
    assert shown(f"type({VALUES[kind]}.{name})") == "function"


@pytest.mark.parametrize("kind", ["list", "clock", "state"])
def test_no_other_method_is_there(kind: str) -> None:
    assert "has no 'colour'" in (error(f"{VALUES[kind]}.colour") or "")


@pytest.mark.parametrize("name", LANGUAGE.functions)
def test_each_function_is_there(name: str) -> None:
    assert shown(f"type({name})") == "function"


@pytest.mark.parametrize("library", LANGUAGE.libraries)
def test_each_library_has_these_names_and_no_others(library: str) -> None:
    walked = shown(f"(function() local t = '' for k in pairs({library}) do t = t .. ' ' .. k end return t end)()")
    assert set(walked.split()) == set(LANGUAGE.libraries[library])


@pytest.mark.parametrize("name", sorted(LANGUAGE.unavailable))
def test_each_name_that_is_told_to_be_unavailable_raises(name: str) -> None:
    assert f"'{name}' is not available in routing scripts" in (error(name) or "")


def test_lists_of_text_have_the_methods_of_lists() -> None:
    for name in LANGUAGE.methods["list"]:
        assert shown(f"type(workers[1].models.{name})") == "function"


def test_what_may_be_missing_is_told_to_be_maybe_nil() -> None:
    told = {
        (owner, field)
        for owner in OWNERS
        for field, kind in LANGUAGE.records[owner].items()
        if not kind.endswith("?") and shown(f"type({OWNERS[owner]}.{field})") == "nil"
    }
    assert told == set()


def test_statuses_and_strategies_are_those_of_the_daemon() -> None:
    assert LANGUAGE.statuses == (READY, BUSY, OFFLINE, DRAINING)
    assert LANGUAGE.strategies == tuple(STRATEGIES)


@pytest.mark.parametrize("name", ["queue", "reject"])
def test_the_options_are_those_that_are_taken(name: str) -> None:
    call = {"queue": "queue(nil, {{ {} = 1 }})", "reject": "reject{{ {} = 1 }}"}[name]
    for option in LANGUAGE.options[name]:
        assert "has no option" not in (error(call.format(option)) or "")
    assert "has no option 'colour'" in (error(call.format("colour")) or "")


def test_the_keys_of_an_answer_are_those_that_are_taken() -> None:
    values = {"worker": "workers[1]", "text": "'w1'", "list": "workers", "table": "{}"}
    for key, kinds in LANGUAGE.answer.items():
        for kind in kinds.split("|"):
            assert ask(f"return {{ {key} = {values[kind]} }}").error is None
        assert ask(f"return {{ {key} = true }}").error is not None
    assert "unknown key 'colour'" in (ask("return { worker = 'w1', colour = 1 }").error or "")


def test_the_hooks_are_called_with_these_kinds() -> None:
    assert {name: len(kinds) for name, kinds in LANGUAGE.hooks.items()} == {
        "route_request": 2, "on_complete": 2, "on_failure": 3,
    }  # fmt: skip
    known = {*LANGUAGE.records, "workers"}
    assert {kind for kinds in LANGUAGE.hooks.values() for kind in kinds} <= known
