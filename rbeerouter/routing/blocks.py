"""A script's source as finders of errors read it: lines without texts and comments, and the blocks that do not fit.

Called by routing/hints.py and routing/problem.py. Works on text that is no whole Lua, which is why it asks neither Lua
nor the syntax tree. It must never raise, and stay quick on a hostile source; it knows no messages but those of a
missing or superfluous `end`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

TABS = 4
WINDOW = 300
"""Characters of a line in which habits are looked for: patterns may take quadratic time in it."""

_MOST_SOURCE = 128 * 1024
_FILL = "\x01"
"""Stands for each character inside of quotes in a masked line."""

_ENDS = re.compile(r"\r\n|\n\r|\n|\r")
_QUIET = re.compile(
    r"""
      --\[(?P<c>=*)\[[\s\S]*?(?:\](?P=c)\]|\Z)
    | --[^\r\n]*
    | (?P<long>\[(?P<s>=*)\[[\s\S]*?(?:\](?P=s)\]|\Z))
    | (?P<text>"(?:[^"\\\r\n]++|\\(?:z\s*|\r\n|\n\r|[\s\S]))*+"? | '(?:[^'\\\r\n]++|\\(?:z\s*|\r\n|\n\r|[\s\S]))*+'?)
    """,
    re.VERBOSE,
)
_NOT_LINE_END = re.compile(r"[^\r\n]")


class Source:
    """A script as lines, and the same lines with the insides of texts and comments blanked out, column by column."""

    def __init__(self, source: bytes) -> None:
        text = source[:_MOST_SOURCE].decode(errors="replace")
        self.masked = _QUIET.sub(_blank, text)
        self._lines = _ENDS.split(text)
        self._codes = _ENDS.split(self.masked)

    def __len__(self) -> int:
        return len(self._lines)

    def raw(self, number: int) -> str:
        return self._lines[number - 1] if 1 <= number <= len(self._lines) else ""

    def code(self, number: int) -> str:
        return self._codes[number - 1] if 1 <= number <= len(self._codes) else ""

    def before(self, number: int) -> int:
        """The nearest line above with code on it, 0 when there is none."""
        for above in range(min(number, len(self) + 1) - 1, 0, -1):
            if self.code(above).strip(" \t\f\v-"):
                return above
        return 0


def _blank(found: re.Match[str]) -> str:
    whole = found[0]
    if found["text"] is None and found["long"] is None:
        return "--" + _NOT_LINE_END.sub(" ", whole[2:])
    closed = len(whole) > 1 and whole[-1] in "\"']"
    inside = _NOT_LINE_END.sub(_FILL, whole[1:-1] if closed else whole[1:])
    quote = whole[0] if found["text"] else '"'
    return quote + inside + (quote if closed else "")


@lru_cache(maxsize=4)
def read(source: bytes) -> Source:
    return Source(source)


class Found(NamedTuple):
    """A hint, the line it is about (0: Lua's own), and the columns to mark there, from 0; none when end is 0."""

    hint: str
    line: int = 0
    start: int = 0
    end: int = 0


class _Block:
    """A block or bracket that the walk has entered; `else_if` is the line and column of an `else if` in it."""

    def __init__(self, word: str, line: int, indent: int, column: int) -> None:
        self.word, self.line, self.indent, self.column = word, line, indent, column
        self.else_if: tuple[int, int, int] | None = None


_BLOCK = re.compile(
    r"\b(?:function|if|elseif|else|for|while|do|repeat|end|until)\b|[(){}\[\]]|\r\n|\n\r|\n|\r", re.ASCII
)
_CLOSES = {")": "(", "}": "{", "]": "["}
_ELSE_IF = "Lua writes elseif, in one word; else if begins a block that needs an end of its own"


class _Walk:
    """Walks through the blocks of a source until one does not fit, by nesting or by how the lines are indented.

    unclosed: the block that seems to lack its end; stray: the line and column of a } that closes nothing;
    extra: the line and column of an `end` too many, and the line of what it closed, if anything; open: what is open
    """

    def __init__(self, lines: Source) -> None:
        self.open: list[_Block] = []
        self.unclosed: _Block | None = None
        self.stray: tuple[int, int] | None = None
        self.extra: tuple[int, int, int] | None = None
        self.else_ifs: list[tuple[int, int, int]] = []
        self._line, self._indent, self._begin = 1, _indent(lines.code(1)), 0
        self._loop: _Block | None = None
        before: re.Match[str] | None = None
        for token in _BLOCK.finditer(lines.masked):
            word = token[0]
            if word[0] in "\r\n":
                self._line, self._begin = self._line + 1, token.end()
                self._indent = _indent(lines.code(self._line))
            elif not self._step(word, token.start() - self._begin, lines.code(self._line)):
                break
            elif word == "if" and before and not lines.masked[before.end() : token.start()].strip():
                self._note_else_if(before, token.end() - self._begin)
            before = token

    def _step(self, word: str, column: int, code: str) -> bool:
        """Takes one token in; False when the walk is over."""
        top = self.open[-1] if self.open else None
        if word in "([{" or word in ("function", "if", "repeat"):
            self.open.append(_Block(word, self._line, self._indent, column))
        elif word in ("for", "while"):
            self._loop = _Block(word, self._line, self._indent, column)
        elif word == "do":
            self.open.append(self._loop or _Block(word, self._line, self._indent, column))
            self._loop = None
        elif word in _CLOSES:
            if top is None or top.word != _CLOSES[word]:
                self.stray = (self._line, column) if word == "}" else None
                self.unclosed = top if top and top.word not in "([{" else None
                return False
            self.open.pop()
        elif word in ("end", "until"):
            return self._close(top, column, not code[:column].strip())
        return True

    def _close(self, top: _Block | None, column: int, first_on_line: bool) -> bool:
        if top is None or top.word in "([{":
            self.extra = self.extra or (self._line, column, 0)
            return False
        if first_on_line and top.line != self._line:
            if self._indent < top.indent:
                self.unclosed = top
                return False
            if self._indent > top.indent and self.extra is None:
                self.extra = (self._line, column, top.line)
        self.open.pop()
        return True

    def _note_else_if(self, before: re.Match[str], end: int) -> None:
        if before[0] != "else":
            return
        place = (self._line, before.start() - self._begin, end)
        self.else_ifs.append(place)
        outer = self.open[-2] if len(self.open) > 1 else None
        if outer and outer.else_if is None:
            outer.else_if = place


def _indent(code: str) -> int:
    return len(code[:WINDOW].expandtabs(TABS)) - len(code[:WINDOW].expandtabs(TABS).lstrip())


def stray_brace(lines: Source, number: int) -> Found | None:
    """For a } on this line that Lua could not fit."""
    walk = _Walk(lines)
    if walk.stray is None or walk.stray[0] != number:
        return None
    line, column = walk.stray
    if re.match(r"\}\s*(?:else|elseif)\b", lines.code(line)[column : column + WINDOW], re.ASCII):
        return Found("Lua writes else without braces: if ... then ... else ... end", line, column, column + 1)
    return Found("Lua closes a block with end, not }", line, column, column + 1)


def unclosed(lines: Source, text: str, near: str) -> Found | None:
    """For a missing or superfluous `end`: Lua notices it late, the shape of the file tells where it should stand."""
    too_many = text.startswith("<eof> expected near 'end'")
    if not too_many and not re.match(r"'end' expected|unexpected symbol near '\)'", text):
        return None
    walk = _Walk(lines)
    if too_many:
        if walk.extra is None:
            return None
        line, column, closed = walk.extra
        began = f"closes what began at line {closed}; one end is too many" if closed else "is one too many"
        return Found(f"this end {began}", line, column, column + 3)
    block, at_end = walk.unclosed, near == "<eof>"
    if block and block.else_if:
        return Found(_ELSE_IF, *block.else_if)
    if at_end and block is None:
        if 0 < len(walk.else_ifs) <= len(walk.open):
            return Found(_ELSE_IF, *walk.else_ifs[0])
        block = walk.open[-1] if walk.open else None
        return Found(f"the {block.word} of line {block.line}, or a block inside of it, has no end") if block else None
    if block is None or not (at_end or near == ")"):
        return None
    if not at_end and not any(one.word == "(" for one in walk.open):
        return Found("this ) closes nothing")
    inside = [place for place in walk.else_ifs if place[:2] > (block.line, block.column)]
    if inside:
        return Found(_ELSE_IF, *inside[0])
    return Found(f"this {block.word} has no end", block.line, block.column, block.column + len(block.word))
