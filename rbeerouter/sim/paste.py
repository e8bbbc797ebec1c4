"""A script with other defaults in its param()s, and the lines of it that differ, to be pasted.

`tune` simulates such scripts, so that what it prints is what it tried. The file itself is changed by nobody but its
owner.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rbeerouter.routing.syntax import FUNCTIONS, Node, Tree, arguments, called_name, constant, parse

_LINE_END = re.compile(r"\r\n|\n\r|\r|\n")


def with_defaults(source: bytes, values: Mapping[str, float]) -> bytes:
    """The script in which the params have these defaults; comments and spacing stay.

    Params that are not named by a literal text and number have no place that could be changed.
    """
    for node, number in reversed(_edits(parse(source), values)):             # from the end, so that places stay right
        source = source[: node.start] + number.encode() + source[node.end :]
    return source


def pasted(source: bytes, values: Mapping[str, float]) -> list[tuple[int, str]]:
    """(line, its text) of each line that `with_defaults` changes."""
    tree = parse(source)
    lines = dict.fromkeys(tree.line(node) for node, _ in _edits(tree, values))
    changed = _LINE_END.split(with_defaults(source, values).decode(errors="replace"))
    return [(line, changed[line - 1]) for line in lines]


def settable(source: bytes, names: Iterable[str]) -> bool:
    """Do all these params heed `rbeerouter param`? One that is read outside of every function is read only once."""
    tree = parse(source)
    return {_name(tree, node) for node in _read_once(tree)}.isdisjoint(names)


def loaded_with(source: bytes, values: Mapping[str, float]) -> bytes:
    """The script in which those of the params have these values that are read only once, when it is loaded: to set them
    later would change nothing. Raises ValueError where such a one has no number that could be another."""
    tree, once = parse(source), {}
    for node in _read_once(tree):
        name = _name(tree, node)
        if name is not None and name in values:
            now, value = constant(tree, arguments(node)[1]), values[name]
            if not isinstance(now, int | float) or isinstance(now, bool):
                raise ValueError(
                    f"param {name}: line {tree.line(node)} reads it once, with a default that is no plain number; "
                    "expected one, or param() within a function"
                )
            once[name] = int(value) if isinstance(now, int) and float(value).is_integer() else value
    return with_defaults(source, once) if once else source


def _read_once(tree: Tree) -> list[Node]:
    """The calls of param() outside of every function."""
    return [node for node in tree.nodes if _name(tree, node) is not None and not _within_function(node)]


def shown(value: float) -> str:
    """A number as Lua reads it: a float keeps its point."""
    return str(value) if isinstance(value, int) else f"{value:.1f}" if value.is_integer() else f"{value:.12g}"


def _edits(tree: Tree, values: Mapping[str, float]) -> list[tuple[Node, str]]:
    """The defaults that have to change, and to what, in the order of the text."""
    found = []
    for node in tree.nodes:
        name = _name(tree, node)
        if name is not None and name in values:
            default = arguments(node)[1]
            now = constant(tree, default)
            if isinstance(now, int | float) and not isinstance(now, bool) and now != values[name]:
                found.append((default, shown(values[name])))
    return found


def _name(tree: Tree, node: Node) -> str | None:
    """Of a call of param() that names its param by a literal text."""
    if node.type != "function_call" or called_name(tree, node) != "param":
        return None
    given = arguments(node)
    name = constant(tree, given[0]) if len(given) == 4 else None
    return name if isinstance(name, str) else None


def _within_function(node: Node) -> bool:
    parent = node.parent
    while parent is not None and parent.type not in FUNCTIONS:
        parent = parent.parent
    return parent is not None
