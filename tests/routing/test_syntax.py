"""The flat tree of a script, and what is read off it without running anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.routing.syntax import Param, constant, covered, params, parse, statement_lines
from tests.support.builders import quick


def test_the_tree_is_flat_in_the_order_of_the_text_and_knows_what_is_inside_of_what() -> None:
    tree = parse(b"local a = 1 -- one\nreturn a.b")
    assert [(node.type, node.field) for node in tree.nodes] == [
        ("chunk", None), ("variable_declaration", "local_declaration"), ("assignment_statement", None),
        ("variable_list", None), ("identifier", "name"), ("expression_list", None), ("number", "value"),
        ("return_statement", None), ("expression_list", None), ("dot_index_expression", None),
        ("identifier", "table"), ("identifier", "field"),
    ]  # fmt: skip
    assert [node.index for node in tree.nodes] == list(range(len(tree.nodes)))
    for node in tree.nodes:
        inside = [other for other in tree.nodes if other.index > node.index and node.start <= other.start < node.end]
        assert node.last == (inside[-1].index if inside else node.index)
        assert all(child.parent is node for child in node.children)


def test_a_walk_enters_and_leaves_each_node_once_and_properly_nested() -> None:
    tree = parse(b"function f(a) if a then return g(a, 1) end end")
    inside = []
    for node, entering in tree.walk():
        if entering:
            assert node.parent is (inside[-1] if inside else None)
            inside.append(node)
        else:
            assert inside.pop() is node
    assert inside == []


def test_operators_are_known() -> None:
    tree = parse(b"return a <= b, not c, -d, #e, a .. b")
    assert [node.operator for node in tree.nodes if node.operator] == ["<=", "not", "-", "#", ".."]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\r"])
def test_lines_are_counted_as_lua_counts_them(end: str) -> None:
    source = end.join(["-- a comment", "local s = [[", "]] x = 1", "y = 2"]).encode()
    tree = parse(source)
    assert [tree.line(node) for node in tree.nodes if node.is_statement] == [2, 3, 4]
    assert not tree.broken


def test_columns_are_characters() -> None:
    tree = parse("s = 'für' t = 1".encode())
    assert [tree.column(node) for node in tree.nodes if node.is_statement] == [1, 11]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("1.5", 1.5), ("0x10", 16), ("0x.8p1", 1.0), ("1e3", 1000.0), ("-2", -2), ("- 2.5", -2.5),
        ("'a'", "a"), ('"a\\n\\"b\\""', 'a\n"b"'), ("'\\65\\x42\\u{43}'", "ABC"), ("'a\\z  \n b'", "ab"),
        ("[[\na]]", "a"), ("[==[a]]b]==]", "a]]b"), ("'für'", "für"), ("true", True), ("false", False),
        ("nil", None), ("a", None), ("-a", None), ("f()", None), ("'a' .. 'b'", None),
    ],
)  # fmt: skip
def test_a_literal_has_the_value_that_lua_gives_it(text: str, value: object) -> None:
    tree = parse(f"return {text}".encode())
    (given,) = [node for node in tree.nodes if node.parent is not None and node.parent.type == "expression_list"]
    found = constant(tree, given)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('local p = param("canary", 25, 0, 100)', [Param("canary", 25, 0, 100, 1)]),
        ("f(\nparam('a', -0.5, -1, 0x10) + 1)", [Param("a", -0.5, -1, 16, 2)]),
        ("if rand() < param('a', 1, 0, 2) then return param('b', 1, 0, 2) end",
         [Param("a", 1, 0, 2, 1), Param("b", 1, 0, 2, 1)]),
        ("param(name, 1, 0, 2) param('a', 1) param('a', x, 0, 2) param(1, 1, 0, 2) param('a', true, 0, 2)", []),
        ("-- param('a', 1, 0, 2)\nlocal s = \"param('a', 1, 0, 2)\"", []),
        ("state.param('a', 1, 0, 2)", []),
        ("if then param('a', 1, 0, 2)", [Param("a", 1, 0, 2, 1)]),
    ],
)  # fmt: skip
def test_named_numbers_are_found_without_running_the_script(source: str, expected: list[Param]) -> None:
    assert params(source.encode()) == expected


SCRIPT = b"""\
local a = 1
local b, c
local function f(x)
  return x + 1
end
function g(x)
  local y = x
    + f(x)
  return y
end
-- a comment
if a == 1 then
  a = 2
elseif a == 3 then
  a = 4
else
  a = 5
end
for i = 1, 2 do
  if i == 2 then
    break
  end
end
repeat
  a = g(a)
until a > 2
while true do
  do a = a + 1 end
  if a > 9 then break end
end
goto done
::done::
g(
  1
)
return a
"""


def test_the_lines_that_can_run_are_those_where_a_statement_starts() -> None:
    assert statement_lines(SCRIPT) == {1, 3, 4, 6, 7, 9, 12, 13, 14, 15, 17, 19, 20, 25, 28, 29, 33, 36}


def test_what_luas_line_hook_saw_is_told_by_statements() -> None:
    seen = {1, 2, 5, 4, 8, 9, 10, 12, 13, 19, 20, 23, 25, 26, 28, 29, 33, 34, 36}
    assert statement_lines(SCRIPT) - covered(SCRIPT, seen) == {14, 15, 17}
    assert covered(SCRIPT, set()) == set()


@quick(max_examples=100)
@given(st.binary(max_size=200))
def test_no_text_makes_it_fail(source: bytes) -> None:
    tree = parse(source)
    assert all(tree.line(node) >= 1 and tree.column(node) >= 1 for node in tree.nodes)
    params(source)
    assert covered(source, set(range(300))) <= statement_lines(source)


@pytest.mark.parametrize("piece", ["(", "{", "a.", "a or ", "function() ", "f(", "f{", "-", "not ", "if a then "])
def test_depth_is_no_danger(piece: str) -> None:
    source = ("return " + piece * (32_000 // len(piece))).encode()
    assert parse(source).nodes
