"""What kind of value each expression of a script has, as far as that can be told without running it.

Called by the checker; the checks of members, nil and literals read the result. Parameters of the hooks are known by
their place, items of lists by the list, callbacks by the method that calls them, locals by what they are given, and
parameters of the script's own functions by their calls, also through functions that return functions. Whatever meets
two kinds, or goes where this module cannot follow, becomes unknown, and of unknown things nobody says anything.

Nothing here calls itself: each pass is one loop over the flat tree from its end, so that the parts of an expression
come before the whole, and passes repeat until nothing changes.
"""

from __future__ import annotations

from typing import NamedTuple

from rbeerouter.routing.language import Call, Language
from rbeerouter.routing.syntax import FUNCTIONS, Node, Tree, arguments, constant
from rbeerouter.workbench.scopes import Scopes, Variable, gives_many

_MOST_PASSES = 10
_MOST_VISITS = 250_000
"""A hostile script must not keep the checker: past this nothing is known of any kind."""
_ARITHMETIC = {"+", "-", "*", "/", "//", "%", "^", "&", "|", "~", "<<", ">>"}
RELATIONS = {"<", ">", "<=", ">="}
_HARMLESS = {"type", "tostring", "log", "print", "assert"}


class Kind(NamedTuple):
    """`item`: of a list, what is in it; of a method, what it belongs to. `detail`: the name of a method, function or
    library; of a function of the script, its index in the tree. `path`: whose field it came from and which, as
    ("request", "metadata.tier"). `maybe`: it may be nil."""

    name: str
    item: Kind | None = None
    detail: str | int | None = None
    maybe: bool = False
    path: tuple[str, str] | None = None


UNKNOWN = Kind("unknown")
NIL, BOOLEAN, NUMBER, TEXT, TABLE = Kind("nil"), Kind("boolean"), Kind("number"), Kind("text"), Kind("table")
WORKER = Kind("worker")
_NAMED = {
    "any": UNKNOWN, "workers": Kind("list", WORKER), "texts": Kind("list", TEXT), "list": Kind("list", UNKNOWN),
    "function": UNKNOWN,
}  # fmt: skip
_LITERALS = {
    "string": TEXT, "number": NUMBER, "true": BOOLEAN, "false": BOOLEAN, "nil": NIL, "table_constructor": TABLE,
    "vararg_expression": UNKNOWN,
}  # fmt: skip


def named(text: str, path: tuple[str, str] | None = None) -> Kind:
    """The kind that a word of the language's table means."""
    plain = text.removesuffix("?")
    return _NAMED.get(plain, Kind(plain))._replace(maybe=text.endswith("?"), path=path)


def _filled_by_hand(tree: Tree, scopes: Scopes) -> list[Variable]:
    """The variables of tables into which the script itself puts items, of whatever kind."""
    found = []
    for node in tree.nodes:
        table: Node | None = None
        if node.type == "bracket_index_expression" and node.parent is not None and node.parent.type == "variable_list":
            key = node.child("field")
            if key is None or key.type != "string":            # list["name"] is no item
                table = node.child("table")
        elif node.type == "function_call" and node.children and tree.text(node.children[0]) == "table.insert":
            given = arguments(node)
            table = given[0] if given else None
        variable = scopes.variable(table) if table is not None else None
        if variable is not None:
            found.append(variable)
    return found


class Kinds:
    """`of` gives the kind of an expression."""

    def __init__(self, tree: Tree, scopes: Scopes, language: Language, ends: set[int]) -> None:
        self._tree = tree
        self._scopes = scopes
        self._language = language
        self._kinds: list[Kind | None] = [None] * len(tree.nodes)
        self._variables: dict[Variable, Kind] = {}
        self._returns: dict[int, Kind] = {}
        self._escaped: set[int] = set()
        self._changed = True
        self._filled = _filled_by_hand(tree, scopes)
        self._rules = {
            "identifier": self._identifier, "parenthesized_expression": self._inner,
            "dot_index_expression": self._dot, "bracket_index_expression": self._bracket,
            "method_index_expression": self._method, "function_call": self._call, "unary_expression": self._unary,
            "binary_expression": self._binary, "return_statement": self._return, "for_generic_clause": self._for_each,
            "for_numeric_clause": self._for_number,
        }  # fmt: skip
        for function in (node for node in tree.nodes if node.type in FUNCTIONS):
            body = function.child("body")
            if body is None or body.index not in ends:
                self._give(function.index, NIL)
        self._run()

    def of(self, node: Node | None) -> Kind:
        return (self._kinds[node.index] if node is not None else None) or UNKNOWN

    def variable(self, variable: Variable) -> Kind:
        return self._variables.get(variable) or UNKNOWN

    # The passes.

    def _run(self) -> None:
        nodes = [node for node in reversed(self._tree.nodes) if node.type in self._rules]
        functions = [node for node in self._tree.nodes if node.type in FUNCTIONS]
        for node in self._tree.nodes:
            if node.type in _LITERALS:
                self._kinds[node.index] = _LITERALS[node.type]
        for node in functions:
            self._kinds[node.index] = Kind("function", detail=node.index)
        passes = max(2, min(_MOST_PASSES, _MOST_VISITS // (len(nodes) + 1)))
        for _ in range(passes):
            self._changed = False
            for node in nodes:
                kind = self._rules[node.type](node)
                if kind is not None and kind != self._kinds[node.index]:
                    self._kinds[node.index] = kind
                    self._changed = True
            self._assign()
            self._call_hooks()
            for node in [*nodes, *functions]:
                kind = self._kinds[node.index]
                if kind is not None and kind.name == "function" and self._is_lost(node):
                    self._escape(kind)
            if not self._changed:
                return
        self._kinds = [None] * len(self._kinds)                  # it never came to rest: better to know nothing
        self._variables.clear()

    def _assign(self) -> None:
        for variable in self._filled:
            self._learn(variable, UNKNOWN)
        for variable in [*self._scopes.locals, *self._scopes.globals.values()]:
            for write in variable.writes:
                if write.value is None:
                    self._learn(variable, NIL if write.nil else UNKNOWN)
                else:
                    self._learn(variable, self._kinds[write.value.index])

    def _call_hooks(self) -> None:
        for name, kinds in self._language.hooks.items():
            for write in self._scopes.globals[name].writes if name in self._scopes.globals else ():
                kind = self._kinds[write.value.index] if write.value is not None else None
                if kind is not None and kind.name == "function":
                    self._called(kind, [named(text) for text in kinds])

    def _learn(self, variable: Variable | None, kind: Kind | None) -> None:
        if variable is not None and kind is not None:
            old = self._variables.get(variable)
            new = self._merge(old, kind)
            if new is not None and new != old:
                self._variables[variable] = new
                self._changed = True

    def _merge(self, one: Kind | None, other: Kind | None) -> Kind | None:
        if one is None or one == other:
            return other
        if other is None:
            return one
        if one.name == "nil" or other.name == "nil":
            known = other if one.name == "nil" else one
            return known if known.name == "unknown" else known._replace(maybe=True)
        if one.name == other.name and one.detail == other.detail:
            path = one.path if one.path == other.path else None
            item = self._merge(one.item, other.item)
            return Kind(one.name, item, one.detail, one.maybe or other.maybe, path)
        for kind in (one, other):
            self._escape(kind)
        return UNKNOWN

    def _escape(self, kind: Kind) -> None:
        """A function that goes where it cannot be followed may be called with anything."""
        if kind.name == "function" and isinstance(kind.detail, int) and kind.detail not in self._escaped:
            self._escaped.add(kind.detail)
            self._changed = True
            for name in self._scopes.parameters(self._tree.nodes[kind.detail]):
                self._learn(self._scopes.variable(name), UNKNOWN)

    def _is_lost(self, node: Node) -> bool:
        """Does a function leave, by the place where this expression stands, what can be followed?"""
        parent = node.parent
        if parent is None or node.type == "function_declaration":
            name = node.child("name")
            return name is not None and name.type != "identifier"
        if parent.type == "arguments":
            return self._is_lost_in_call(node, parent)
        if parent.type == "expression_list":
            above = parent.parent
            if above is None or above.type == "for_generic_clause":
                return True
            place = parent.children.index(node)
            if above.type == "return_statement":
                return place > 0
            names = above.children[0].having("name") if above.type == "assignment_statement" else []
            return place < len(names) and names[place].type != "identifier"
        return parent.type in ("field", "bracket_index_expression")

    def _is_lost_in_call(self, node: Node, given: Node) -> bool:
        call = given.parent
        callee = call.child("name") if call is not None else None
        kind = self._kinds[callee.index] if callee is not None else None
        if kind is None:
            return False                                       # nothing is known of the call yet
        if kind.name == "method" and kind.item is not None and kind.item.name == "list":
            return False
        if kind.name == "global":
            return kind.detail not in _HARMLESS
        return kind.name != "function"

    def _called(self, function: Kind, given: list[Kind | None], more: bool = False) -> None:
        """The script's function is called with these; `more`: the call may hand over further values."""
        assert isinstance(function.detail, int)
        for place, name in enumerate(self._scopes.parameters(self._tree.nodes[function.detail])):
            if place < len(given):
                self._learn(self._scopes.variable(name), given[place])
            else:
                self._learn(self._scopes.variable(name), UNKNOWN if more else NIL)

    def _give(self, function: int, kind: Kind | None) -> None:
        old = self._returns.get(function)
        new = self._merge(old, kind)
        if new is not None and new != old:
            self._returns[function] = new
            self._changed = True

    # The rules: the kind of a node by those of its parts; None as long as these are not known.

    def _identifier(self, node: Node) -> Kind | None:
        variable = self._scopes.variable(node)
        if variable is None:
            return None
        if variable.sort != "global" or variable.writes:
            return self._variables.get(variable)
        if variable.name in self._language.functions:
            return Kind("global", detail=variable.name)
        if variable.name in self._language.libraries:
            return Kind("library", detail=variable.name)
        return Kind("state") if variable.name == "state" else UNKNOWN

    def _inner(self, node: Node) -> Kind | None:
        return self._kinds[node.children[0].index] if node.children else UNKNOWN

    def _dot(self, node: Node) -> Kind | None:
        field = node.child("field")
        return self._member(self._part(node, "table"), self._tree.text(field) if field is not None else "")

    def _bracket(self, node: Node) -> Kind | None:
        table, field = self._part(node, "table"), node.child("field")
        key = constant(self._tree, field) if field is not None else None
        if isinstance(key, str):
            return self._member(table, key)
        if table is None or table.name != "list":
            return table and UNKNOWN
        counted = isinstance(key, int | float)
        return (table.item or UNKNOWN)._replace(maybe=counted)  # of list[i] with a variable nobody can tell

    def _method(self, node: Node) -> Kind | None:
        table, method = self._part(node, "table"), node.child("method")
        if table is None or method is None:
            return None
        name = self._tree.text(method)
        return Kind("method", table, name) if name in self._language.methods.get(table.name, ()) else UNKNOWN

    def _part(self, node: Node, field: str) -> Kind | None:
        part = node.child(field)
        return self._kinds[part.index] if part is not None else UNKNOWN

    def _member(self, table: Kind | None, name: str) -> Kind | None:
        if table is None:
            return None
        records, methods = self._language.records, self._language.methods
        if table.name in records:
            field = records[table.name].get(name)
            return named(field, (table.name, name)) if field else UNKNOWN
        if name in methods.get(table.name, ()):
            return Kind("method", table, name)
        if table.name in ("metadata", "headers"):
            path = (table.path[0], f"{table.path[1]}.{name}") if table.path else None
            kind = UNKNOWN if table.name == "metadata" else TEXT
            return kind._replace(maybe=True, path=path)
        if table.name == "library" and name in self._language.libraries.get(str(table.detail), ()):
            known = self._language.libraries[str(table.detail)][name]
            constants = {"pi", "huge", "maxinteger", "mininteger", "charpattern"}
            return named(known) if name in constants else Kind("global", detail=f"{table.detail}.{name}")
        if table.name == "groups":
            return Kind("list", table.item, maybe=True)
        return UNKNOWN

    def _call(self, node: Node) -> Kind | None:
        callee = self._part(node, "name")
        if callee is None:
            return None
        given = arguments(node)
        if callee.name == "function":
            kinds = [self._kinds[argument.index] for argument in given]
            more = bool(given) and gives_many(given[-1])
            self._called(callee, kinds, more)
            assert isinstance(callee.detail, int)
            return self._returns.get(callee.detail)
        if callee.name == "method" and callee.item is not None:
            name = node.child("name")
            by_dot = name is not None and name.type != "method_index_expression"
            return self._call_method(callee.item, str(callee.detail), given[1:] if by_dot else given)
        if callee.name == "global":
            return self._call_global(str(callee.detail), given)
        return Kind("worker", maybe=True) if callee.name == "strategy" else UNKNOWN

    def _call_method(self, owner: Kind, name: str, given: list[Node]) -> Kind | None:
        call = self._language.methods[owner.name][name]
        first = self._kinds[given[0].index] if given else None
        if owner.name == "list":
            return self._call_list(owner, call, first, bool(given))
        kind = named(call.gives)
        if name == "get":
            kind = kind._replace(maybe=len(given) < 2 or (self._kinds[given[1].index] or NIL).maybe)
            key = constant(self._tree, given[0]) if given else None
            if owner.path is not None and isinstance(key, str):
                kind = kind._replace(path=(owner.path[0], f"{owner.path[1]}.{key}"))
        elif owner.name == "clock":
            kind = kind._replace(path=("clock", name))
        elif name in ("lower", "upper", "trim"):
            kind = kind._replace(path=owner.path)
        return kind

    def _call_list(self, owner: Kind, call: Call, first: Kind | None, any_given: bool) -> Kind | None:
        item = owner.item or UNKNOWN
        if first is not None and first.name == "function" and call.callback:
            self._called(first, [item] * call.callback)
        gives = call.gives
        if gives == "sampled":
            gives = "same" if any_given else "item?"
        if gives == "same":
            return Kind("list", owner.item)
        if gives == "item?":
            return item._replace(maybe=True)
        if gives == "groups":
            return Kind("groups", owner.item)
        if gives != "mapped":
            return named(gives)
        if first is None or first.name != "function" or not isinstance(first.detail, int):
            return Kind("list", UNKNOWN)
        made = self._returns.get(first.detail)
        if made is not None and (made.name in ("list", "groups", "function") or made.maybe):
            self._escape(made)
            made = UNKNOWN                                     # lists of lists of lists would never come to rest
        return Kind("list", made) if made is not None else None

    def _call_global(self, name: str, given: list[Node]) -> Kind | None:
        library, _, function = name.partition(".")
        if function:
            return named(self._language.libraries[library][function])
        kind = named(self._language.functions[name].gives)
        first = self._kinds[given[0].index] if given else None
        if name in ("tonumber", "tostring") and first is not None:
            kind = kind._replace(path=first.path)
            if name == "tonumber" and first.name == "number" and not first.maybe:
                kind = kind._replace(maybe=False)
        return kind._replace(detail=None)

    def _unary(self, node: Node) -> Kind | None:
        return BOOLEAN if node.operator == "not" else NUMBER

    def _binary(self, node: Node) -> Kind | None:
        left, right = self._part(node, "left"), self._part(node, "right")
        if node.operator in _ARITHMETIC:
            return NUMBER
        if node.operator == "..":
            return TEXT
        if node.operator not in ("and", "or"):
            return BOOLEAN
        if left is None or right is None:
            return None
        if node.operator == "and":
            if left.name == "boolean" and right.name == "boolean":
                return right
            return right._replace(maybe=right.name != "nil")
        path = left.path or right.path
        if left.name == "nil":
            return right
        kind = self._merge(left._replace(maybe=False, path=path), right._replace(path=path))
        return kind and kind._replace(maybe=right.maybe or right.name == "nil")

    def _return(self, node: Node) -> Kind | None:
        function = self._scopes.inside(node)
        if function is not None:
            values = node.children[0].children if node.children else []
            self._give(function.index, self._kinds[values[0].index] if values else NIL)
        return None

    def _for_each(self, node: Node) -> Kind | None:
        names, values = node.children[0].having("name"), node.children[-1].children
        kinds: list[Kind | None] = [UNKNOWN] * len(names)
        call = values[0] if values else None
        callee = self._part(call, "name") if call is not None and call.type == "function_call" else None
        if call is not None and callee is not None and callee.detail in ("ipairs", "pairs") and arguments(call):
            walked = self._kinds[arguments(call)[0].index]
            if walked is None:
                return None
            if walked.name == "list":
                kinds = [NUMBER, walked.item or UNKNOWN]
            elif walked.name == "groups":
                kinds = [UNKNOWN, Kind("list", walked.item)]
        for place, name in enumerate(names):
            self._learn(self._scopes.variable(name), kinds[place] if place < len(kinds) else UNKNOWN)
        return None

    def _for_number(self, node: Node) -> Kind | None:
        for name in node.having("name"):
            self._learn(self._scopes.variable(name), NUMBER)
        return None
