"""What the checker tells of a piece of Lua, in the short form that the tests compare.

Called by the tests of this folder. A script's second line is the first line of the body that a test names.
"""

from __future__ import annotations

from rbeerouter.workbench.check import check
from rbeerouter.workbench.finding import Finding
from tests.support.builders import SCRIPT, lua


def findings(source: str | bytes) -> list[Finding]:
    """A text is the body of route_request, bytes are a whole file."""
    return check(source if isinstance(source, bytes) else lua(source), SCRIPT)


def told(source: str | bytes) -> list[str]:
    """As "error unknown-field 2:12"."""
    return [f"{found.severity} {found.code} {found.line}:{found.column}" for found in findings(source)]


def hints(source: str | bytes) -> list[str | None]:
    return [found.hint for found in findings(source)]
