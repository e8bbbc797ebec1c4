"""The lines of a script with other defaults in its param()s, to be pasted into it.

`tune` prints them for what it recommends. The script itself is changed by nobody but its owner.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rbeerouter.routing.syntax import Node, Tree, arguments, called_name, constant, parse

_LINE_END = re.compile(r"\r\n|\n\r|\r|\n")


def pasted(source: bytes, values: Mapping[str, float]) -> list[tuple[int, str]]:
    """(line, its text) of each line that changes when the params get these defaults; comments and spacing stay.

    Params that are not named by a literal text and number have no place that could be changed.
    """
    tree = parse(source)
    edits: list[tuple[Node, str]] = []
    for node in tree.nodes:
        default = _default(tree, node, values)
        if default is not None:
            edits.append(default)
    lines: dict[int, None] = {}
    text = source
    for node, number in sorted(edits, key=lambda edit: -edit[0].start):      # from the end, so that places stay right
        text = text[: node.start] + number.encode() + text[node.end :]
        lines[tree.line(node)] = None
    changed = _LINE_END.split(text.decode(errors="replace"))
    return [(line, changed[line - 1]) for line in sorted(lines)]


def _default(tree: Tree, node: Node, values: Mapping[str, float]) -> tuple[Node, str] | None:
    """The default of a call of param() that has to change, and to what."""
    if node.type != "function_call" or called_name(tree, node) != "param":
        return None
    given = arguments(node)
    if len(given) != 4:
        return None
    name, now = constant(tree, given[0]), constant(tree, given[1])
    if not isinstance(name, str) or name not in values or isinstance(now, bool) or not isinstance(now, int | float):
        return None
    return (given[1], shown(values[name])) if now != values[name] else None


def shown(value: float) -> str:
    """A number as Lua reads it: whole ones without a point only if they are int."""
    return str(value) if isinstance(value, int) else f"{value:.12g}" if not value.is_integer() else f"{value:.1f}"
