"""The syntax tree of a script: the only file that imports tree_sitter.

`returns.py` marks a script by it, the checker in `workbench` reads whole scripts by it. Scripts may be hostile and
nested thousands deep, so nothing here calls itself: a `Tree` is one flat list of nodes in the order of the text, and
whoever walks it does so in a loop. It never judges a script; what is right Lua is for Lua to say, and `Tree.broken`
only tells that this parser did not understand it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

import tree_sitter
import tree_sitter_lua

_LUA = tree_sitter.Language(tree_sitter_lua.language())
_LINE_END = re.compile(rb"\r\n|\n\r|\r|\n")
_LONE_RETURN = re.compile(rb"(?<!\n)\r(?!\n)")
_ESCAPE = re.compile(
    rb"\\(?:z\s*|x[0-9A-Fa-f]{2}|[0-9]{1,3}|u\{[0-9A-Fa-f]+\}|\r\n|\n\r|.)",
    re.DOTALL,
)
_SIMPLE = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}

STATEMENTS = {
    "variable_declaration", "assignment_statement", "function_call", "function_declaration", "if_statement",
    "elseif_statement", "while_statement", "repeat_statement", "for_statement", "do_statement", "return_statement",
    "break_statement", "goto_statement", "label_statement",
}  # fmt: skip
FUNCTIONS = {"function_declaration", "function_definition"}
_CONSTANTS = {"true", "false", "nil", "number", "string"}
_BLOCKS = {"chunk", "block"}


class Node:
    """One named part of a script. `field` is its role in its parent; comments are left out of the tree.

    `index` is its place in `Tree.nodes`, `last` that of the last node inside of it. `start` and `end` are bytes.
    """

    __slots__ = ("children", "end", "field", "index", "last", "operator", "parent", "start", "type")

    def __init__(self, type_: str, field: str | None, parent: Node | None, index: int, start: int, end: int) -> None:
        self.type = type_
        self.field = field
        self.parent = parent
        self.index = self.last = index
        self.start = start
        self.end = end
        self.operator: str | None = None
        self.children: list[Node] = []

    def child(self, field: str) -> Node | None:
        """The first child in this role."""
        for node in self.children:
            if node.field == field:
                return node
        return None

    def having(self, field: str) -> list[Node]:
        return [node for node in self.children if node.field == field]

    @property
    def is_statement(self) -> bool:
        """A call is one only where it stands for itself, and an assignment not inside of its `local`."""
        if self.type not in STATEMENTS:
            return False
        if self.type not in ("function_call", "assignment_statement"):
            return True
        return self.parent is not None and self.parent.type in _BLOCKS

    def __repr__(self) -> str:
        return f"Node({self.type} {self.start}-{self.end})"


class Tree:
    """A parsed script."""

    def __init__(self, source: bytes, nodes: list[Node], broken: bool) -> None:
        self.source = source
        self.nodes = nodes
        self.broken = broken
        self._starts = [0, *(found.end() for found in _LINE_END.finditer(source))]

    def text(self, node: Node) -> str:
        return self.source[node.start : node.end].decode(errors="replace")

    def line(self, node: Node) -> int:
        """The line at which a node begins, as Lua counts them, from 1."""
        return bisect_right(self._starts, node.start)

    def line_at(self, position: int) -> int:
        return bisect_right(self._starts, position)

    def column(self, node: Node) -> int:
        """The character of its line at which a node begins, from 1."""
        before = self.source[self._starts[self.line(node) - 1] : node.start]
        return len(before.decode(errors="replace")) + 1

    def walk(self) -> Iterator[tuple[Node, bool]]:
        """Each node when it is entered (True) and when it is left (False), in the order of the text."""
        inside: list[Node] = []
        for node in self.nodes:
            while inside and inside[-1].last < node.index:
                yield inside.pop(), False
            yield node, True
            inside.append(node)
        while inside:
            yield inside.pop(), False


class Param(NamedTuple):
    """A `param("name", default, low, high)` of a script, and its line."""

    name: str
    default: float
    low: float
    high: float
    line: int


def parse(source: bytes) -> Tree:
    """The tree of any text, also of one that is no Lua.

    What Lua accepts takes milliseconds. Of other texts some take the parser's error recovery quadratic time (seconds
    for 32 KiB of `[`), so ask Lua first.
    """
    readable = _LONE_RETURN.sub(b"\n", source).replace(b"\0", b" ")       # to Lua a lone \r ends a line; \0 ends none
    parsed = tree_sitter.Parser(_LUA).parse(readable)
    cursor = parsed.walk()
    nodes: list[Node] = []
    parent: Node | None = None
    while True:
        raw = cursor.node
        descend = False
        if raw.is_named and raw.type != "comment":
            node = Node(raw.type, cursor.field_name, parent, len(nodes), raw.start_byte, raw.end_byte)
            nodes.append(node)
            if parent is not None:
                parent.children.append(node)
            descend = cursor.goto_first_child()
            if descend:
                parent = node
        elif parent is not None and cursor.field_name == "operator":
            parent.operator = raw.type
        if descend or cursor.goto_next_sibling():
            continue
        while True:
            if parent is None or not cursor.goto_parent():
                return Tree(source, nodes, parsed.root_node.has_error)
            parent.last = len(nodes) - 1
            parent = parent.parent
            if cursor.goto_next_sibling():
                break


def without_comments(source: bytes) -> bytes:
    """A script with blanks in place of its comments, so that a word of them is not taken for one of its code. Lines and
    places stay. It reads tokens as Lua does, so it is for texts that Lua accepts; of others it may leave out more."""
    return _COMMENT_OR_TEXT.sub(
        lambda found: _IN_LINE.sub(b" ", found[0]) if found[0].startswith(b"--") else found[0], source
    )


_COMMENT_OR_TEXT = re.compile(
    rb"--\[(=*)\[.*?\]\1\]|--[^\r\n]*|\[(=*)\[.*?\]\2\]|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'", re.DOTALL
)
_IN_LINE = re.compile(rb"[^\r\n]")


def constant(tree: Tree, node: Node) -> str | float | bool | None:
    """The value of a literal; a number may have a minus. None for anything else, and for nil."""
    if node.type == "unary_expression" and node.operator == "-":
        operand = node.child("operand")
        value = constant(tree, operand) if operand is not None and operand.type == "number" else None
        return -value if isinstance(value, int | float) else None
    if node.type == "number":
        return _number(tree.text(node))
    if node.type == "string":
        return _string(tree.source[node.start : node.end])
    if node.type in ("true", "false"):
        return node.type == "true"
    return None


def _number(text: str) -> float | None:
    text = text.lower()
    try:
        if not text.startswith("0x"):
            return int(text) if text.isdigit() else float(text)
        return float.fromhex(text) if "." in text or "p" in text else int(text, 16)
    except (ValueError, OverflowError):
        return None


def _string(raw: bytes) -> str:
    if raw[:1] == b"[":
        level = raw.find(b"[", 1) + 1
        inner = raw[level:-level]
        return re.sub(rb"\A(?:\r\n|\n\r|\r|\n)", b"", inner).decode(errors="replace")
    return _ESCAPE.sub(_unescaped, raw[1:-1]).decode(errors="replace")


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[0][1:]
    if code[:1] == b"z":
        return b""
    if code[:1] == b"x" and len(code) == 3:
        return bytes([int(code[1:], 16)])
    if code.isdigit():
        return bytes([min(int(code), 255)])
    if code[:2] == b"u{":
        point = int(code[2:-1], 16)
        return chr(point).encode(errors="replace") if point <= 0x10FFFF else b"?"
    return _SIMPLE.get(code, code)


def arguments(call: Node) -> list[Node]:
    given = call.child("arguments")
    return given.children if given is not None else []


def is_plain_key(tree: Tree, entry: Node) -> bool:
    """Is the key of a table's entry a bare name, as in `{ name = 1 }`, and no expression in brackets?"""
    key = entry.child("name")
    return key is not None and key.type == "identifier" and tree.source[entry.start : entry.start + 1] != b"["


def called_name(tree: Tree, call: Node) -> str | None:
    """`f` of a call `f(...)`; None for calls of anything but a plain name."""
    name = call.child("name")
    return tree.text(name) if name is not None and name.type == "identifier" else None


def params(source: bytes) -> list[Param]:
    """The numbers that a script names by `param(...)` with literal arguments, wherever they stand."""
    tree = parse(source)
    found = []
    for node in tree.nodes:
        if node.type != "function_call" or called_name(tree, node) != "param":
            continue
        values = [constant(tree, argument) for argument in arguments(node)]
        if len(values) == 4 and isinstance(values[0], str) and all(_is_number(value) for value in values[1:]):
            found.append(Param(*values, line=tree.line(node)))  # type: ignore[arg-type]
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def statement_lines(source: bytes) -> set[int]:
    """The lines at which a statement starts that Lua executes, for line coverage.

    `elseif` counts, as it asks something. What Lua makes no code of does not: `do`, `repeat`, labels, jumps (`break`,
    `goto`: the condition before them jumps), a `local` without a value, an `if` or a loop with a constant condition.
    """
    tree = parse(source)
    return {tree.line(node) for node in tree.nodes if node.is_statement and _runs(node)}


def covered(source: bytes, seen: set[int]) -> set[int]:
    """Those of `statement_lines` that ran, by the lines that Lua's line hook saw.

    The hook names a `local function` by its last line and a long statement by any of its lines. So a statement ran when
    a line was seen that is its own: inside of it, and of no statement inside of it.
    """
    tree = parse(source)
    owner: dict[int, int] = {}
    for node in tree.nodes:                                    # inner ones come later and take their lines
        if node.is_statement and _runs(node):
            first = tree.line(node)
            owner |= dict.fromkeys(range(first, tree.line_at(node.end - 1) + 1), first)
    return {owner[line] for line in seen if line in owner}


def _runs(node: Node) -> bool:
    if node.type in ("do_statement", "repeat_statement", "label_statement", "break_statement", "goto_statement"):
        return False
    if node.type == "variable_declaration":
        return any(child.type == "assignment_statement" for child in node.children)
    if node.type in ("if_statement", "elseif_statement", "while_statement"):
        condition = node.child("condition")
        return condition is None or condition.type not in _CONSTANTS
    return True
