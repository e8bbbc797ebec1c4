"""What a script may answer beyond a worker: lists, queue(), reject{}, tables, reasons (answers.lua)."""

from __future__ import annotations

from typing import Any

import pytest

from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import Answer, Choice
from tests.support.builders import ask, fill, fleet, picked, request, script, shown
from tests.support.builders import told as told_error

WRONG = (
    "routing.lua:2: route_request returned %s; expected a worker, a worker id, a list of them, nil, queue(...), "
    "reject{...} or {worker = ..., model = ..., headers = ..., reason = ...}"
)
ABLE = Abilities(set_headers=("x-route", "x-tier"))


def rich(body: str) -> Answer:
    choice = ask(body, abilities=ABLE)
    assert choice.error is None, choice.error
    assert choice.answer is not None
    return choice.answer


def ids(choice: Choice) -> list[str]:
    return [one.id for one in choice.workers or ((choice.worker,) if choice.worker else ())]


# Lists: the failover order.


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("workers", ["w1", "w2", "w3"]), ("{ workers[3], workers[1] }", ["w3", "w1"]), ("{ 'w2', workers[3], 'w1' }", ["w2", "w3", "w1"]),
        ("workers:sort_by(function(a, b) return a.id > b.id end)", ["w3", "w2", "w1"]), ("workers:sort_by('load')", ["w2", "w3", "w1"]),
        ("workers:filter(function(w) return w.id ~= 'w1' end)", ["w2", "w3"]), ("{ workers[2] }", ["w2"]), ("{}", []),
        ("workers:filter(function() end)", []), ("workers:filter(function() end):sort_by('load')", []),
        ("workers:map(function(w) return w.id end)", ["w1", "w2", "w3"]), ("('w3,w1'):split(',')", ["w3", "w1"]),
        ("{ worker = workers:sort_by('load') }", ["w2", "w3", "w1"]), ("{ worker = { 'w3', 'w2' } }", ["w3", "w2"]),
        ("workers:group_by('status').ready", ["w1", "w2", "w3"]), ("{ workers[1], nil, workers[2] }", None),
    ],
)  # fmt: skip
def test_a_list_is_the_failover_order(answer: str, order: list[str] | None) -> None:
    made = fleet()
    fill(made, "w1", 2)
    fill(made, "w3", 1)
    choice = ask(f"return {answer}", made)
    if order is None:
        assert choice.error is not None and "whose item 2 is a nil" in choice.error
        return
    assert choice.error is None and ids(choice) == order
    assert (choice.workers is not None) == bool(order)


def test_a_list_of_very_many_is_cut() -> None:
    made = fleet(*(f"w{number}" for number in range(100)))
    assert len(ids(ask("return workers", made))) == 64


@pytest.mark.parametrize(
    ("answer", "got"),
    [
        ("{ workers[1], 5 }", "a list whose item 2 is a number"), ("{ 'w1', 'w9' }", "a list whose item 2 is the unknown worker id 'w9'"),
        ("{ workers }", "a list whose item 1 is a table"), ("{ {} }", "a list whose item 1 is a table"),
        ("{ worker = { 'w9' } }", "a list whose item 1 is the unknown worker id 'w9'"), ("{ worker = 5 }", "a number"),
        ("workers[1].models", "a table"), ("request", "a table"), ("request.metadata", "a table"), ("timestamp()", "a table"),
        ("{ worker = queue() }", "queue(...) or reject{...} as the worker of a table"), ("{ worker = reject {} }", "queue(...) or reject{...} as the worker of a table"),
        ("{ wroker = workers[1] }", "a table"), ("{ worker = workers[1], header = {} }", "a table with the unknown key 'header'; did you mean 'headers'?"),
        ("{ worker = workers[1], 5 }", "a list whose item 1 is a number"), ("{ [2] = workers[1] }", "a table"),
        ("string", "a table"), ("print", "a function"), ("5", "a number"), ("true", "a boolean"),
        ("('x'):rep(5000)", f"the unknown worker id '{'x' * 200}'"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_told(answer: str, got: str) -> None:
    assert (picked(f"return {answer}") or "").startswith((WRONG % got)[:380])


@pytest.mark.parametrize(
    ("order", "error"),
    [
        ("function() while true do end end", "routing.lua:2: budget exceeded"),
        ("function() error('no order') end", "routing.lua:2: no order"),
        ("function(a, b) return a.role < b.role end", "routing.lua:2: attempt to compare two nil values"),
        ("'models'", "routing.lua:2: cannot compare a table with a table"),
    ],
)
def test_a_list_that_is_sorted_while_it_is_read_stands_under_the_budget(order: str, error: str) -> None:
    for answer in (f"workers:sort_by({order})", f"{{ worker = workers:sort_by({order}) }}"):
        one = script(f"if request.stream then return workers[3] end\nreturn {answer}")
        made = fleet()
        assert (told_error(one.route(request(), made)) or "").replace(":3:", ":2:") == error
        assert one.route(request(stream=True), made).worker is made.workers["w3"]


# Reasons.


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("workers[1], 'cheapest'", "cheapest"), ("'w1', 'cheapest'", "cheapest"), ("workers, 'by id'", "by id"), ("nil, 'no idea'", "no idea"),
        ("{ worker = workers[1], reason = 'tier' }", "tier"), ("{ worker = workers[1], reason = 'tier' }, 'other'", "other"),
        ("workers[1], ''", ""), ("workers[1], ('x'):rep(500)", "x" * 200), ("workers[1], 'a\\nb\\0'", "a\nb\0"),
        ("queue(), 'full'", "full"), ("reject { }, 'quota'", "quota"), ("{ reason = 'undecided' }", "undecided"),
    ],
)  # fmt: skip
def test_a_second_value_or_field_is_the_reason(answer: str, reason: str) -> None:
    assert rich(f"return {answer}").reason == reason


@pytest.mark.parametrize("reason", ["5", "true", "{}", "workers[1]", "print"])
def test_a_reason_is_a_text(reason: str) -> None:
    assert str(picked(f"return workers[1], {reason}")).startswith("routing.lua:2: reason: expected a text, got a ")
    assert str(picked(f"return {{ worker = workers[1], reason = {reason} }}")).startswith("routing.lua:2: reason: expected a text")


# Tables.


def test_a_table_may_rewrite_the_model_and_add_headers() -> None:
    answer = rich("return { worker = 'w2', model = 'tiny', headers = { ['X-Route'] = 'a b', ['x-tier'] = 5 }, reason = 'r' }")
    assert (answer.model, sorted(answer.headers), answer.reason, answer.workers) == (
        "tiny", [("x-route", "a b"), ("x-tier", "5")], "r", [2],
    )  # fmt: skip


def test_a_table_without_a_worker_leaves_the_choice_to_the_strategy() -> None:
    answer = rich("return { model = 'tiny' }")
    assert (answer.workers, answer.model, answer.action) == ([], "tiny", None)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ("model = ''", "model: expected a name of at most 512 bytes, got "), ("model = 5", "model: expected a name of at most 512 bytes, got 5"),
        ("model = ('m'):rep(513)", "model: expected a name of at most 512 bytes, got " + "m" * 300),
        ("headers = 5", "headers: expected a table of names and texts, got a number"),
        ("headers = { 'x-route' }", "headers: expected names and texts, got 1 = x-route"),
        ("headers = { ['x-route'] = {} }", "headers: expected names and texts, got x-route = table"),
        ("headers = { ['x-route'] = true }", "headers: expected names and texts, got x-route = true"),
        ("headers = { authorization = 'x' }", "headers: 'authorization' is not in [routing] set_headers"),
        ("headers = { ['x-route '] = 'x' }", "headers: 'x-route ' is not in [routing] set_headers"),
        ("headers = { ['x-route'] = 'a\\r\\nb: c' }", "headers: x-route: expected at most 1024 printable ASCII characters"),
        ("headers = { ['x-route'] = 'ü' }", "headers: x-route: expected at most 1024 printable ASCII characters"),
        ("headers = { ['x-route'] = 'a\\0' }", "headers: x-route: expected at most 1024 printable ASCII characters"),
        ("headers = { ['x-route'] = ('x'):rep(1025) }", "headers: x-route: expected at most 1024 printable ASCII characters"),
    ],
)  # fmt: skip
def test_a_table_says_what_it_expects(fields: str, error: str) -> None:
    choice = ask(f"return {{ worker = workers[1], {fields} }}", abilities=ABLE)
    assert (choice.error or "").startswith(f"routing.lua:2: {error}")


def test_without_set_headers_none_may_be_set() -> None:
    assert picked("return { worker = workers[1], headers = { ['x-route'] = 'a' } }") == (
        "routing.lua:2: headers: 'x-route' is not in [routing] set_headers"
    )


# queue, reject.


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        ("queue()", (None, None, [])), ("queue(nil)", (None, None, [])), ("queue(workers[2])", (None, None, [2])), ("queue('w3')", (None, None, [3])),
        ("queue(nil, {})", (None, None, [])), ("queue(nil, { timeout_s = 0 })", (0.0, None, [])),
        ("queue(nil, { timeout_s = 2.5, priority = 7 })", (2.5, 7, [])), ("queue(workers[1], { priority = 'high' })", (None, 1, [1])),
        ("queue(nil, { priority = 'normal' })", (None, 0, [])), ("queue(nil, { priority = 'low' })", (None, -1, [])),
        ("queue(nil, { priority = -1000, timeout_s = 86400 })", (86400.0, -1000, [])),
    ],
)  # fmt: skip
def test_queue_lets_a_request_wait(answer: str, fields: tuple[Any, ...]) -> None:
    told = rich(f"return {answer}")
    assert (told.action, told.timeout_s, told.priority, told.workers) == ("wait", *fields)


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        ("reject {}", (None, None, None)), ("reject()", (None, None, None)), ("reject 'no'", (None, "no", None)),
        ("reject { status = 429, message = 'slow down', retry_after = 3 }", (429, "slow down", 3.0)),
        ("reject { status = 400 }", (400, None, None)), ("reject { status = 599, retry_after = 0 }", (599, None, 0.0)),
        ("reject { message = ('x'):rep(2000) }", (None, "x" * 1000, None)), ("reject { message = 'ü\\255\\n' }", (None, "???\n", None)),
    ],
)  # fmt: skip
def test_reject_refuses_a_request_in_words_of_the_script(answer: str, fields: tuple[Any, ...]) -> None:
    told = rich(f"return {answer}")
    assert (told.action, told.status, told.message, told.retry_after, told.workers) == ("reject", *fields, [])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("queue(5)", "queue expects a worker, a worker's id or nil, got 5"), ("queue('w9')", "queue expects a worker, a worker's id or nil, got the unknown worker id 'w9'"),
        ("queue(workers)", "queue expects a worker, a worker's id or nil, got table"), ("queue({ timeout_s = 5 })", "queue expects a worker, a worker's id or nil, got table"),
        ("queue(nil, 5)", "queue expects a table, got number"), ("queue(nil, { timeout = 5 })", "queue has no option 'timeout'; did you mean 'timeout_s'?"),
        ("queue(nil, { timeout_s = -1 })", "queue: timeout_s: expected a number from 0 to 86400, got -1"),
        ("queue(nil, { timeout_s = 0/0 })", "queue: timeout_s: expected a number from 0 to 86400, got -nan"),
        ("queue(nil, { timeout_s = '5' })", "queue: timeout_s: expected a number from 0 to 86400, got 5"),
        ("queue(nil, { priority = 'urgent' })", 'queue: priority: expected "high", "normal", "low" or a whole number from -1000 to 1000, got urgent'),
        ("queue(nil, { priority = 1.5 })", 'queue: priority: expected "high", "normal", "low" or a whole number from -1000 to 1000, got 1.5'),
        ("queue(nil, { priority = 1001 })", 'queue: priority: expected "high", "normal", "low" or a whole number from -1000 to 1000, got 1001'),
        ("reject(5)", "reject expects a table, got number"), ("reject { code = 5 }", "reject has no option 'code'"),
        ("reject { stauts = 500 }", "reject has no option 'stauts'; did you mean 'status'?"),
        ("reject { status = 200 }", "reject: status: expected a whole number from 400 to 599, got 200"),
        ("reject { status = 600 }", "reject: status: expected a whole number from 400 to 599, got 600"),
        ("reject { status = 429.5 }", "reject: status: expected a whole number from 400 to 599, got 429.5"),
        ("reject { status = '429' }", "reject: status: expected a whole number from 400 to 599, got 429"),
        ("reject { message = 5 }", "reject: message: expected a text, got a number"),
        ("reject { retry_after = -1 }", "reject: retry_after: expected a number from 0 to 60, got -1"),
        ("reject { retry_after = 1/0 }", "reject: retry_after: expected a number from 0 to 60, got inf"),
    ],
)  # fmt: skip
def test_queue_and_reject_say_what_they_expect(call: str, error: str) -> None:
    got = str(picked(f"local x\nreturn {call}"))
    assert got in (f"routing.lua:3: {error}", f"routing.lua:3: {error.replace('-nan', 'nan')}")


def test_an_answer_of_queue_or_reject_that_is_not_returned_does_nothing() -> None:
    assert picked("queue(workers[2]) reject { status = 500 } return workers[3]") == "w3"


def test_the_answer_of_queue_shows_as_a_table() -> None:
    assert shown("queue(workers[1])") == "table"


@pytest.mark.parametrize("change", ["answer.status = 'x'", "answer.message = {}", "answer.retry_after = 'x'"])
def test_what_reject_gave_cannot_be_changed(change: str) -> None:
    assert ask(f"local answer = reject {{ status = 429 }} {change} return answer").error is not None
