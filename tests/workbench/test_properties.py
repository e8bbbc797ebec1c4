"""The rules that every script must keep to: who breaks them is found, with a small case that shows it again."""

from __future__ import annotations

import pytest

from rbeerouter.config.sections import Config, Routing
from rbeerouter.config.sections import Limits as ConfigLimits
from rbeerouter.core.types import WorkerSpec
from rbeerouter.routing.sandbox import Limits
from rbeerouter.routing.script import ScriptError
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.properties import (
    BUDGET,
    LISTED,
    NO_FAULT,
    SAME,
    Broken,
    Properties,
    check_properties,
)  # fmt: skip
from rbeerouter.workbench.stage import Play, rules_of
from tests.docs.pages import REPOSITORY
from tests.support.builders import lua

ROOMY = Limits(cpu_s=5.0)
"""A busy machine must not spend the budget."""


def check(source: str | bytes, cases: int = 200, seed: int = 1, **options: object) -> Properties:
    whole = source if isinstance(source, bytes) else lua(source)
    play = options.pop("play", Play(ROOMY, rules_of(None).abilities))
    return check_properties(whole, "routing.lua", play, seed=seed, cases=cases, **options)  # type: ignore[arg-type]


def broken(source: str | bytes, **options: object) -> Broken:
    found = check(source, **options)  # type: ignore[arg-type]
    assert not found and len(found.broken) == 1, found.broken
    return found.broken[0]


@pytest.mark.parametrize("path", sorted((REPOSITORY / "docs/examples").glob("*[!t].lua")), ids=lambda path: path.stem)
def test_the_examples_keep_to_the_rules(path: object) -> None:
    source = path.read_bytes()  # type: ignore[attr-defined]
    if path.stem.endswith("_test"):  # type: ignore[attr-defined]
        pytest.skip("a file of tests")
    assert check(source).broken == []


@pytest.mark.parametrize(
    "body",
    [
        "return nil",
        'return workers:filter(function(w) return w.status ~= "offline" end):min_by("load")',
        'error("No workers available")',
        "assert(#workers > 1000, 'too few')",
        "return reject{ status = 400 }",
        "return queue(workers[1])",
        "log(rand()) return nil",
        "state:incr('n') return nil, tostring(state:get('n'))",
    ],
)
def test_what_a_script_may_do_is_no_failure(body: str) -> None:
    assert check(body, cases=64).broken == []


def test_an_error_by_mistake_is_found_with_the_smallest_fleet_and_request() -> None:
    found = broken("local first = workers[1].id return nil")
    assert found.property == NO_FAULT
    assert found.message.startswith("routing.lua:2: attempt to index a nil value")
    assert found.case.splitlines()[1:] == ["fleet{}", 'route{ model = "m" }']


def test_a_mistake_behind_conditions_is_found() -> None:
    found = broken("""
      if request.metadata.tier == "gold" and request.max_tokens == 100 then return request.modle end
    """)
    assert (found.property, found.message.partition(" (")[0]) == (
        NO_FAULT, "routing.lua:3: a request has no field 'modle'; did you mean 'model'?",
    )  # fmt: skip
    assert found.case.splitlines()[-1] == 'route{ model = "m", max_tokens = 100, metadata = { tier = "gold" } }'


def test_the_seed_of_a_failure_gives_it_as_the_first_case() -> None:
    body = 'if #workers == 3 and request.stream then return workers[1].x end'
    found = broken(body, seed=50)
    again = broken(body, seed=found.seed, cases=found.cases)
    assert (found.cases, again) == (1, found)


def test_a_failure_that_needs_the_cases_before_it_says_how_many() -> None:
    source = b"local n = 0\nfunction route_request(r, w)\nn = n + 1\nif n > 30 then return w[1].x end\nend"
    found = broken(source, seed=9)
    assert found.seed == 9 and 31 <= found.cases < 60
    assert not check(source, seed=9, cases=found.cases) and check(source, seed=9, cases=30)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return workers[1]", "routing.lua:2: route_request chose "),
        ('return "nobody"', "unknown worker id 'nobody'"),
        ("return { workers[1], workers[1] }", "which is offline"),
    ],
)
def test_a_worker_that_cannot_be_used_is_no_answer(body: str, told: str) -> None:
    found = broken(f"if #workers == 1 then {body} end")
    assert found.property == LISTED and told in found.message


def test_a_worker_that_the_script_names_need_not_be_in_every_fleet_but_must_be_in_the_operators() -> None:
    source = lua('if #workers == 1 then return "gpu1" end')
    assert check_properties(source, "routing.lua", rules_of(None, {"gpu1"}), seed=1, cases=100).broken == []
    config = Config(None, None, None, Routing(), ConfigLimits(), None, None, (WorkerSpec("gpu2", "http://x"),), None, None)  # type: ignore[arg-type]
    (found,) = check_properties(source, "routing.lua", rules_of(config), seed=1, cases=100).broken
    assert "unknown worker id 'gpu1'" in found.message


def test_false_is_no_answer_of_route_request() -> None:
    assert "returned false" in broken("return false").message


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("while true do end", "budget exceeded"),
        ("local t = {} while true do t[#t + 1] = {} end", ""),
    ],
)
def test_a_script_that_uses_up_its_budget_is_found_and_not_waited_for(body: str, told: str) -> None:
    found = check(f"if #workers > 2 then {body} end", cases=500)
    assert {one.property for one in found.broken} == {BUDGET} and told in found.broken[0].message
    assert found.cases < 30


def test_an_answer_that_depends_on_the_order_of_a_table_is_found() -> None:
    found = broken("""
      for _, group in next, workers:group_by("id") do
        if group[1].status == "ready" then return group[1] end
      end
    """)
    assert found.property == SAME and "once" in found.message


def test_both_hooks_are_tried() -> None:
    on_failure = lua("return nil") + b"function on_failure(r, attempt, w) return attempt.wroker end"
    assert "an attempt has no field 'wroker'" in broken(on_failure).message
    on_complete = lua("return nil") + b"function on_complete(r, outcome) return outcome.sttus end"
    assert "an outcome has no field 'sttus'" in broken(on_complete).message


def test_failures_of_different_lines_are_told_apart_and_alike_ones_once() -> None:
    found = check("""
      if #workers == 0 then return workers[1].a end
      if #workers == 1 then return request.nothing end
    """)
    assert sorted(one.message.split(":")[1] for one in found.broken) == ["3", "4"]


def test_a_worker_without_the_model_is_a_warning() -> None:
    found = check('return workers:filter(function(w) return w.status == "ready" end):first()')
    assert found and found.mismatches > 0
    assert found.mismatch is not None and len(found.mismatch) < 300
    right = check('return workers:filter(function(w) return w.status == "ready" and w.models:contains(request.model) end)[1]')
    assert right.mismatches == 0


def test_what_it_costs_is_told() -> None:
    found = check("for i = 1, 20000 do end return nil", cases=30)
    assert 20_000 < found.instructions < 200_000
    assert 0 < found.slowest_s < 1


def test_the_lines_that_ran_are_counted() -> None:
    found = check('local a = 1\nif request.metadata.tier == "gold" then\na = 2\nend\nif a == 3 then\na = 4\nend', cases=100)
    assert {2, 3, 4, 6} <= set(found.covered) and 7 not in found.covered


def test_the_operators_workers_are_among_the_fleets() -> None:
    body = 'if workers[1] and workers[1].id == "mine" then return workers[1].x end'
    assert check(body) and not check(body.replace('"mine"', "('mi' .. 'ne')"), given=((Row("mine"),),))


def test_the_time_is_bounded() -> None:
    assert check("return nil", most_s=0.0).cases == 0


def test_a_script_that_does_not_load_is_refused() -> None:
    with pytest.raises(ScriptError):
        check(b"function")
