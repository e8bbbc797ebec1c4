"""Names that nobody defines, misspelt hooks, and what is never used."""

from __future__ import annotations

import pytest

from tests.support.builders import ask
from tests.workbench.scripts import findings, hints, told

ENTRY = b"function route_request(request, workers) return nil end\n"


@pytest.mark.parametrize(
    ("body", "where", "hint"),
    [
        ("return wrkers[1]", "unknown-name 2:8", "did you mean workers?"),
        ("return reqest.model", "unknown-name 2:8", "did you mean request?"),
        ("return tostrin(5)", "unknown-name 2:8", "did you mean tostring?"),
        ("return parseInt('5')", "unknown-name 2:8", "instead of parseInt, write tonumber(x)"),
        ("return 1 + nowhere", "unknown-name 2:12", None),
        ("os.exit()", "unavailable 2:1", None),
        ("return pcall(route_request)", "unavailable 2:8", None),
        ("seen = request.user_id", "undeclared-global 2:1", "write: local seen = ..."),
        ("function helper() end", "undeclared-global 2:10", "write: local function helper"),
        ("workers:any(function(w) best = w return true end)", "undeclared-global 2:25", "write: local best = ..."),
    ],
)
def test_a_name_that_cannot_work_is_an_error_that_lua_raises_too(body: str, where: str, hint: str | None) -> None:
    assert (told(body), hints(body)) == ([f"error {where}"], [hint])
    choice = ask(body)
    assert choice.error is not None
    assert choice.error.startswith("routing.lua:2: ")


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("return reqest", ["warning unknown-name 2:8"]),
        ("if verbose and verbose.on then return nil end", ["warning unknown-name 2:4", "warning unknown-name 2:16"]),
        ("local unused = 5", ["warning unused 2:7"]),
        ("local a, b = 1, 2\nreturn a and nil", ["warning unused 2:10"]),
        ("local function helper() end", ["warning unused 2:16"]),
        ("local written\nwritten = 5", ["warning unused 2:7"]),
    ],
)
def test_a_name_that_does_no_harm_is_a_warning(body: str, lines: list[str]) -> None:
    assert told(body) == lines
    assert ask(body).error is None


@pytest.mark.parametrize(
    "source",
    [
        b"counter = 0\nfunction route_request() counter = counter + 1 end",
        b"local counter = 0\nfunction route_request() counter = counter + 1 end",
        b"local function setup() limit = 5 end\nsetup()\nfunction route_request() log(limit) end",
        b"local up\nfunction route_request() if up then up() end end\nup = function() end",
        b"function route_request(request, workers) local _, w = next(workers) return w end",
        b"local function again(n) if n > 0 then return again(n - 1) end end\nfunction route_request() again(3) end",
        b"function helper(w) return w end\nfunction route_request(_, workers) return helper(workers[1]) end",
        b"function route_request(...) local a, b = ... log(a, b) end",
        b"function route_request() for i = 1, 3 do log('x') end goto done ::done:: end",
        b"local t = { tier = 1, [ 'a' ] = 2 }\nfunction t.pick() end\nfunction t:go() return self end\n"
        b"function route_request() return t.tier and nil end",
        b"local x = 1\nlocal x = x + 1\nfunction route_request() repeat local y = x until y == 2 end",
        b"function route_request() local _ENV = {} return anything end",
    ],
)
def test_scripts_whose_names_are_all_right_are_left_alone(source: bytes) -> None:
    assert [line for line in told(source) if not line.startswith("warning undeclared-global")] == []


def test_a_global_that_a_helper_makes_may_have_been_made_while_loading() -> None:
    called = b"local function setup() limit = 5 end\nsetup()\n" + ENTRY
    assert told(called) == ["warning undeclared-global 1:24"]
    assert told(called.replace(b"setup()\n", b"log(setup)\n", 1).replace(b"log(setup)", b"setup()")) == told(called)


@pytest.mark.parametrize(
    ("source", "lines", "hint"),
    [
        (ENTRY + b"function on_compleet(request, outcome) end", ["warning misspelt-hook 2:10"],
         "did you mean on_complete?"),
        (ENTRY.replace(b", workers", b", workers, extra"), ["warning parameters 1:42"],
         "write function route_request(request, workers)"),
        (ENTRY + b"function on_failure(a, b, c, d) end", ["warning parameters 2:30"],
         "write function on_failure(request, attempt, workers)"),
        (b"function route_request(request) return nil end", [], None),
        (b"route_request = function() end", [], None),
    ],
)  # fmt: skip
def test_hooks_are_spelled_and_called_as_the_daemon_does(source: bytes, lines: list[str], hint: str | None) -> None:
    assert told(source) == lines
    assert [found.hint for found in findings(source)] == ([hint] if hint else [])


def test_a_script_without_route_request_is_told_so_and_of_the_name_it_has() -> None:
    found = findings(b"function route_requests(request, workers) return nil end")
    assert [(one.code, one.line) for one in found] == [("missing-route-request", 1), ("misspelt-hook", 1)]
    assert found[1].hint == "did you mean route_request?"
