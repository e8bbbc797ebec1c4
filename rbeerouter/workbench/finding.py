"""What the checker tells: `Finding`, and `Report`, which gathers them while a script is read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import msgspec

from rbeerouter.routing.syntax import Node, Tree

ERROR, WARNING = "error", "warning"
_MOST = 200
"""A hostile script could have thousands; nobody reads more."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong in a script, or probably so.

    severity: "error" for what fails when the line runs, or keeps the script from loading; else "warning"
    code: a short name of the sort of finding, such as "unknown-field"
    column: the character of the line, from 1
    """

    severity: str
    code: str
    line: int
    column: int
    message: str
    hint: str | None = None


class Report:
    """The findings of one script so far."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self._found: dict[tuple[int, int, str], Finding] = {}

    def add(self, node: Node, severity: str, code: str, message: str, hint: str | None = None) -> None:
        """Notes a finding at a node; a second one of the same sort at the same place is left out."""
        if len(self._found) < _MOST:
            line, column = self.tree.line(node), self.tree.column(node)
            self._found.setdefault((line, column, code), Finding(severity, code, line, column, message, hint))

    def sorted(self) -> list[Finding]:
        return sorted(self._found.values(), key=lambda finding: (finding.line, finding.column, finding.code))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is spelled most like this one; None when none is."""
    plain = {other.lower().replace("_", ""): other for other in sorted(known)}
    wanted = name.lower().replace("_", "")[:100]
    found = difflib.get_close_matches(wanted, plain, 1, 0.65)
    found = found or [other for other in plain if len(other) > 2 and wanted.startswith(other)]
    return plain[found[0]] if found else None
