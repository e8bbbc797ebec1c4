"""Marks each `return` of route_request, so that a decision can name the script line that made it.

Lua cannot say which `return` a finished function took, and a line hook would cost more than the decision. So the text
is changed before it is compiled: `return x` becomes `_rbee_line=12 return x` on the same line, in route_request itself
and not in the functions inside it. The assignment costs some ten nanoseconds. Called by `routing.script` alone, which
falls back to the unmarked text when the marked one does not compile.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    rb"""
      (?P<skip> --\[(?P<c>=*)\[ .*? \](?P=c)\] | --[^\n]* | \[(?P<s>=*)\[ .*? \](?P=s)\]
              | "(?:\\z\s*|\\.|[^"\\\n])*" | '(?:\\z\s*|\\.|[^'\\\n])*' )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<newline> \n )
    | (?P<sign> [=.:] )
    | (?P<space> [^\S\n]+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENS = {b"function", b"if", b"do", b"repeat"}
_CLOSES = {b"end", b"until"}
_ENTRY = b"route_request"


def mark_returns(source: bytes) -> bytes:
    """The source with each return of route_request marked; the source itself when there is none to mark."""
    if b"_ENV" in source:
        return source                                          # the mark is a global, and globals are elsewhere then
    parts: list[bytes] = []
    blocks: list[bytes] = []
    line, copied = 1, 0
    previous, before_previous = b"", b""
    for token in _TOKEN.finditer(source):
        kind, text = token.lastgroup, token.group()
        if kind in ("c", "s", "skip", "newline", "space"):
            line += text.count(b"\n")
            continue
        if text in _OPENS:
            named = previous == b"=" and before_previous == _ENTRY
            blocks.append(_ENTRY if text == b"function" and named else text)
        elif text in _CLOSES and blocks:
            blocks.pop()
        elif text == _ENTRY and previous == b"function" and blocks:
            blocks[-1] = _ENTRY
        elif text == b"return" and _innermost_function(blocks) == _ENTRY:
            parts += (source[copied : token.start()], b"_rbee_line=%d " % line)
            copied = token.start()
        before_previous, previous = previous, text
    return b"".join((*parts, source[copied:])) if parts else source


def _innermost_function(blocks: list[bytes]) -> bytes:
    for block in reversed(blocks):
        if block in (b"function", _ENTRY):
            return block
    return b""
