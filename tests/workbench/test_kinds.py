"""What is known of each value, and that nothing is made up where it cannot be known."""

from __future__ import annotations

import pytest

from rbeerouter.routing.language import LANGUAGE
from rbeerouter.routing.syntax import parse
from rbeerouter.workbench.flow import endings
from rbeerouter.workbench.kinds import Kind, Kinds
from rbeerouter.workbench.scopes import Scopes


def shown(kind: Kind) -> str:
    inside = f"({shown(kind.item)})" if kind.name == "list" and kind.item is not None else ""
    path = f" of {kind.path[0]}.{kind.path[1]}" if kind.path else ""
    return f"{kind.name}{inside}{'?' if kind.maybe else ''}{path}"


def kind_of(body: str, before: str = "") -> str:
    """The kind of what is given to `see(...)`."""
    source = f"{before}\nfunction route_request(request, workers)\n{body}\nend\n".encode()
    tree = parse(source)
    assert not tree.broken
    scopes = Scopes(tree)
    kinds = Kinds(tree, scopes, LANGUAGE, endings(tree, scopes))
    (call,) = [node for node in tree.nodes if node.type == "function_call" and tree.text(node.children[0]) == "see"]
    return shown(kinds.of(call.children[1].children[0]))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("request", "request"),
        ("workers", "list(worker)"),
        ("request.model", "text of request.model"),
        ("request.max_tokens", "number? of request.max_tokens"),
        ("request.metadata.tier", "unknown? of request.metadata.tier"),
        ("request.metadata:get('tier')", "unknown? of request.metadata.tier"),
        ("request.metadata:get('tier', 'free')", "unknown of request.metadata.tier"),
        ("request.headers['x-a']", "text? of request.headers.x-a"),
        ("workers[1]", "worker?"),
        ("workers[-1].models", "list(text) of worker.models"),
        ("workers:filter(function(w) return true end)", "list(worker)"),
        ("workers:filter(f):sort_by('load'):first()", "worker?"),
        ("workers:map(function(w) return w.id end)", "list(text of worker.id)"),
        ("workers:map(tostring)", "list(unknown)"),
        ("workers:group_by('backend').cuda", "list(worker)?"),
        ("workers:sample(2)", "list(worker)"),
        ("workers:len() + 1", "number"),
        ("#workers", "number"),
        ("workers:any(f)", "boolean"),
        ("request.model:upper()", "text of request.model"),
        ("('a b'):split()", "list(text)"),
        ("timestamp():hour()", "number of clock.hour"),
        ("state:get('x')", "unknown?"),
        ("state:get('x', 1)", "unknown"),
        ("tonumber(request.metadata.n)", "number? of request.metadata.n"),
        ("request.max_tokens or 5", "number of request.max_tokens"),
        ("request.user_id and 'a' or 'b'", "text"),
        ("request.user_id or 5", "unknown"),
        ("not request", "boolean"),
        ("math.huge", "number"),
        ("math.floor(2.5)", "number"),
        ("(workers)", "list(worker)"),
        ("strategy('least-request')(request, workers)", "worker?"),
        ("nothing", "unknown"),
        ("request.nothing", "unknown"),
        ("...", "unknown"),
    ],
)
def test_an_expression_has_the_kind_that_it_will_have(expression: str, expected: str) -> None:
    body = f"see({expression})" if expression != "..." else "local f = function(...) see(...) end"
    assert kind_of(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("for i, w in ipairs(workers) do see(w) end", "worker"),
        ("for i, w in ipairs(workers) do see(i) end", "number"),
        ("for backend, list in pairs(workers:group_by('backend')) do see(list) end", "list(worker)"),
        ("for key, value in pairs(request.metadata) do see(value) end", "unknown"),
        ("for i = 1, 5 do see(i) end", "number"),
        ("workers:sort_by(function(a, b) see(b) end)", "worker"),
        ("workers[1].models:any(function(m) see(m) end)", "text"),
        ("local function f(w) see(w) end\nworkers:filter(f)", "worker"),
        ("local f\nf = function(w) see(w) end\nworkers:filter(f)", "worker"),
        ("local function f(w) see(w) end\nf(workers[1]) f(workers:first())", "worker?"),
        ("local function f(w) see(w) end\nf(workers[1]) f(request)", "unknown"),
        ("local function f(w) see(w) end\nf()", "nil"),
        ("local function f(w) see(w) end\nf(table.unpack({}))", "unknown"),
        ("local function f(w) see(w) end\nf(workers) local t = { f }", "unknown"),
        ("local function f(w) see(w) end\nf(workers) t.f = f", "unknown"),
        ("local function f(w) see(w) end\nf(workers) nobody_knows(f)", "unknown"),
        ("local function f(w) see(w) end\nf(workers) local g = request.stream and f or nobody_knows\ng(1)", "unknown"),
        ("local function f(w) see(w) end\nlocal function g(h) h(workers) end\ng(f)", "list(worker)"),
        ("local function f() if request.stream then return request end end\nsee(f())", "request?"),
        ("local function f() if request.stream then return request else error('x') end end\nsee(f())", "request"),
        ("local x\nif request.stream then x = request end\nsee(x)", "request?"),
        ("local x = request\nx = 5\nsee(x)", "unknown"),
        ("local l = workers:filter(f)\nl[1] = 5\nsee(l)", "unknown"),
        ("local a, b = request, workers\nsee(b)", "list(worker)"),
        ("local a, b = f()\nsee(b)", "unknown"),
        ("local l = workers\nfor i = 1, 3 do l = l:map(function(x) return l end) end\nsee(l[1])", "unknown?"),
    ],
)
def test_a_variable_has_the_kind_of_all_that_it_is_given(body: str, expected: str) -> None:
    assert kind_of(body) == expected


FACTORY = "local function can_serve(r)\n  return function(w)\n    see({})\n  end\nend"


@pytest.mark.parametrize(("name", "expected"), [("w", "worker"), ("r", "request")])
def test_a_function_that_returns_a_function_is_followed(name: str, expected: str) -> None:
    assert kind_of("return workers:filter(can_serve(request))", FACTORY.replace("{}", name)) == expected


def test_a_hook_that_the_script_calls_itself_with_something_else_is_not_known() -> None:
    assert kind_of("see(request) if rand() > 2 then return route_request({ model = 'x' }, workers) end") == "unknown"
