"""Each name means the variable that Lua means by it."""

from __future__ import annotations

import pytest

from rbeerouter.routing.syntax import parse
from rbeerouter.workbench.scopes import Scopes


def meanings(source: str) -> list[str]:
    """For each reading of a name `x`: the sort and line of its variable."""
    tree = parse(source.encode())
    scopes = Scopes(tree)
    told = []
    for node in tree.nodes:
        variable = scopes.variable(node) if node.type == "identifier" and tree.text(node) == "x" else None
        if variable is not None and node in variable.reads:
            told.append(f"{variable.sort} {tree.line(variable.node)}" if variable.node is not None else variable.sort)
    return told


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("return x", ["global"]),
        ("local x = 1\nreturn x", ["local 1"]),
        ("local x = x", ["global"]),
        ("local x = 1\nlocal x = x", ["local 1"]),
        ("do local x end\nreturn x", ["global"]),
        ("local function x() return x end", ["function 1"]),
        ("local x = function() return x end", ["global"]),
        ("function x() return x end", ["global"]),
        ("local x\nfunction f(x) return x end return x", ["parameter 2", "local 1"]),
        ("for x = x, 2 do f(x) end return x", ["global", "loop 1", "global"]),
        ("for _, x in pairs(x) do f(x) end", ["global", "loop 1"]),
        ("repeat local x = 1 until x", ["local 1"]),
        ("repeat until x", ["global"]),
        ("local t = { x = 1, [x] = 2 } t.x = t:x(x)", ["global", "global"]),
        ("goto x ::x::", []),
        ("local y <const> = x", ["global"]),
        ("if x then local x = 1 else f(x) end", ["global", "global"]),
    ],
)
def test_a_name_means_the_innermost_variable_that_is_there_already(source: str, expected: list[str]) -> None:
    assert meanings(source) == expected


def test_assignments_are_told_with_what_they_give() -> None:
    tree = parse(b"local a, b, c = 1, f()\nlocal d, e = 2\na = 3")
    scopes = Scopes(tree)
    given = {
        variable.name: [(tree.text(write.value) if write.value else None, write.nil) for write in variable.writes]
        for variable in scopes.locals
    }
    assert given == {
        "a": [("1", False), ("3", False)], "b": [("f()", False)], "c": [(None, False)], "d": [("2", False)],
        "e": [(None, True)],
    }  # fmt: skip
