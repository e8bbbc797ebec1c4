"""What went wrong in a routing script, so that a person can act on it: place, line, caret, and how Lua spells it.

Called by whoever tells somebody about an error of a script: the log, `rbeerouter routing check`, the control plane.
Pure text work on an error's message and the script's source: it must never raise, never run Lua, and stay quick on a
hostile source. The hint is found by routing/hints.py; a new one is a row of routing/habits.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import msgspec

from rbeerouter.routing.blocks import TABS, read
from rbeerouter.routing.hints import Error, find_hint

SHOWN_COLUMNS = 100
"""Columns of the source line that are shown around the caret."""

_MOST_MESSAGE = 1000
_MOST_HINT = 300


class Problem(msgspec.Struct, frozen=True):
    """An error of a script. `str` is one line for a log, `rendered` is for a terminal.

    line, column: where Lua stopped, from 1; 0 when it is not known
    message: what Lua or a helper said, without the place
    hint: one sentence with the Lua spelling, or None
    source_line: the line that is shown, safe to print, cut around the caret; "" when there is none
    source_number: its number; not `line` where the cause stands on another line, which the hint then names
    marker: spaces and `^~~~` to stand below source_line, or ""
    """

    file: str
    line: int
    column: int
    message: str
    hint: str | None = None
    source_line: str = ""
    source_number: int = 0
    marker: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" + (f" (hint: {self.hint})" if self.hint else "")

    def rendered(self) -> str:
        rows = [f"{self.place}: {self.message}"]
        if self.source_line.strip():
            gutter = f"{self.source_number:>5} | "
            rows.append(gutter + self.source_line)
            if self.marker:
                rows.append(" " * (len(gutter) - 2) + "| " + self.marker)
        if self.hint:
            rows.append(f"hint: {self.hint}")
        return "\n".join(rows)


def explain(message: str, name: str, source: bytes, known: Iterable[str] = ()) -> Problem:
    """What an error text of Lua or of our helpers says about a script, with a hint where there is one.

    Args:
        message: as the sandbox gives it, with or without "routing.lua:12: " before it.
        name: the script's name, whole or as `Script` shortens it.
        source: the script as it was written.
        known: global names that a script may use beside those of the language, for the nearest to a misspelt one.
    """
    file = _safe(name)[:_MOST_MESSAGE]
    line, text = _split(message[:_MOST_MESSAGE], name)
    lines = read(source)
    error = Error(text, line, lines, known)
    found = find_hint(error)
    shown = _safe(text)
    if found is None:
        source_line, marker = picture(lines.raw(line), 0, 0)
        return Problem(file, line, 0, shown, None, source_line, line if source_line else 0, marker)
    hint = _safe(found.hint)[:_MOST_HINT] or None
    if hint and found.line not in (line, 0):
        hint = f"line {found.line}: {hint}"
    at = found.line or line
    source_line, marker = picture(lines.raw(at), found.start, found.end)
    column = found.start + 1 if found.end and at == line else 0
    return Problem(file, line, column, shown, hint, source_line, at if source_line else 0, marker)


def _split(message: str, name: str) -> tuple[int, str]:
    """(line, text) of a message that may begin with the script's name, whole or cut to "..." and its end."""
    begins = name + ":" if message.startswith(name + ":") else ""
    if not begins:
        cut = re.match(r"(?:\.\.\.)?([^:\n]{1,200}):", message)
        ends = message.startswith("...") and cut is not None and name.endswith(cut[1])
        if cut and (ends or (len(cut[1]) > 40 and name.startswith(cut[1]))):
            begins = cut[0]
    rest = message[len(begins) :]
    if not begins:
        return 0, rest
    numbered = re.match(r"(\d{1,9}): ?", rest)
    if numbered:
        return int(numbered[1]), rest[numbered.end() :]
    return 0, rest.removeprefix(" ")


# --------------------------------------------------------------------------------------------------------- printing


def _safe(text: str) -> str:
    """The text on one line, with nothing in it that moves a terminal's cursor or hides text."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_safe_character(character) for character in text)


def _safe_character(character: str) -> str:
    if character in "\t\r\n":
        return " "
    kind = unicodedata.category(character)
    return "?" if kind[0] == "C" or kind in ("Zl", "Zp") else character


def picture(line: str, start: int, end: int) -> tuple[str, str]:
    """A source line to show, safe to print and cut around the columns to mark, and the marker to stand below it.

    Columns count from 0, `end` is not among them. There is no marker when `end` is 0 or the line ends before `start`.
    """
    first = max(0, start - 2 * SHOWN_COLUMNS) if len(line) > 20 * SHOWN_COLUMNS else 0
    cells: list[tuple[str, int]] = []
    marked = [0, 0]
    for index, character in enumerate(line[first : first + 20 * SHOWN_COLUMNS], first):
        if index == start:
            marked[0] = len(cells)
        if character == "\t":
            cells += [(" ", 1)] * (TABS - len(cells) % TABS)
        else:
            shown = _safe_character(character)
            cells.append((shown, _width(shown)))
        if index < end:
            marked[1] = len(cells)
    begin = max(0, marked[0] - SHOWN_COLUMNS // 2) if _columns(cells) > SHOWN_COLUMNS else 0
    stop, used = begin, 0
    while stop < len(cells) and used + cells[stop][1] <= SHOWN_COLUMNS:
        used += cells[stop][1]
        stop += 1
    head, tail = "..." * bool(begin or first), "..." * (stop < len(cells))
    shown_line = head + "".join(text for text, _ in cells[begin:stop]) + tail
    if not end or start >= len(line):
        return shown_line.rstrip(), ""
    length = max(1, _columns(cells[marked[0] : min(marked[1], stop)]))
    return shown_line.rstrip(), " " * (len(head) + _columns(cells[begin : marked[0]])) + "^" + "~" * (length - 1)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _columns(cells: Iterable[tuple[str, int]]) -> int:
    return sum(width for _, width in cells)
