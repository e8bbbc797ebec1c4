"""What hooks return: what is told of it, and that each error told is one that makes the answer useless."""

from __future__ import annotations

import pytest

from rbeerouter.core.errors import FAILURES
from rbeerouter.core.types import Attempt
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.workbench.check import check
from tests.support.builders import SCRIPT, env, fleet, job, lua, script
from tests.workbench.scripts import hints, told

REFUSED = FAILURES["upstream_connect_failed"]
ABLE = Abilities(request_headers=("x-tier",), set_headers=("x-route",))


def hook(body: str) -> bytes:
    """A script whose on_failure has this body, which begins at line 2."""
    return f"function on_failure(request, attempt, workers)\n{body}\nend\n".encode() + lua("return workers[1]")


def fault(source: str | bytes) -> str | None:
    """What a decision says of the script: of route_request for the body of one, of on_failure for a whole file."""
    both = Decider(fleet(), script(source, abilities=ABLE), "least-request", env())
    one = job()
    one.decision = both.decide(one.request)
    if isinstance(source, str):
        return one.decision.error
    one.tried, one.attempts = ["w1"], [Attempt("w1", "upstream_connect_failed", 1.0)]
    after = both.another(one, REFUSED)
    return after.error if after is not None else None


ERRORS = [
    ("return { worker = workers[1], modle = 'x' }", "unknown-key 2:31", "did you mean model?"),
    ("return { worker = workers[1], ['modle'] = 'x' }", "unknown-key 2:32", "did you mean model?"),
    ("return { wroker = 'w1' }", "unknown-key 2:10", "did you mean worker?"),
    ("return { zebra = 1 }", "unknown-key 2:10", "it has headers, model, reason, worker"),
    ("return request.model and { worker = 'w1', modle = 'x' } or nil", "unknown-key 2:43", "did you mean model?"),
    ("local answer = { worker = 'w1', modle = 'x' } answer.model = 'y' return answer", "unknown-key 2:33",
     "did you mean model?"),
    ("return { worker = 5 }", "answer 2:19", None),
    ("return { worker = 'w1', model = 5 }", "answer 2:33", None),
    ("return { worker = 'w1', reason = #workers }", "answer 2:34", None),
    ("return { headers = 'x' }", "answer 2:20", None),
    ("return { worker = queue(nil) }", "answer 2:19", "write return queue(...)"),
    ("return { worker = reject('no') }", "answer 2:19", "write return reject(...)"),
    ("return workers[1], 5", "answer 2:20", None),
    ("return true", "answer 2:8", "return the worker itself: return w"),
    ("return 1", "answer 2:8", "return the worker itself: return w"),
    ("return workers:len()", "answer 2:8", "return the worker itself: return w"),
    ("for _, w in ipairs(workers) do return w.load end", "answer 2:39", "return the worker itself: return w"),
    ("return strategy('least-request')", "answer 2:8", "call it: strategy(name)(request, workers)"),
    ("return workers.first", "answer 2:8", None),
    ("return request", "answer 2:8", None),
    ("return timestamp()", "answer 2:8", None),
    ("local function pick() return workers[1] end return pick", "answer 2:52", None),
]  # fmt: skip
ONLY_WHEN_ROUTING = [
    ("return false", "answer 2:8"),
    ("return request.stream and workers[1] or false", "answer 2:41"),
    ("return #workers > 5", "answer 2:8"),
    ("return not request.stream", "answer 2:8"),
    ("return workers:is_empty()", "answer 2:8"),
]


@pytest.mark.parametrize(("body", "where", "hint"), ERRORS)
def test_each_error_is_told_with_its_place_and_what_to_write(body: str, where: str, hint: str | None) -> None:
    for source in (body, hook(body)):
        assert told(source) == [f"error {where}"]
    assert hints(body) == [hint]


@pytest.mark.parametrize("body", [body for body, _, _ in ERRORS])
def test_each_error_is_one_of_the_decision_in_both_hooks(body: str) -> None:
    for source in (body, hook(body)):
        error = fault(source)
        assert error is not None
        assert error.startswith("routing.lua:2: ")


@pytest.mark.parametrize(("body", "where"), ONLY_WHEN_ROUTING)
def test_false_is_no_answer_of_route_request_and_one_of_on_failure(body: str, where: str) -> None:
    assert told(body) == [f"error {where}"]
    error = fault(body)
    assert error is not None
    assert error.startswith("routing.lua:2: ")
    assert told(hook(body)) == []


def test_on_failure_cannot_let_the_request_wait() -> None:
    body = "return queue(nil, { timeout_s = 5 })"
    assert told(hook(body)) == ["error answer 2:8"]
    assert "on_failure returned queue(...)" in (fault(hook(body)) or "")
    assert told(body) == []


HEADERS = [
    ("return { headers = { ['x-rout'] = 'a' } }", "error unknown-header 2:23"),
    ("return { headers = { X_ROUTE = 'a' } }", "error unknown-header 2:22"),
    ("return { headers = { ['x-rout'] = request.user_id } }", "warning unknown-header 2:23"),
]


@pytest.mark.parametrize(("body", "expected"), HEADERS)
def test_a_header_that_may_not_be_set_is_told_when_the_settings_are_known(body: str, expected: str) -> None:
    (found,) = check(lua(body), SCRIPT, set_headers=["X-Route"])
    assert f"{found.severity} {found.code} {found.line}:{found.column}" == expected
    assert found.hint == "did you mean x-route?"
    assert (fault(body) is not None) == (found.severity == "error"), "the user is nil here"
    assert told(body) == []


def test_a_header_that_may_be_set_is_right_in_any_case() -> None:
    body = "return { headers = { ['X-Route'] = 'a' } }"
    assert check(lua(body), SCRIPT, set_headers=["x-route"]) == []
    assert fault(body) is None
    assert [found.code for found in check(lua(body), SCRIPT, set_headers=[])] == ["unknown-header"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("return { worker = workers[1], modle = request.user_id }", "unknown-key 2:31"),
        ("local answer = { worker = 'w1' } if request.stream then answer.modle = 'x' end return answer",
         "unknown-key 2:64"),
        ("return { 'w1', 'w2', model = 'x' }", "unknown-key 2:22"),
        ("return queue(nil, { timeout = request.user_id })", "unknown-option 2:21"),
        ("return #workers > 0 and workers[1]", "answer 2:8"),
    ],
)  # fmt: skip
def test_what_may_be_right_is_a_warning(body: str, where: str) -> None:
    assert told(body) == [f"warning {where}"]
    assert fault(body) is None


@pytest.mark.parametrize(
    "body",
    [
        "return { worker = workers[1], model = 'x', headers = {}, reason = 'r' }",
        "return { worker = workers:first() }, 'why'",
        "return { worker = { 'w1', workers[2] }, model = request.model }",
        "return { worker = 'w1', reason = 5 }, 'why'",
        "return {}",
        "return nil",
        "return request.stream and workers[1] or nil",
        "return request.stream == 5 or workers[1]",
        "return false or workers[1]",
        "local function inner() return false end if inner() then return nil end",
        "local best = workers:any(function(w) return w.load < 0 end) return best and nil or workers[1]",
        "local t = { worker = 'w1', temporary = 1 } t.temporary = nil return { worker = t.worker }",
        "local t = { worker = 'w1', temporary = 1 } for key in pairs(t) do if key == 'temporary' then t[key] = nil end end "
        "return t",
        "local n = 5 if n > 6 then return n end",
        "return rand() < 2 and workers[1] or workers[2]",
        "return strategy('least-request')(request, workers)",
        "return (workers[1])",
        "local pick if rand() > 2 then pick = function() end end return pick",
    ],
)
def test_nothing_is_called_an_error_that_is_none(body: str) -> None:
    assert [line for line in told(body) if line.startswith("error")] == []
    assert fault(body) is None


@pytest.mark.parametrize(
    "more",
    [
        "function on_failure(request, attempt, workers) return route_request(request, workers) end",
        "local inner = route_request function route_request(r, ws) return inner(r, ws) or nil end",
    ],
)
def test_a_hook_that_the_script_calls_itself_may_answer_what_it_likes(more: str) -> None:
    source = lua("return false") + more.encode()
    assert told(source) == ["warning answer 2:8"]


def test_nobody_looks_at_what_on_complete_returns() -> None:
    def complete(body: str) -> bytes:
        return f"function on_complete(request, outcome)\n{body}\nend\n".encode() + lua("return nil")

    for body in ("return 'w1'", "return outcome.worker_id", "return { worker = 'w1' }", "return queue(nil)"):
        assert told(complete(body)) == ["warning ignored-answer 2:8"]
    for body in ("return", "return nil", "return log('done')", "return state:incr('n')", "return outcome.ok and log(1)"):
        assert told(complete(body)) == []


def test_a_line_that_has_an_error_is_not_told_of_again() -> None:
    assert told("return rand(1, 10)") == ["error arguments 2:8"]
