"""Fields and methods: those that are not there, dots and colons in the wrong place, arguments that cannot be right.

Called by the checker. It speaks only of values whose kind is known (`kinds`), and calls an error only what raises one
each time the line runs.
"""

from __future__ import annotations

from collections.abc import Collection

from rbeerouter.config.strategies import StrategyError
from rbeerouter.routing.habits import METHODS
from rbeerouter.routing.language import Call, Language
from rbeerouter.routing.strategies import NAMES
from rbeerouter.routing.syntax import Node, Tree, arguments, constant
from rbeerouter.workbench.finding import ERROR, WARNING, Report, nearest
from rbeerouter.workbench.kinds import RELATIONS, Kind, Kinds
from rbeerouter.workbench.scopes import gives_many

_SHOWN = {"text": "a text", "clock": "timestamp()", "metadata": "metadata", "list": "a list", "state": "state"}
_RAISES = {"list", "clock", "state"}
"""What raises when a name is read of it that it has not; text and metadata give nil."""
_VALUES = {"text", "number", "boolean"}
_NO_NUMBER = {"boolean", "list", "request", "worker", "outcome", "attempt", "metadata", "method", "function", "global"}
_JOINED = {"..", "+", "-", "*", "/", "//", "%", "^"}
_CALLABLE = {"function", "method", "global", "strategy"}
_KEPT = {("worker", "metadata"), ("worker", "models"), ("worker", "loras")}
"""What belongs to a worker and cannot be changed either."""
_BY_FIELD = "function|text"
"""What list methods take that work by the name of a field."""


class Members:
    """One run over a script. The headers are those of `[routing]`; None when they are not known."""

    def __init__(
        self, report: Report, kinds: Kinds, language: Language, request_headers: Collection[str] | None = None
    ) -> None:
        self._report = report
        self._tree: Tree = report.tree
        self._kinds = kinds
        self._language = language
        self._request_headers = request_headers
        self._assigned = self._assigned_names()

    def check(self) -> None:
        for node in self._tree.nodes:
            if node.type == "dot_index_expression":
                self._dot(node)
            elif node.type == "bracket_index_expression":
                self._bracket(node)
            elif node.type == "method_index_expression":
                self._method(node)
            elif node.type == "function_call":
                self._call(node)
            elif node.type == "binary_expression":
                self._binary(node)
            if _is_question(node):
                self._uncalled(node, WARNING)

    def _assigned_names(self) -> set[str]:
        """What the script itself puts somewhere may be there wherever it is read."""
        found = set()
        for node in self._tree.nodes:
            if node.type == "dot_index_expression" and _is_target(node):
                field = node.child("field")
                found.add(self._tree.text(field) if field is not None else "")
        return found

    # What is read of what.

    def _dot(self, node: Node) -> None:
        field, owner = node.child("field"), self._kinds.of(node.child("table"))
        if field is None:
            return
        name = self._tree.text(field)
        if _is_target(node):
            self._write(field, name, owner)
            return
        self._member(field, name, owner, _is_callee(node))

    def _bracket(self, node: Node) -> None:
        field, owner = node.child("field"), self._kinds.of(node.child("table"))
        key = constant(self._tree, field) if field is not None else None
        if field is None:
            return
        if _is_target(node):
            self._write(field, key if isinstance(key, str) else "", owner)
        elif isinstance(key, str):
            self._member(field, key, owner, _is_callee(node))
        elif key == 0 and not isinstance(key, bool) and owner.name == "list":
            hint = f"write {self._short(node.child('table'))}[1]"
            self._report.add(field, ERROR, "index-zero", "lists start at [1] in Lua; there is no [0]", hint)

    def _write(self, field: Node, name: str, owner: Kind) -> None:
        """Something is assigned to a field, whose name is "" where it is not known."""
        source = owner.path[0] if owner.path is not None else owner.name
        if owner.name == "worker" or (source == "worker" and owner.path in _KEPT):
            self._report.add(field, ERROR, "read-only", "workers are only read; keep values of your own in a local")
        elif owner.name in ("state", "clock", "library"):
            shown = str(owner.detail) if owner.name == "library" else _SHOWN[owner.name]
            hint = f'write state:set("{name or "name"}", value)' if owner.name == "state" else None
            self._report.add(field, ERROR, "read-only", f"{shown} is only read", hint)
        elif owner.name in ("request", "metadata", "headers") and source == "request":
            hint = 'to send another model, return { worker = w, model = "x" }' if name == "model" else None
            message = "this changes only what the script itself reads, not the request that is sent"
            self._report.add(field, WARNING, "no-effect", message, hint)

    def _member(self, field: Node, name: str, owner: Kind, called: bool) -> None:
        """Something is read by a dot or by ["name"]."""
        if name in self._assigned:
            return
        records, methods = self._language.records, self._language.methods
        if owner.name in records:
            if name not in records[owner.name]:
                self._unknown_field(field, name, owner.name)
        elif owner.name in methods and owner.name != "metadata":
            if name in methods[owner.name]:
                return
            if owner.name in _RAISES:
                self._unknown_member(field, name, owner.name)
            else:
                self._report.add(
                    field, ERROR if called else WARNING, "unknown-field", f"a text has no field '{name}'",
                    self._instead(name, owner.name),
                )  # fmt: skip
        elif owner.name == "headers":
            self._header(field, name)
        elif owner.name == "library":
            self._library(field, name, str(owner.detail), called)
        elif owner.name == "global" and owner.detail in self._language.functions:
            hint = f"write {owner.detail}():{name}()" if owner.detail == "timestamp" else None
            self._report.add(field, ERROR, "index-function", f"{owner.detail} is a function and has no fields", hint)

    def _unknown_field(self, field: Node, name: str, record: str) -> None:
        known = self._language.records[record]
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near else "it has " + ", ".join(known)
        article = "an" if record[0] in "aeiou" else "a"
        what = "the request" if record == "request" else f"{article} {record}"
        self._report.add(field, ERROR, "unknown-field", f"{what} has no field '{name}'", hint)

    def _header(self, field: Node, name: str) -> None:
        known = self._request_headers
        if known is not None and name.lower() not in known:
            near = nearest(name, known)
            hint = f"did you mean {near}?" if near else "add it to request_headers, and reload"
            message = f"the header '{name}' is not in [routing] request_headers"
            self._report.add(field, ERROR, "unknown-header", message, hint)

    def _unknown_member(self, field: Node, name: str, owner: str) -> None:
        self._report.add(
            field, ERROR, "unknown-method", f"{_SHOWN[owner]} has no '{name}'", self._instead(name, owner)
        )

    def _instead(self, name: str, owner: str) -> str | None:
        if name in METHODS and owner in ("list", "text", "clock"):
            return f"instead of {name}, write {METHODS[name]}"
        near = nearest(name, self._language.methods[owner])
        return f"did you mean {near}?" if near else None

    def _library(self, field: Node, name: str, library: str, called: bool) -> None:
        known = self._language.libraries[library]
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {library}.{near}?" if near else None
            message = f"{library} has no '{name}' in routing scripts"
            self._report.add(field, ERROR if called else WARNING, "unknown-function", message, hint)

    # Colons.

    def _method(self, node: Node) -> None:
        table, field = node.child("table"), node.child("method")
        owner = self._kinds.of(table)
        if table is None or field is None:
            return
        name, kinds = self._tree.text(field), self._language
        if name in self._assigned:
            return
        if owner.name in kinds.methods:
            if name not in kinds.methods[owner.name]:
                self._unknown_member(field, name, owner.name)
        elif owner.name in kinds.records:
            if name in kinds.records[owner.name]:
                message, hint = f"{name} is a field, not a method", f"write {self._short(table)}.{name}"
                self._report.add(field, ERROR, "not-a-function", message, hint)
            else:
                self._unknown_field(field, name, owner.name)
        elif owner.name == "headers":
            hint = f'write {self._short(table)}["x-name"]'
            self._report.add(field, ERROR, "unknown-header", "headers have no methods", hint)
        elif owner.name == "library":
            if name in kinds.libraries[str(owner.detail)]:
                message, hint = f"{owner.detail} takes a dot", f"write {owner.detail}.{name}(...)"
                self._report.add(field, ERROR, "colon-call", message, hint)
            else:
                self._library(field, name, str(owner.detail), True)
        elif owner.name == "global" and owner.detail in kinds.functions:
            self._member(field, name, owner, True)

    # Calls.

    def _call(self, node: Node) -> None:
        callee, given = node.child("name"), arguments(node)
        kind = self._kinds.of(callee)
        if callee is None:
            return
        if kind.name in _VALUES and callee.type != "method_index_expression":
            hint = "leave the () out" if kind.path else None
            message = f"{self._short(callee)} is a {kind.name}, not a function"
            self._report.add(node, ERROR, "not-a-function", message, hint)
        elif kind.name == "method" and kind.item is not None:
            call = self._language.methods[kind.item.name][str(kind.detail)]
            if callee.type == "method_index_expression":
                self._arguments(node, given, call, str(kind.detail), kind.item)
                self._field_by_name(given, call, kind.item)
            elif callee.type == "dot_index_expression":
                self._dot_call(node, callee, given, call, kind)
        elif kind.name == "global" and kind.detail in self._language.functions:
            name = str(kind.detail)
            self._arguments(node, given, self._language.functions[name], name, None)
            if name == "strategy" and given:
                self._strategy(given[0])
            elif name == "param":
                self._param(given)

    def _dot_call(self, node: Node, callee: Node, given: list[Node], call: Call, kind: Kind) -> None:
        """`list.filter(list, f)` is right, if odd; `list.filter(f)` is not."""
        assert kind.item is not None
        owner, first = kind.item.name, self._kinds.of(given[0]) if given else None
        few = len(given) < call.least + 1 and not (given and gives_many(given[-1]))
        known = first is not None and first.name not in ("unknown", "nil")
        right = {"list": ("list", "table"), "text": ("text", "number"), "metadata": ("metadata", "table")}
        wrong = known and first is not None and first.name not in right.get(owner, (owner, "table"))
        if owner == "clock":
            return                                             # it needs no self: timestamp().hour() works
        if few or wrong:
            table = callee.child("table")
            inside = ", ".join(self._short(argument) for argument in given)
            hint = f"write {self._short(table)}:{kind.detail}({inside if len(inside) < 50 else '...'})"
            self._report.add(callee, ERROR, "dot-call", f"call {kind.detail} with a colon", hint)

    def _arguments(self, node: Node, given: list[Node], call: Call, name: str, owner: Kind | None) -> None:
        shown = f"{owner.name}:{name}" if owner is not None else name
        open_ended = bool(given) and gives_many(given[-1])
        if len(given) < call.least and not open_ended:
            wanted = f"{shown} takes {_count(call)}, got {len(given)}"
            severity = ERROR if call.takes else WARNING
            self._report.add(node, severity, "arguments", wanted, _usage(name))
            return
        if call.most is not None and len(given) - open_ended > call.most:
            severity = ERROR if name == "rand" else WARNING
            hint = "for a whole number from 1 to 10 write math.random(1, 10)" if name == "rand" else _usage(name)
            self._report.add(node, severity, "arguments", f"{shown} takes {_count(call)}, got {len(given)}", hint)
            return
        for argument, takes in zip(given, call.takes, strict=False):
            kind = self._kinds.of(argument)
            kinds = takes.split("|")
            if kind.name in kinds or kind.name in ("unknown", "groups") or (kind.maybe and "nil" in kinds):
                continue
            if "function" in kinds and kind.name in _CALLABLE:
                continue
            severity = WARNING if kind.name == "number" and kinds == ["text"] else ERROR
            message = f"{shown} expects {' or '.join(map(_article, kinds))} here, got {_article(kind.name)}"
            self._report.add(argument, severity, "argument", message, _usage(name))
        if name == "sort_by" and not given and owner is not None and (owner.item or owner).name == "worker":
            self._report.add(node, ERROR, "arguments", "workers have no order of their own", _usage(name))

    def _field_by_name(self, given: list[Node], call: Call, owner: Kind) -> None:
        """`workers:min_by("load")`: the field is a text."""
        if given and call.takes == (_BY_FIELD,) and owner.item is not None and owner.item.name == "worker":
            name = constant(self._tree, given[0])
            if isinstance(name, str) and name not in self._language.records["worker"]:
                self._unknown_field(given[0], name, "worker")

    def _param(self, given: list[Node]) -> None:
        values = [constant(self._tree, argument) for argument in given[1:]]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(given) == 4 and len(numbers) == 3:
            default, low, high = numbers
            if not low <= default <= high:
                message = f"the default {default:g} is not within {low:g} and {high:g}"
                self._report.add(given[1], ERROR, "argument", message, _usage("param"))

    def _strategy(self, argument: Node) -> None:
        name = constant(self._tree, argument)
        known = self._language.strategies
        if not isinstance(name, str):
            return
        try:
            NAMES.read(name)
        except StrategyError as error:
            if ":" in name or "," in name:                     # a list: which part of it is wrong
                self._report.add(argument, ERROR, "unknown-strategy", f"strategy: {error}", None)
                return
            near = nearest(name, known)
            hint = f'did you mean "{near}"?' if near else "known: " + ", ".join(known)
            self._report.add(argument, ERROR, "unknown-strategy", f"there is no strategy '{name}'", hint)

    # Comparisons.

    def _binary(self, node: Node) -> None:
        left, right, operator = node.child("left"), node.child("right"), node.operator
        if left is None or right is None:
            return
        one, other = self._kinds.of(left), self._kinds.of(right)
        if operator in ("==", "~="):
            self._status(left, one, right)
            self._status(right, other, left)
        for side, beside in ((left, right), (right, left)):
            if operator in RELATIONS or operator in _JOINED:
                self._uncalled(side, ERROR)
            elif operator in ("==", "~=") and beside.type != "nil":
                self._uncalled(side, WARNING)
        if operator in RELATIONS:
            kinds = {one.name, other.name}
            if kinds == {"text", "number"}:
                hint = "make a number of the text: tonumber(x)"
                self._report.add(node, ERROR, "compare", "a text and a number cannot be compared", hint)
            elif (wrong := sorted((kinds & _NO_NUMBER) - {"method"})) and not kinds & {"unknown", "nil", "method"}:
                self._report.add(node, ERROR, "compare", f"{_article(wrong[0])} cannot be compared by {operator}")

    def _status(self, side: Node, kind: Kind, other: Node) -> None:
        if kind.path != ("worker", "status") or kind.name != "text":
            return
        value = constant(self._tree, other)
        if isinstance(value, str) and value not in self._language.statuses:
            near = nearest(value, self._language.statuses)
            known = ", ".join(self._language.statuses)
            hint = f'did you mean "{near}"?' if near else f"a status is one of {known}"
            self._report.add(other, WARNING, "unknown-status", f"no worker's status is '{value}'", hint)

    def _uncalled(self, node: Node, severity: str) -> None:
        kind, table = self._kinds.of(node), node.child("table")
        if kind.name == "method":
            message = f"{kind.detail} is a function and is not called here"
            hint = f"write {self._short(table)}:{kind.detail}()" if table is not None else None
            self._report.add(node, severity, "not-called", message, hint)

    def _short(self, node: Node | None) -> str:
        text = self._tree.text(node) if node is not None and node.end - node.start < 200 else "..."
        return text if len(text) <= 40 and "\n" not in text else "..."


def _is_target(node: Node) -> bool:
    """Is it assigned to?"""
    return node.field == "name" and node.parent is not None and node.parent.type == "variable_list"


def _is_question(node: Node) -> bool:
    """Does it only matter whether this is true?"""
    parent = node.parent
    if parent is None or node.type not in ("identifier", "dot_index_expression"):
        return False
    return node.field == "condition" or (parent.type == "unary_expression" and parent.operator == "not")


def _is_callee(node: Node) -> bool:
    return node.field == "name" and node.parent is not None and node.parent.type == "function_call"


def _count(call: Call) -> str:
    if call.most == 0:
        return "no arguments"
    if call.most is None:
        return f"at least {call.least}"
    return f"{call.least}" if call.least == call.most else f"{call.least} to {call.most}"


def _article(kind: str) -> str:
    return {"nil": "nil", "metadata": "metadata", "global": "a function", "method": "a function"}.get(
        kind, f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
    )


_USAGES = {
    "param": 'write param("canary_percent", 25, 0, 100): name, default, lowest, highest',
    "hash_str": "write hash_str(text)",
    "filter": "write list:filter(function(w) return ... end)",
    "any": "write list:any(function(w) return ... end)",
    "all": "write list:all(function(w) return ... end)",
    "map": "write list:map(function(w) return ... end)",
    "min_by": 'write list:min_by("load") or list:min_by(function(w) return ... end)',
    "max_by": 'write list:max_by("load") or list:max_by(function(w) return ... end)',
    "sort_by": 'write list:sort_by("load") or list:sort_by(function(a, b) return a.load < b.load end)',
    "strategy": 'write strategy("least-request")(request, workers)',
}


def _usage(name: str) -> str | None:
    return _USAGES.get(name)
