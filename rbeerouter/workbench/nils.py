"""Values that may be nil and are used as if they were not: `workers:filter(f)[1].id`, `w.vram > 30`.

Called by the checker. All of these are warnings. What was looked at before, by the order of the text, is trusted: a
value that stood in a condition, before `and` or `or`, in `assert` or beside `nil`, and a list whose length was asked.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rbeerouter.routing.syntax import Node, Tree, arguments, called_name
from rbeerouter.workbench.finding import WARNING, Report
from rbeerouter.workbench.kinds import RELATIONS, Kind, Kinds
from rbeerouter.workbench.scopes import Scopes, Variable

_ARITHMETIC = {"+", "-", "*", "/", "//", "%", "^", ".."}
_INDEXES = {"dot_index_expression", "bracket_index_expression", "method_index_expression"}
_CONDITIONS = {"if_statement", "elseif_statement", "while_statement", "repeat_statement"}
_NEEDS_TEXT = {"hash_str", "pick_by_hash", "starts_with", "ends_with", "contains", "strategy"}
_KEEPS_LENGTH = {"sort_by", "map"}
_LOOKS_AT_LENGTH = {"len", "is_empty"}
_THIRD = re.compile(r"\[-?(?!1\])\d+\]$")
"""An index other than 1 and -1."""
_LONGEST = 200


class _Place(NamedTuple):
    """What an expression names: a variable, and the text that follows it, such as ".metadata.tier" or "[1]"."""

    variable: Variable
    rest: str


class Nils:
    """One run over a script, in the order of its text."""

    def __init__(self, report: Report, scopes: Scopes, kinds: Kinds) -> None:
        self._report = report
        self._tree: Tree = report.tree
        self._scopes = scopes
        self._kinds = kinds
        self._tested: set[_Place] = set()
        self._seen: list[tuple[int, _Place]] = []              # what was mentioned and is not tested, by start
        self._roots: dict[int, Node] = {}                      # of each chain of indexes and calls, its first name

    def check(self) -> None:
        for node, entering in self._tree.walk():
            if entering:
                continue
            self._find_root(node)
            self._judge(node)
            place = self._place(node)
            if place is not None:
                self._seen.append((node.start, place))
            self._learn(node)

    def _find_root(self, node: Node) -> None:
        if node.type == "identifier":
            self._roots[node.index] = node
        elif node.type in _INDEXES or node.type in ("function_call", "parenthesized_expression"):
            first = node.children[0] if node.children else None
            if first is not None and first.index in self._roots:
                self._roots[node.index] = self._roots[first.index]

    def _place(self, node: Node) -> _Place | None:
        root = self._roots.get(node.index)
        variable = self._scopes.variable(root) if root is not None else None
        if root is None or variable is None or node.end - root.end > _LONGEST:
            return None
        return _Place(variable, "".join(self._tree.source[root.end : node.end].decode(errors="replace").split()))

    # What counts as a test.

    def _learn(self, node: Node) -> None:
        parent = node.parent
        if parent is None:
            return
        is_condition = node.field == "condition" and parent.type in _CONDITIONS
        is_choice = node.field == "left" and parent.type == "binary_expression" and parent.operator in ("and", "or")
        is_length = parent.type == "unary_expression" and parent.operator in ("#", "not")
        is_asked = (
            parent.type == "method_index_expression" and node.field == "table"
            and self._name(parent.child("method")) in _LOOKS_AT_LENGTH
        )  # fmt: skip
        call = parent.parent
        is_given = parent.type == "arguments" and call is not None and called_name(self._tree, call) in (
            "assert", "ipairs", "pairs", "type", "tonumber",
        )  # fmt: skip
        is_compared = node.operator in ("==", "~=") and any(child.type == "nil" for child in node.children)
        if is_condition or is_choice or is_length or is_asked or is_given or is_compared:
            self._test(node.start)

    def _test(self, start: int) -> None:
        """All that was mentioned from there on is looked at now."""
        while self._seen and self._seen[-1][0] >= start:
            self._tested.add(self._seen.pop()[1])

    def _is_tested(self, node: Node) -> bool:
        if self._is_sure(node):
            return True
        variable = self._scopes.variable(node) if node.type == "identifier" else None
        if variable is None or variable.sort != "local":
            return False
        values = [write.value for write in variable.writes]    # `local w = list[1]` is as sure as what it takes
        return all(value is not None and (not self._kinds.of(value).maybe or self._is_sure(value)) for value in values)

    def _is_sure(self, node: Node) -> bool:
        source = self._list_behind(node)
        return self._place(node) in self._tested or (source is not None and self._place(source) in self._tested)

    def _list_behind(self, node: Node) -> Node | None:
        """The list whose emptiness decides whether this item of it is nil."""
        while node.type == "parenthesized_expression" and node.children:
            node = node.children[0]
        table: Node | None = None
        if node.type == "bracket_index_expression":
            table = node.child("table")
        elif node.type == "function_call":
            callee = node.child("name")
            table = callee.child("table") if callee is not None and callee.type in _INDEXES else None
        while table is not None and table.type == "function_call":
            callee = table.child("name")
            if callee is None or self._name(callee.child("method")) not in _KEEPS_LENGTH:
                break
            table = callee.child("table")
        return table

    # What is wrong with nil.

    def _judge(self, node: Node) -> None:
        if node.type in _INDEXES:
            table = node.child("table")
            if table is not None and table.end != node.end:
                self._index(table)
        elif node.type == "binary_expression" and (node.operator in RELATIONS or node.operator in _ARITHMETIC):
            for side in (node.child("left"), node.child("right")):
                if side is not None:
                    self._operand(side, str(node.operator))
        elif node.type == "function_call":
            callee = node.child("name")
            name = self._name(callee.child("method") or callee) if callee is not None else ""
            if name in _NEEDS_TEXT and not self._is_list_method(callee, name):
                for argument in arguments(node)[:1]:
                    if self._may_be_nil(argument):
                        shown = self._shown(argument)
                        message = f"{shown} may be nil, and {name} needs a text"
                        self._report.add(argument, WARNING, "may-be-nil", message, f'write {shown} or ""')

    def _is_list_method(self, callee: Node | None, name: str) -> bool:
        """`list:contains(nil)` is false, and no error."""
        owner: Kind = self._kinds.of(callee.child("table")) if callee is not None else Kind("unknown")
        return name == "contains" and owner.name != "text"

    def _index(self, table: Node) -> None:
        if not self._may_be_nil(table):
            return
        shown = self._shown(table)
        kind = self._kinds.of(table)
        if kind.name == "worker" or self._list_behind(table) is not None:
            short = "empty" if not _THIRD.search(self._shown(table)) else "too short"
            message = f"{shown} is nil when the list is {short}"
        else:
            message = f"{shown} may be nil"
        simple = shown != "this" and "(" not in shown
        hint = f"check it first: if {shown} then ... end" if simple else "keep it in a local, and check that first"
        self._report.add(table, WARNING, "may-be-nil", message, hint)

    def _operand(self, side: Node, operator: str) -> None:
        if self._may_be_nil(side):
            shown = self._shown(side)
            kind = self._kinds.of(side)
            default = '""' if operator == ".." or kind.name == "text" else "0"
            message = f"{shown} may be nil, and nil cannot be {_DONE.get(operator, 'compared')}"
            self._report.add(side, WARNING, "may-be-nil", message, f"write ({shown} or {default})")

    def _may_be_nil(self, node: Node) -> bool:
        """Asked once for each place: what was told of once is not told of again."""
        if not self._kinds.of(node).maybe or self._is_tested(node):
            return False
        place = self._place(node)
        if place is not None:
            self._tested.add(place)
        return True

    def _shown(self, node: Node) -> str:
        text = self._tree.text(node) if node.end - node.start < 200 else "..."
        if node.type == "parenthesized_expression":
            text = text[1:-1]
        return text if len(text) <= 50 and "\n" not in text else "this"

    def _name(self, node: Node | None) -> str:
        return self._tree.text(node) if node is not None and node.type == "identifier" else ""


_DONE = {"..": "joined"} | dict.fromkeys("+-*/%^", "calculated with") | {"//": "calculated with"}
