"""The texts and numbers of a script, by the field they are compared with.

Called by whoever makes up requests and workers for a script: values that it asks for must come up among them.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from rbeerouter.routing.language import LANGUAGE, Language
from rbeerouter.routing.syntax import Node, Tree, arguments, constant, is_plain_key, parse
from rbeerouter.workbench.flow import endings
from rbeerouter.workbench.kinds import RELATIONS, Kind, Kinds
from rbeerouter.workbench.scopes import Scopes

Literal = str | int | float
_COMPARES = RELATIONS | {"==", "~="}
_ASKS = {"starts_with", "ends_with", "contains", "find", "match", "get"}


class Literals(msgspec.Struct, frozen=True):
    """`request`, `worker` and `clock`: the constants by field, as {"metadata.tier": {"premium"}, "max_tokens": {100}}.

    `texts` and `numbers` hold all constants of the script, these and the others.
    """

    request: dict[str, set[Literal]]
    worker: dict[str, set[Literal]]
    clock: dict[str, set[Literal]]
    texts: set[str]
    numbers: set[float]


def literals(source: bytes, language: Language = LANGUAGE) -> Literals:
    """Never raises; of a text that is no Lua little may be found."""
    tree = parse(source)
    search = _Search(tree, language)
    texts: set[str] = set()
    numbers: set[float] = set()
    for node in tree.nodes:
        if not tree.broken:
            search.look(node)
        value = constant(tree, node)
        if isinstance(value, str):
            texts.add(value)
        elif value is not None and not isinstance(value, bool):
            numbers.add(value)
    found = search.found
    return Literals(dict(found["request"]), dict(found["worker"]), dict(found["clock"]), texts, numbers)


class _Search:
    def __init__(self, tree: Tree, language: Language) -> None:
        if not tree.broken:
            self._tree = tree
            self._scopes = Scopes(tree)
            self._kinds = Kinds(tree, self._scopes, language, endings(tree, self._scopes))
        self.found: dict[str, dict[str, set[Literal]]] = defaultdict(lambda: defaultdict(set))

    def look(self, node: Node) -> None:
        if node.type == "binary_expression" and node.operator in _COMPARES:
            left, right = node.child("left"), node.child("right")
            self._note(self._kinds.of(left), self._values(right))
            self._note(self._kinds.of(right), self._values(left))
        elif node.type == "function_call":
            self._call(node)
        elif node.type == "bracket_index_expression":
            self._note(self._kinds.of(node.child("field")), self._keys(node.child("table")))

    def _call(self, node: Node) -> None:
        callee, given = node.child("name"), arguments(node)
        if callee is None or callee.type != "method_index_expression" or not given:
            return
        method = callee.child("method")
        if method is None or self._tree.text(method) not in _ASKS:
            return
        if self._tree.text(method) == "get":
            self._note(self._kinds.of(node), self._values(given[1] if len(given) > 1 else None))
        else:
            self._note(self._kinds.of(callee.child("table")), self._values(given[0]))

    def _note(self, kind: Kind, values: set[Literal]) -> None:
        if kind.path is not None and values:
            owner, field = kind.path
            self.found[owner][field] |= values

    def _values(self, node: Node | None) -> set[Literal]:
        """The constant that an expression is, also through a local that holds it."""
        node = self._behind(node)
        value = constant(self._tree, node) if node is not None else None
        return {value} if value is not None and not isinstance(value, bool) else set()

    def _keys(self, node: Node | None) -> set[Literal]:
        """The keys of a table that is written out: `tiers[request.metadata.tier]` asks for each of them."""
        node = self._behind(node)
        found: set[Literal] = set()
        for entry in node.children if node is not None and node.type == "table_constructor" else ():
            key = entry.child("name")
            if key is not None:
                found |= {self._tree.text(key)} if is_plain_key(self._tree, entry) else self._values(key)
        return found

    def _behind(self, node: Node | None) -> Node | None:
        if node is None or node.type != "identifier":
            return node
        variable = self._scopes.variable(node)
        writes = variable.writes if variable is not None else []
        return writes[0].value if len(writes) == 1 else None
