"""Which parts of a script can never run: what stands behind a return, and what a constant condition rules out.

`endings` is also asked by the kinds, to tell whether a function can reach its end and so give nil.
"""

from __future__ import annotations

from rbeerouter.routing.syntax import FUNCTIONS, Node, Tree, called_name
from rbeerouter.workbench.finding import WARNING, Report
from rbeerouter.workbench.scopes import Scopes

_LOOPS = {"while_statement", "repeat_statement", "for_statement"}
_ALWAYS = {"true", "number", "string"}
_NEVER = {"false", "nil"}


def endings(tree: Tree, scopes: Scopes) -> set[int]:
    """The indexes of all blocks and statements behind which the script does not go on."""
    left = _left_loops(tree)
    ends: set[int] = set()
    for node in reversed(tree.nodes):                          # what is inside of a node comes first
        if _ends(node, tree, scopes, ends, left):
            ends.add(node.index)
    return ends


def _ends(node: Node, tree: Tree, scopes: Scopes, ends: set[int], left: set[int]) -> bool:
    def body(part: Node | None) -> bool:
        return part is not None and part.index in ends

    if node.type in ("return_statement", "break_statement", "goto_statement"):
        return True
    if node.type == "function_call":
        return node.is_statement and called_name(tree, node) == "error" and _is_ours(node, scopes)
    if node.type in ("block", "chunk"):
        return _first_after_end(node, ends) is not None or body(node.children[-1] if node.children else None)
    if node.type == "do_statement":
        return body(node.child("body"))
    if node.type == "if_statement":
        condition, others = node.child("condition"), node.having("alternative")
        if not body(node.child("consequence")):
            return False
        if condition is not None and condition.type in _ALWAYS:
            return True
        whole = bool(others) and others[-1].type == "else_statement"
        return whole and all(body(other.child("consequence") or other.child("body")) for other in others)
    if node.type == "while_statement":
        condition = node.child("condition")
        return condition is not None and condition.type in _ALWAYS and node.index not in left
    return node.type == "repeat_statement" and body(node.child("body")) and node.index not in left


def _is_ours(call: Node, scopes: Scopes) -> bool:
    """Is the called name the language's own, not a variable of the script's?"""
    variable = scopes.variable(call.children[0])
    return variable is not None and variable.sort == "global" and not variable.writes


def _first_after_end(block: Node, ends: set[int]) -> Node | None:
    """The first statement of a block that cannot be reached. A label may be reached from elsewhere."""
    for place, node in enumerate(block.children[:-1]):
        if node.index in ends:
            if any(later.type == "label_statement" for later in block.children[place + 1 :]):
                return None
            return block.children[place + 1]
    return None


def _left_loops(tree: Tree) -> set[int]:
    """The loops that a `break`, or a `goto` inside of them, may leave."""
    left: set[int] = set()
    inside: list[Node] = []
    for node in tree.nodes:
        while inside and inside[-1].last < node.index:
            inside.pop()
        if node.type in _LOOPS or node.type in FUNCTIONS:
            inside.append(node)
        elif node.type == "break_statement" and inside:
            left.add(inside[-1].index)
        elif node.type == "goto_statement":
            for around in reversed(inside):
                if around.type in FUNCTIONS or around.index in left:
                    break
                left.add(around.index)
    return left


def check_flow(report: Report, ends: set[int]) -> None:
    """Reports statements that cannot be reached, and conditions that are no question."""
    for node in report.tree.nodes:
        if node.type in ("block", "chunk"):
            lost = _first_after_end(node, ends)
            if lost is not None:
                report.add(lost, WARNING, "unreachable", "this can never run: the code above it always leaves here")
        elif node.type in ("if_statement", "elseif_statement", "while_statement"):
            condition = node.child("condition")
            if condition is None:
                continue
            if condition.type in _NEVER:
                report.add(condition, WARNING, "constant-condition", "this condition is never true")
            elif condition.type in _ALWAYS and node.type != "while_statement":
                hint = "only nil and false are false in Lua" if condition.type != "true" else None
                report.add(condition, WARNING, "constant-condition", "this condition is always true", hint)
