"""Marks each `return` of a hook, so that a decision can name the script line that made it.

Lua cannot say which `return` a finished function took, and a line hook would cost more than the decision. So the text
is changed before it is compiled: `return x` becomes `_rbee_line=12 return x` on the same line, in route_request and
on_failure themselves and not in the functions inside them. The assignment costs some ten nanoseconds. Called by
`routing.script` alone, which falls back to the unmarked text when the marked one does not compile.
"""

from __future__ import annotations

from rbeerouter.routing.syntax import FUNCTIONS, Node, Tree, parse

MARKED = ("route_request", "on_failure")


def mark_returns(source: bytes) -> bytes:
    """The source with each return of a hook marked; the source itself when there is none to mark."""
    if b"_ENV" in source:
        return source                                          # the mark is a global, and globals are elsewhere then
    tree = parse(source)
    if tree.broken:
        return source
    parts: list[bytes] = []
    functions: list[tuple[Node, bool]] = []                    # those around the node, and whether they are hooks
    copied = 0
    for node in tree.nodes:
        while functions and functions[-1][0].last < node.index:
            functions.pop()
        if node.type in FUNCTIONS:
            functions.append((node, function_name(tree, node) in MARKED))
        elif node.type == "return_statement" and functions and functions[-1][1]:
            parts += (source[copied : node.start], b"_rbee_line=%d " % tree.line(node))
            copied = node.start
    return b"".join((*parts, source[copied:])) if parts else source


def function_name(tree: Tree, function: Node) -> str | None:
    """The variable that a function is declared as or assigned to; None for others."""
    name = function.child("name")
    if function.type == "function_definition" and function.field == "value":
        values = function.parent
        assignment = values.parent if values is not None else None
        if values is not None and assignment is not None and assignment.type == "assignment_statement":
            place = values.children.index(function)
            names = [node for node in assignment.children[0].children if node.field == "name"]
            name = names[place] if place < len(names) else None
    return tree.text(name) if name is not None and name.type == "identifier" else None
