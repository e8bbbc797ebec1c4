"""Names: globals that nobody defines, misspelt hooks, locals that nobody uses.

Called by the checker. The language gives nil for a global that is not there, so reading one is an error only where the
nil cannot but fail: called, indexed, joined, calculated or compared with.
"""

from __future__ import annotations

from rbeerouter.routing.habits import GLOBALS
from rbeerouter.routing.language import Language
from rbeerouter.routing.syntax import FUNCTIONS, Node
from rbeerouter.workbench.finding import ERROR, WARNING, Report, nearest
from rbeerouter.workbench.scopes import Scopes, Variable

_FAILS_IN = {
    ("dot_index_expression", "table"), ("bracket_index_expression", "table"), ("method_index_expression", "table"),
    ("function_call", "name"),
}  # fmt: skip


def check_names(report: Report, scopes: Scopes, language: Language) -> None:
    _check_hooks(report, scopes, language)
    for variable in scopes.locals:
        _check_use(report, variable)
    if "_ENV" in scopes.globals or any(variable.name == "_ENV" for variable in scopes.locals):
        return                                                 # globals are somewhere else then
    defined = {name for name, variable in scopes.globals.items() if variable.writes}
    known = language.globals | defined | set(language.hooks)
    hints = known | {variable.name for variable in scopes.locals}
    for name, variable in scopes.globals.items():
        if name in language.unavailable and not variable.writes:
            for node in variable.reads:
                report.add(node, ERROR, "unavailable", f"'{name}' is not available in routing scripts")
        elif name not in known:
            _check_unknown(report, variable, hints)
    _check_undeclared(report, scopes, language)


def _check_unknown(report: Report, variable: Variable, hints: set[str]) -> None:
    """A guard such as `if debug_on and debug_on.x` makes the rest harmless: then only a warning."""
    name = variable.name
    fails = [_fails(node) for node in variable.reads]
    guarded = not all(fails)
    hint: str | None = None
    if name in GLOBALS:
        hint = f"instead of {name}, write {GLOBALS[name].replace('%s', name)}"
    elif near := nearest(name, hints):
        hint = f"did you mean {near}?"
    for node in variable.reads:
        severity = WARNING if guarded else ERROR
        report.add(node, severity, "unknown-name", f"'{name}' is defined nowhere", hint)


def _fails(node: Node) -> bool:
    parent = node.parent
    if parent is None or (parent.type, node.field) in _FAILS_IN:
        return parent is not None
    return parent.type == "binary_expression" and parent.operator not in ("and", "or", "==", "~=")


def _check_undeclared(report: Report, scopes: Scopes, language: Language) -> None:
    """While requests are served, a global that the file has not set when it was loaded cannot be made."""
    loads_functions = _calls_while_loading(report, scopes)
    for name, variable in scopes.globals.items():
        inside = [write for write in variable.writes if _function_of(write.node, scopes) is not None]
        if len(inside) < len(variable.writes):
            continue
        for write in inside:
            if write.value is not None and write.value.type == "function_declaration":
                message, hint = f"'{name}' is made a global inside of a function", f"write: local function {name}"
            else:
                message, hint = f"assignment to the undeclared global '{name}'", f"write: local {name} = ..."
            fails = not loads_functions or _is_in_hook(write.node, scopes, language)
            report.add(write.node, ERROR if fails else WARNING, "undeclared-global", message, hint)


def _function_of(name: Node, scopes: Scopes) -> Node | None:
    """The function in which a variable is written; for a declared function the one around it."""
    around = scopes.inside(name)
    parent = name.parent
    return scopes.inside(parent) if parent is not None and parent.type == "function_declaration" else around


def _calls_while_loading(report: Report, scopes: Scopes) -> bool:
    """Does the file, outside of its functions, call one of them (or what may be one)?"""
    for node in report.tree.nodes:
        if node.type == "function_call" and scopes.inside(node) is None:
            callee = node.child("name")
            variable = scopes.variable(callee) if callee is not None and callee.type == "identifier" else None
            if variable is None or variable.sort != "global" or variable.writes:
                return True
            given = node.child("arguments")
            if given is not None and any(child.type in FUNCTIONS for child in given.children):
                return True
    return False


def _is_in_hook(node: Node, scopes: Scopes, language: Language) -> bool:
    hooks = {
        write.value.index
        for name in language.hooks
        for write in (scopes.globals[name].writes if name in scopes.globals else ())
        if write.value is not None
    }
    around = _function_of(node, scopes)
    while around is not None:
        if around.index in hooks:
            return True
        around = scopes.inside(around)
    return False


def _check_use(report: Report, variable: Variable) -> None:
    if variable.sort not in ("local", "function") or variable.reads or variable.name.startswith("_"):
        return
    if variable.node is not None and not _is_attributed(variable.node):
        what = "function" if variable.sort == "function" else "variable"
        report.add(variable.node, WARNING, "unused", f"the local {what} '{variable.name}' is never used")


def _is_attributed(node: Node) -> bool:
    """A `local x <close>` works by being there."""
    return node.parent is not None and any(child.type == "attribute" for child in node.parent.children)


def _check_hooks(report: Report, scopes: Scopes, language: Language) -> None:
    for name, variable in scopes.globals.items():
        functions = [write for write in variable.writes if write.value is not None and write.value.type in FUNCTIONS]
        if name in language.hooks:
            for write in functions:
                _check_parameters(report, scopes, write.value, name, language)
        elif functions and not variable.reads and (near := nearest(name, language.hooks)) is not None:
            message = f"nobody calls '{name}'"
            report.add(functions[0].node, WARNING, "misspelt-hook", message, f"did you mean {near}?")


def _check_parameters(report: Report, scopes: Scopes, function: Node | None, name: str, language: Language) -> None:
    given = scopes.parameters(function) if function is not None else []
    wanted = language.hooks[name]
    if len(given) > len(wanted):
        extra = given[len(wanted)]
        message = f"{name} is called with {len(wanted)} arguments; '{report.tree.text(extra)}' is always nil"
        report.add(extra, WARNING, "parameters", message, f"write function {name}({', '.join(wanted)})")
