"""What the hooks return, and the tables in which they say it: answers that the daemon cannot use.

Called by the checker, after the other checks. A `return` is looked at only where it stands in a hook itself; what a
hook's helpers give is known by its kind alone. An error is only what fails each time it is the answer: where a hook may
also be called by the script itself, all of these are warnings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

from rbeerouter.routing.language import Language
from rbeerouter.routing.syntax import FUNCTIONS, Node, Tree, arguments, constant, is_plain_key
from rbeerouter.workbench.finding import ERROR, WARNING, Report, nearest
from rbeerouter.workbench.kinds import Kinds
from rbeerouter.workbench.scopes import Scopes, Variable

_VALUES = {"text", "number", "boolean"}
_NO_ANSWER = {"request", "metadata", "clock", "state", "attempt", "strategy", "function", "method", "global", "library"}
_SHOWN = {
    "request": "the request", "state": "state", "clock": "timestamp()", "attempt": "the attempt",
    "library": "a library", "metadata": "metadata",
}  # fmt: skip
_NEVER_NIL = {"string", "number", "true", "false", "table_constructor", "function_definition", "unary_expression"}
_PLAIN = {"identifier", "dot_index_expression", "table_constructor", "string", "number", "true", "false"}
_ACTIONS = {"queue", "reject"}


class _Entry(NamedTuple):
    """One `name = value` of a table; `name` is None where it is no text that stands there."""

    key: Node
    name: str | None
    value: Node


class _Hook(NamedTuple):
    """`severity`: of what cannot be an answer of it."""

    name: str
    severity: str


class Answers:
    """One run over a script. The headers are those of `[routing]`; None when they are not known."""

    def __init__(
        self,
        report: Report,
        scopes: Scopes,
        kinds: Kinds,
        language: Language,
        set_headers: Collection[str] | None = None,
    ) -> None:
        self._report = report
        self._tree: Tree = report.tree
        self._scopes = scopes
        self._kinds = kinds
        self._language = language
        self._set_headers = set_headers
        self._hooks = self._find_hooks()
        self._told = {found.line for found in report.sorted() if found.severity == ERROR}

    def check(self) -> None:
        for node in self._tree.nodes:
            if node.type == "function_call":
                self._options(node)
            elif node.type == "return_statement" and node.children:
                function = self._scopes.inside(node)
                hook = self._hooks.get(function.index) if function is not None else None
                if hook is not None:
                    self._return(node.children[0].children, hook)

    def _find_hooks(self) -> dict[int, _Hook]:
        """The functions that are hooks, by their index."""
        if "_ENV" in self._scopes.globals or any(variable.name == "_ENV" for variable in self._scopes.locals):
            return {}                                          # globals are somewhere else then
        found = {}
        for name in self._language.hooks:
            variable = self._scopes.globals.get(name)
            for write in variable.writes if variable is not None else ():
                if variable is not None and write.value is not None and write.value.type in FUNCTIONS:
                    sole = len(variable.writes) == 1 and not variable.reads
                    found[write.value.index] = _Hook(name, ERROR if sole else WARNING)
        return found

    # What is returned.

    def _return(self, values: list[Node], hook: _Hook) -> None:
        if hook.name == "on_complete":
            self._ignored(values[0], hook)
            return
        for node, is_whole in _outcomes(values[0]):
            table = self._table(node, hook)
            if table is not None:
                self._answer_table(table, hook, len(values) > 1)
            elif self._tree.line(node) not in self._told:
                self._value(node, hook, is_whole)
        if len(values) > 1 and self._is_value(values[1], {"number", "boolean"}):
            message = "the second value that is returned is the reason, a text"
            self._report.add(values[1], hook.severity, "answer", message)

    def _value(self, node: Node, hook: _Hook, is_whole: bool) -> None:
        """Something other than a table."""
        kind, value = self._kinds.of(node), constant(self._tree, node)
        wanted = "nil leaves the choice to the strategy, reject{...} refuses the request"
        if hook.name == "route_request" and value is False:
            self._report.add(node, hook.severity, "answer", "route_request cannot answer false", wanted)
        elif value is True or self._is_value(node, {"number"}):
            shown = "true" if value is True else "a number"
            hint = "return the worker itself: return w" if hook.name == "route_request" else "return a worker, or nil"
            self._report.add(node, hook.severity, "answer", f"{hook.name} cannot answer {shown}", hint)
        elif hook.name == "route_request" and is_whole and self._is_value(node, {"boolean"}):
            self._report.add(node, hook.severity, "answer", "route_request cannot answer true or false", wanted)
        elif hook.name == "on_failure" and self._called(node) == "queue":
            hint = "return a worker, a list of workers, nil, false or reject{...}"
            self._report.add(node, hook.severity, "answer", "on_failure cannot let the request wait", hint)
        elif kind.name in _NO_ANSWER and not kind.maybe and not self._is_global(node):
            what = _SHOWN.get(kind.name, "a function")
            call_it = "call it: strategy(name)(request, workers)" if kind.name == "strategy" else None
            self._report.add(node, hook.severity, "answer", f"{hook.name} cannot answer {what}", call_it)
        elif hook.name == "route_request" and node.operator == "and" and is_whole:
            self._may_be_false(node)

    def _may_be_false(self, node: Node) -> None:
        """`return #ready > 0 and ready[1]` is false when nobody is ready, which is no answer."""
        left = node.child("left")
        if left is not None and self._kinds.of(left).name == "boolean":
            message = "this is false when its first part is, and route_request cannot answer false"
            self._report.add(node, WARNING, "answer", message, "write (... and ...) or nil")

    def _ignored(self, node: Node, hook: _Hook) -> None:
        kind = self._kinds.of(node)
        told = kind.name in ("worker", "list") or self._called(node) in _ACTIONS
        if hook.severity == ERROR and (told or node.type in _PLAIN):     # `return log(...)` is a way to leave
            message = "nobody looks at what on_complete returns: the request has been answered"
            self._report.add(node, WARNING, "ignored-answer", message)

    # Tables.

    def _table(self, node: Node, hook: _Hook) -> Node | None:
        """The table that is written out there, or that the returned local was given and still is."""
        if node.type != "identifier":
            return node if node.type == "table_constructor" else None
        variable = self._scopes.variable(node)
        if variable is None or variable.sort != "local" or len(variable.writes) != 1:
            return None
        table = variable.writes[0].value
        if table is None or table.type != "table_constructor":
            return None
        targets = self._filled(variable, node, hook)
        if targets is None:
            return None
        keys = self._language.answer
        for field in targets:
            name = self._tree.text(field)
            if name not in keys:
                self._report.add(field, WARNING, "unknown-key", f"an answer has no key '{name}'", _hint(name, keys))
        return table if all(self._tree.text(field) in keys for field in targets) else None

    def _filled(self, variable: Variable, returned: Node, hook: _Hook) -> list[Node] | None:
        """The fields that are set in a local, None when something else is done with it than setting and returning."""
        fields = []
        for node in variable.reads:
            parent = node.parent
            if parent is None:
                return None
            field = parent.child("field")
            if parent.type == "dot_index_expression" and parent.field == "name" and field is not None:
                if parent.parent is None or parent.parent.type != "variable_list":
                    return None
                fields.append(field)
            elif node is not returned and not self._is_returned(node, hook):
                return None
        return fields

    def _is_returned(self, node: Node, hook: _Hook) -> bool:
        above = node.parent.parent if node.parent is not None and node.parent.type == "expression_list" else None
        function = self._scopes.inside(node)
        return above is not None and above.type == "return_statement" and function is not None and (
            self._hooks.get(function.index) == hook
        )  # fmt: skip

    def _answer_table(self, table: Node, hook: _Hook, has_reason: bool) -> None:
        """`{ worker = w, model = "x" }`. With a first item it is a list, and its names are not looked at."""
        entries, keys = list(_entries(self._tree, table)), self._language.answer
        is_list = len(entries) < len(table.children)
        is_open = any(entry.name is None for entry in entries)
        for entry in entries:
            if entry.name is None:
                continue
            sure = not is_open and self._is_never_nil(entry.value)
            if is_list:
                if entry.name in keys:
                    message = f"this table is a list of workers, and its '{entry.name}' is ignored"
                    self._report.add(entry.key, WARNING, "unknown-key", message, "write { worker = { ... }, ... }")
            elif entry.name not in keys:
                severity = hook.severity if sure else WARNING
                message = f"an answer has no key '{entry.name}'"
                self._report.add(entry.key, severity, "unknown-key", message, _hint(entry.name, keys))
            elif not is_open:
                self._answer_value(entry, hook, has_reason)

    def _answer_value(self, entry: _Entry, hook: _Hook, has_reason: bool) -> None:
        name = str(entry.name)
        wanted = self._language.answer[name].split("|")
        action = self._called(entry.value)
        if name == "worker" and action in _ACTIONS:
            message = f"{action}(...) is an answer of its own and no worker"
            self._report.add(entry.value, hook.severity, "answer", message, f"write return {action}(...)")
        elif self._is_value(entry.value, _VALUES - {*wanted}) and not (name == "reason" and has_reason):
            got = self._kinds.of(entry.value).name
            message = f"{name} is {' or '.join(f'a {kind}' for kind in wanted)}, not a {got}"
            self._report.add(entry.value, hook.severity, "answer", message)
        elif name == "headers" and entry.value.type == "table_constructor" and self._set_headers is not None:
            self._headers(entry.value, self._set_headers, hook)

    def _headers(self, table: Node, known: Collection[str], hook: _Hook) -> None:
        for entry in _entries(self._tree, table):
            if entry.name is not None and entry.name.lower() not in known:
                severity = hook.severity if self._is_never_nil(entry.value) else WARNING
                near = nearest(entry.name, known)
                hint = f"did you mean {near}?" if near else "it has " + ", ".join(sorted(known)) if known else None
                message = f"the header '{entry.name}' is not in [routing] set_headers"
                self._report.add(entry.key, severity, "unknown-header", message, hint)

    def _options(self, call: Node) -> None:
        """The keys of the tables that queue and reject take."""
        name = self._called(call)
        known = self._language.options.get(name or "", frozenset())
        for table in arguments(call) if known else ():
            for entry in _entries(self._tree, table) if table.type == "table_constructor" else ():
                if entry.name is not None and entry.name not in known:
                    severity = ERROR if self._is_never_nil(entry.value) else WARNING
                    message = f"{name} has no option '{entry.name}'"
                    self._report.add(entry.key, severity, "unknown-option", message, _hint(entry.name, known))

    # What is known of an expression.

    def _called(self, node: Node) -> str | None:
        """The function of the language that is called here."""
        kind = self._kinds.of(node.child("name")) if node.type == "function_call" else None
        return str(kind.detail) if kind is not None and kind.name == "global" else None

    def _is_value(self, node: Node, names: set[str]) -> bool:
        kind = self._kinds.of(node)
        return kind.name in names and not kind.maybe and self._is_never_nil(node)

    def _is_never_nil(self, node: Node) -> bool:
        """Whatever runs before: a table's entry that is nil is not there at all."""
        while node.type == "parenthesized_expression" or (node.type == "binary_expression" and node.operator == "or"):
            node = node.children[-1]
        if node.type in _NEVER_NIL or (node.type == "binary_expression" and node.operator != "and"):
            return True
        kind = self._kinds.of(node)
        if kind.name not in _VALUES or kind.maybe:
            return False
        if node.type == "function_call":
            return self._kinds.of(node.child("name")).name in ("global", "method")
        return node.type == "dot_index_expression" and self._kinds.of(node.child("table")).name == "worker"

    def _is_global(self, node: Node) -> bool:
        """Is it a global of the script's own, which may not be there yet?"""
        variable = self._scopes.variable(node)
        return variable is not None and variable.sort == "global" and bool(variable.writes)


def _outcomes(node: Node) -> Iterator[tuple[Node, bool]]:
    """The parts of `a and b or c` that may be what it gives, and whether it is the whole. Of `a or b` the first part
    is given only where it is neither nil nor false."""
    whole, waiting = node, [(node, False)]
    while waiting:
        node, is_truthy = waiting.pop()
        if node.type == "parenthesized_expression" and node.children:
            if whole is node:
                whole = node.children[0]
            waiting.append((node.children[0], is_truthy))
        elif node.type == "binary_expression" and node.operator in ("and", "or") and len(node.children) == 2:
            left, right = node.children
            waiting.append((right, is_truthy))
            if node.operator == "or":
                waiting.append((left, True))
            elif node is whole:
                yield node, True
        elif not (is_truthy and node.type in ("false", "nil")):
            yield node, node is whole


def _entries(tree: Tree, table: Node) -> Iterator[_Entry]:
    """The entries of a table that have a key."""
    for entry in table.children:
        key, value = entry.child("name"), entry.child("value")
        if key is not None and value is not None:
            name = tree.text(key) if is_plain_key(tree, entry) else constant(tree, key)
            yield _Entry(key, name if isinstance(name, str) else None, value)


def _hint(name: str, known: Collection[str]) -> str:
    near = nearest(name, known)
    return f"did you mean {near}?" if near else "it has " + ", ".join(sorted(known))
