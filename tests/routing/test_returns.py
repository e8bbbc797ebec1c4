"""Which `return`s are marked, that marking changes no line and no meaning, and that the line told is the true one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.routing.returns import mark_returns
from tests.support.builders import ask, quick

MARK = re.compile(rb"_rbee_line=(\d+) ")


def marked(source: str) -> list[int]:
    """The lines named by the marks, in order; taking the marks out must give the source again."""
    text = mark_returns(source.encode())
    assert MARK.sub(b"", text) == source.encode()
    for found in MARK.finditer(text):
        assert text[found.end() :].startswith(b"return")
        assert text[: found.start()].count(b"\n") + 1 == int(found[1])
    return [int(number) for number in MARK.findall(text)]


FUNCTION = "function route_request(request, workers)\n"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (FUNCTION + "return workers[1]\nend", [2]),
        (FUNCTION + "if a then return 1 elseif b then\nreturn 2 else return 3 end\nend", [2, 3, 3]),
        ("route_request = function(request, workers) return 1 end", [1]),
        ("local route_request = function() return 1 end", [1]),
        ("local function route_request() return 1 end", [1]),
        (FUNCTION + "return\nend", [2]),
        (FUNCTION + "return;end", [2]),
        (FUNCTION + "do return 1 end\nend", [2]),
        ("function on_failure(request, attempt, workers)\nreturn nil end", [2]),
        ("on_failure = function() return nil end\n" + FUNCTION + "return 1 end", [1, 3]),
        ("local a, route_request = 1, function() return 1 end", [1]),
        (FUNCTION + "for i = 1, 2 do return 1 end while x do return 2 end repeat return 3 until y\nreturn 4 end",
         [2, 2, 2, 3]),
    ],
)  # fmt: skip
def test_each_return_of_route_request_is_marked_with_its_line(source: str, lines: list[int]) -> None:
    assert marked(source) == lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (FUNCTION + "local f = function() return 1 end\nreturn f() end", [3]),
        (FUNCTION + "local function g() if x then return 1 end return 2 end\nreturn g() end", [3]),
        (FUNCTION + "return workers:filter(function(w)\nreturn w.load < 1\nend)[1]\nend", [2]),
        (FUNCTION + "local f = function() return function() return 1 end end\nend", []),
        ("function helper() return 1 end\n" + FUNCTION + "return helper() end", [3]),
        (FUNCTION + "return 1 end\nfunction other() return 2 end", [2]),
        ("local t = {}\nfunction t.route_request() return 1 end", []),
        ("local t = { route_request = function() return 1 end }", []),
        ("t.route_request = function() return 1 end", []),
        ("function on_complete() return 1 end", []),
        ("function other(route_request) return route_request end", []),
        ("return 1", []),
        ("", []),
    ],
)
def test_returns_of_other_functions_are_not_marked(source: str, lines: list[int]) -> None:
    assert marked(source) == lines


@pytest.mark.parametrize(
    "noise",
    [
        "-- return 1",
        "--[[ return 1\nreturn 2 ]]",
        "--[==[ return ]] return\n]==]",
        "local s = 'return 1'",
        'local s = "return \\" return"',
        "local s = 'it\\'s return'",
        "local s = [[\nreturn 1\n]]",
        "local s = [=[ ]] return ]=]",
        "local s = 'a\\\nreturn b'",
        "local returned, _return, return2 = 1",
        "local s = 'function route_request() return'",
        "--[ return 1",
        "-- end end end",
        "local s = 'end'",
        "local t = {['end'] = 1, [\"function\"] = 2}",
        "x = y[z[1]] -- [[",
        "goto done ::done:: local x",
    ],
)
def test_what_only_looks_like_a_return_is_left_alone(noise: str) -> None:
    line = 3 + noise.count("\n")
    assert marked(f"{FUNCTION}{noise}\nreturn workers[1]\nend") == [line]


def test_windows_line_ends_count_as_one_line_each() -> None:
    assert marked(FUNCTION.replace("\n", "\r\n") + "-- x\r\nreturn 1\r\nend") == [3]


@pytest.mark.parametrize("source", ["'unclosed return", '"', "--[[ return", "[==[", "end end end return", "\x00\xff"])
def test_a_text_that_is_no_lua_comes_through_unharmed(source: str) -> None:
    assert MARK.sub(b"", mark_returns(source.encode("latin-1"))) == source.encode("latin-1")


@quick(max_examples=200)
@given(st.lists(st.sampled_from([
    "function", "route_request", "return", "end", "if", "do", "until", "repeat", "\n", " ", "'", '"', "[[", "]]", "--",
    "=",
    "--[[", "\\", "x", "(", ")", "[=[", "]=]", ".", "1",
]), max_size=40))  # fmt: skip
def test_taking_the_marks_out_of_any_text_gives_the_text_again(pieces: list[str]) -> None:
    source = "".join(pieces).encode()
    text = mark_returns(source)
    assert MARK.sub(b"", text) == source
    assert text.count(b"\n") == source.count(b"\n")


# The line that a decision names, through the real Lua.

NOISE = [
    "-- return workers[1]",
    "--[[\n return workers[1]\n]]",
    "local a = 'return' .. \"return\" .. 5",
    "local b = [[\nreturn\n]]",
    "local function f(x) if x then return 1 end return 2 end",
    "local g = function() return function() return 5 end end",
    "if request.stream then return workers[1] end",
    "for i = 1, 2 do if i > 5 then return nil end end",
    "repeat local z = 1 until true",
    "while false do return nil end",
    "do local kept = workers:filter(function(w) return w.load < 1 end) end",
    "if workers[1].id == 'return' then\nreturn workers[1]\nelse\nlocal q = 1\nend",
    "",
]


@quick(max_examples=60)
@given(st.lists(st.sampled_from(NOISE), max_size=6), st.booleans())
def test_the_line_told_is_that_of_the_return_that_decided(noise: list[str], windows: bool) -> None:
    body = "\n".join([*noise, "return workers[2]"])
    source = f"function route_request(request, workers)\n{body}\nend\n"
    choice = ask((source.replace("\n", "\r\n") if windows else source).encode())
    assert (choice.worker and choice.worker.id, choice.line, choice.error) == ("w2", 2 + body.count("\n"), None)


@pytest.mark.parametrize("before", ["local key = request.model .. ':'", "::again::"])
def test_a_return_after_a_concatenation_or_a_label_is_marked(before: str) -> None:
    assert marked(f"{FUNCTION}{before}\nreturn workers[1]\nend") == [3]


def test_a_function_that_was_made_elsewhere_decides_without_a_line() -> None:
    choice = ask(
        b"local function make() return function(request, workers) return workers[2] end end route_request = make()"
    )
    assert (choice.worker and choice.worker.id, choice.line) == ("w2", 0)


def test_a_string_continued_by_backslash_z_is_left_alone() -> None:
    assert marked(FUNCTION + 'local s = "abc\\z\n  return x"\nreturn workers[1]\nend') == [4]


def test_a_script_may_replace_its_environment() -> None:
    choice = ask("local _ENV = workers[2]\nreturn id")
    assert (choice.worker and choice.worker.id, choice.error) == ("w2", None)
