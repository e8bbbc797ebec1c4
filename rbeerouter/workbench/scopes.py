"""Which variable each name of a script means.

Called by the checker once for each script; the kinds, the names and the nil checks rest on it. It follows Lua's rules
of scope and judges nothing. All of it is one walk over the flat tree.
"""

from __future__ import annotations

from typing import NamedTuple

from rbeerouter.routing.syntax import FUNCTIONS, Node, Tree, is_plain_key


class Write(NamedTuple):
    """An assignment to a variable. `value` is None where it cannot be told (a call's second result); `nil` where the
    variable gets nothing."""

    node: Node
    value: Node | None
    nil: bool = False


class Variable:
    """A local, parameter, loop variable, local function or global, with all its uses.

    `node` is its declaration (None for globals), `function` the one around that declaration.
    """

    __slots__ = ("function", "name", "node", "reads", "sort", "writes")

    def __init__(self, name: str, sort: str, node: Node | None, function: Node | None) -> None:
        self.name = name
        self.sort = sort
        self.node = node
        self.function = function
        self.reads: list[Node] = []
        self.writes: list[Write] = []

    def __repr__(self) -> str:
        return f"Variable({self.sort} {self.name})"


class Scopes:
    """`variable` finds the variable of an identifier, `inside` the function around a node (None: the file itself)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._of: dict[int, Variable] = {}
        self._inside: list[Node | None] = [None] * len(tree.nodes)
        self.globals: dict[str, Variable] = {}
        self.locals: list[Variable] = []
        self._scopes: list[dict[str, Variable]] = []
        self._functions: list[Node | None] = [None]
        for node, entering in tree.walk():
            if entering:
                self._inside[node.index] = self._functions[-1]
                self._enter(node)
            else:
                self._leave(node)

    def variable(self, node: Node) -> Variable | None:
        return self._of.get(node.index)

    def inside(self, node: Node) -> Node | None:
        return self._inside[node.index]

    def parameters(self, function: Node) -> list[Node]:
        """The names of a function's parameters; `...` is none."""
        given = function.child("parameters")
        return [node for node in given.children if node.type == "identifier"] if given is not None else []

    def _enter(self, node: Node) -> None:
        if node.type == "identifier":
            self._name(node)
        elif node.type in FUNCTIONS:
            self._functions.append(node)
            name = node.child("name")
            if name is not None and name.type == "identifier":
                if node.field == "local_declaration":
                    self._declare(name, "function", self._functions[-2]).writes.append(Write(name, node))
                else:
                    self._lookup(name).writes.append(Write(name, node))
            self._scopes.append({})
        elif node.type == "parameters":
            function = node.parent
            name = function.child("name") if function is not None else None
            if name is not None and name.type == "method_index_expression":
                self._scopes[-1]["self"] = Variable("self", "parameter", None, function)
        elif _opens_scope(node):
            self._scopes.append({})

    def _leave(self, node: Node) -> None:
        if node.type in FUNCTIONS:
            self._functions.pop()
            self._scopes.pop()
        elif node.type == "variable_declaration":
            self._local(node)
        elif node.type in ("for_generic_clause", "for_numeric_clause"):
            names = node.children[0].having("name") if node.type == "for_generic_clause" else node.having("name")
            for name in names:
                self._declare(name, "loop", self._functions[-1])
        elif _opens_scope(node):
            self._scopes.pop()

    def _local(self, declaration: Node) -> None:
        """A local exists from the end of its declaration on, so `local x = x` reads the outer one."""
        only = declaration.children[0]
        if only.type == "assignment_statement":
            for place, name in enumerate(only.children[0].having("name")):
                self._declare(name, "local", self._functions[-1]).writes.append(write_at(only, name, place))
        else:
            for name in only.having("name") if only.type == "variable_list" else declaration.having("name"):
                self._declare(name, "local", self._functions[-1]).writes.append(Write(name, None, nil=True))

    def _name(self, node: Node) -> None:
        parent = node.parent
        if parent is None or _is_label_or_key(self._tree, node, parent):
            return
        if parent.type == "parameters":
            self._declare(node, "parameter", self._functions[-1])
        elif parent.type == "variable_list":
            above = parent.parent
            if above is not None and above.type == "assignment_statement" and not _is_local(above):
                self._lookup(node).writes.append(write_at(above, node, parent.having("name").index(node)))
        elif not (parent.type in FUNCTIONS or (parent.type == "for_numeric_clause" and node.field == "name")):
            self._lookup(node).reads.append(node)

    def _declare(self, node: Node, sort: str, function: Node | None) -> Variable:
        name = self._tree.text(node)
        variable = self._scopes[-1][name] = self._of[node.index] = Variable(name, sort, node, function)
        self.locals.append(variable)
        return variable

    def _lookup(self, node: Node) -> Variable:
        name = self._tree.text(node)
        for scope in reversed(self._scopes):
            if name in scope:
                found = scope[name]
                break
        else:
            if name not in self.globals:
                self.globals[name] = Variable(name, "global", None, None)
            found = self.globals[name]
        self._of[node.index] = found
        return found


def _opens_scope(node: Node) -> bool:
    """The condition of `repeat ... until` still sees the variables of its block."""
    if node.type == "block":
        return node.parent is None or node.parent.type != "repeat_statement"
    return node.type in ("chunk", "for_statement", "repeat_statement")


def _is_local(assignment: Node) -> bool:
    return assignment.parent is not None and assignment.parent.type == "variable_declaration"


def _is_label_or_key(tree: Tree, node: Node, parent: Node) -> bool:
    if parent.type in ("attribute", "label_statement", "goto_statement"):
        return True
    if parent.type == "field" and node.field == "name":
        return is_plain_key(tree, parent)
    return (parent.type, node.field) in {("dot_index_expression", "field"), ("method_index_expression", "method")}


def write_at(assignment: Node, name: Node, place: int) -> Write:
    """What the variable at a place of an assignment gets."""
    values = assignment.children[1].children if len(assignment.children) > 1 else []
    if place < len(values):
        return Write(name, values[place])
    return Write(name, None, nil=not (values and gives_many(values[-1])))


def gives_many(value: Node) -> bool:
    return value.type in ("function_call", "vararg_expression")
