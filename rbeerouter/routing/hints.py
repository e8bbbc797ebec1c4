"""Finds the hint for an error of a script: which row of the tables fits, and on which line and columns.

Called by `explain` in routing/problem.py. It must never raise, never run Lua, and stay quick on a hostile source. It
gives no hint where it is not sure: the tables of routing/habits.py say when it is.

Lua stops at the first token that does not fit and tells only its line. So a habit of another language is looked for
where Lua stopped, then on the line before, then on the line that opened the block.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache

from rbeerouter.routing.blocks import WINDOW, Found, Source, stray_brace, unclosed
from rbeerouter.routing.habits import (
    CALLED,
    FIELDS,
    GLOBALS,
    HABITS,
    LUA_WORD,
    METHOD_NAMES,
    METHODS,
    NEAR,
    PATH,
    RUN_TIME,
    STRANGE,
    TOLD,
    WORD,
    Row,
)
from rbeerouter.routing.language import LANGUAGE

_SYNTAX = re.compile(
    r"(?:unexpected symbol|syntax error|malformed number|unfinished |invalid escape|hexadecimal digit|decimal escape"
    r"|missing '|UTF-8 value|'[^']{1,10}' expected|<\w+> expected|function arguments expected|'=' or 'in' expected"
    r"|cannot use '...'|too many )[^\"]{0,120}? near (?P<near>.*)\Z"
    r"|(?:no visible label|break outside|label '|multiple to-be|unknown attribute|attempt to assign to const).*\Z"
    r"|unexpected symbol\Z",
    re.DOTALL,
)


class Error:
    """An error as the finders see it. `near` is the token that Lua named, "" when it named none, None at run time."""

    def __init__(self, text: str, line: int, lines: Source, known: Iterable[str]) -> None:
        self.text, self.line, self.lines, self.known = text, line, lines, known
        syntax = _SYNTAX.match(text)
        self.near = None if syntax is None else (syntax["near"] or "")
        if self.near and self.near[0] == "'":
            self.near = self.near[1:].removesuffix("'")


def find_hint(error: Error) -> Found | None:
    """The hint and its place; a place with an empty hint when only that is known, None when nothing is."""
    return _syntax(error) if error.near is not None else _run_time(error)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


def _search(rows: Iterable[Row], error: Error, number: int, path: str = "") -> Found | None:
    """The first row that fits the message and this line of the source."""
    code = error.lines.code(number)
    offset = _window(code, error.near or path)
    piece = code[offset : offset + WINDOW]
    for row in rows:
        told = _pattern(row.message).search(error.text) if row.message else None
        if (row.message and told is None) or ("%(path)s" in row.hint and not path):
            continue
        values = defaultdict(str, path=path, called=_call(path), near=error.near or "")
        if told:
            values |= {key: _clipped(value or "") for key, value in told.groupdict().items()}
        if not row.code:
            return Found(row.hint % values)
        place = _fits(row.code, error.near or "", piece)
        if place is None:
            continue
        raw = error.lines.raw(number)[offset : offset + WINDOW]
        values |= {key: _clipped(raw[slice(*place.span(key))]) for key in place.re.groupindex if place[key] is not None}
        values["args"] = values["args"] or values["args1"]
        start, end = place.span("at") if "at" in place.re.groupindex else (0, 0)
        return Found(row.hint % values, number, offset + start, offset + end if end else 0)
    return None


def _call(path: str) -> str:
    """How to call what `path` names: the last dot becomes a colon."""
    before, dot, last = path.rpartition(".")
    return f"{before}{':' if dot else ''}{last}()"


def _fits(code: str, near: str, piece: str) -> re.Match[str] | None:
    if "{near}" not in code:
        return _pattern(code).search(piece)
    if not re.fullmatch(r"\w{1,40}", near, re.ASCII):
        return None
    return re.search(code.replace("{near}", near), piece, re.ASCII)


def _window(code: str, token: str) -> int:
    """Where in a very long line to look."""
    if len(code) <= WINDOW:
        return 0
    return max(0, code.find(token) - WINDOW // 2) if token else 0


def _clipped(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 40 else text[:37] + "..."


# ----------------------------------------------------------------------------------------------------- syntax errors


def _syntax(error: Error) -> Found:
    near, line = error.near or "", error.line
    start, end = _token_at(error)
    found = _strange(error) or _search(NEAR.get(near, ()), error, line)
    if found is None and near == "}":
        found = stray_brace(error.lines, line)
    if found is None:
        places = _places(error)
        found = _first(HABITS, error, places) or unclosed(error.lines, error.text, near)
        found = found or _first(TOLD, error, places)
    if found is None:
        return Found("", line, start, end)
    return found if found.line else found._replace(line=line, start=start, end=end)


def _first(rows: list[Row], error: Error, places: list[int]) -> Found | None:
    return next((found for number in places if (found := _search(rows, error, number))), None)


def _places(error: Error) -> list[int]:
    """The lines that may hold the cause: Lua's own, the one before, and the one that began what is not finished."""
    places = [error.line, error.lines.before(error.line)]
    opened = re.search(r"\bat line (\d{1,9})", error.text)
    if opened:
        places.append(int(opened[1]))
    missing = re.match(r"'(then|do)' expected", error.text)
    if missing:
        words = r"\b(?:if|elif|elseif)\b" if missing[1] == "then" else r"\b(?:for|while)\b"
        for number in range(min(error.line, len(error.lines)), max(0, error.line - 50), -1):
            if _pattern(words).search(error.lines.code(number)[:WINDOW]):
                places.append(number)
                break
    return [number for number in dict.fromkeys(places) if number > 0]


_TOKEN = re.compile(r"\w+|==|~=|<=|>=|<<|>>|//|::|\.\.\.?|\S", re.ASCII)
_ENDS_VALUE = re.compile(r"\w|[)\]}\"'\x01]", re.ASCII)
_OPENING = re.compile(LUA_WORD + r"\Z")
"""Words after which a value may stand."""


def _token_at(error: Error) -> tuple[int, int]:
    """The columns of the token that Lua named on its line; (0, 0) when it is not there, or not sure which it is."""
    near, line = error.near or "", error.line
    if not near or near.startswith("<"):
        return 0, 0
    if near[0] in "\"'" or near[0].isdigit() or (near[0] == "." and near[1:2].isdigit()):
        start = error.lines.raw(line).find(near)
        return (start, start + len(near)) if start >= 0 else (0, 0)
    places, before = [], ""
    for token in _TOKEN.finditer(error.lines.code(line)):
        if token[0] == near:
            places.append((token.span(), before))
        before = token[0]
    if len(places) > 1 and error.text.startswith("unexpected symbol"):
        fitting = [place for place in places if _OPENING.match(place[1]) or not _ENDS_VALUE.match(place[1])]
        places = fitting[:1]
    return places[0][0] if len(places) == 1 else (0, 0)


def _strange(error: Error) -> Found | None:
    """A character that Lua knows only inside of texts: it names it as a byte, <\\226>."""
    if not (error.near or "").startswith("<\\"):
        return None
    code = error.lines.code(error.line)
    place = re.search(r"[^\x00-\x7f]", code)
    if place is None:
        return None
    for characters, hint in STRANGE.items():
        if place[0] in characters:
            return Found(hint, error.line, *place.span())
    if place[0] == "\ufffd":
        return Found("the file must be saved as UTF-8", error.line, *place.span())
    return Found("names in Lua have only the letters a to z, digits and _", error.line, *place.span())


# -------------------------------------------------------------------------------------------------- run-time errors

_NAMED = re.compile(r"\((local|global|upvalue|field|method|constant) '([^']{1,60})'\)\s*\Z")
_NO_FIELD = re.compile(r"an? (?P<what>worker|request) has no field '(?P<x>\w{1,60})'\Z", re.ASCII)
_LOST = re.compile(
    r"attempt to (?:call|index) a nil value \((?P<kind>global|method|field) '(?P<x>\w{1,60})'\)"
    r"|(?:an? \w{1,20}|timestamp\(\)|state) has no (?:field |method )?'(?P<y>\w{1,60})'",
    re.ASCII,
)


def _run_time(error: Error) -> Found | None:
    """What there is to say of an error of a running script; None when its message is none that we know."""
    path, start, end = _named(error)
    found = _search(RUN_TIME, error, error.line, path) or _lost(error) or _compared(error)
    if found is None:
        return Found("", error.line, start, end) if end else None
    return found if found.line else found._replace(line=error.line, start=start, end=end)


def _named(error: Error) -> tuple[str, int, int]:
    """How the line spells what Lua calls (field 'vram'), as "w.vram", and its columns; the bare name if not found."""
    named = _NAMED.search(error.text)
    if named is None:
        return "", 0, 0
    kind, name = named.groups()
    code = error.lines.code(error.line)
    if kind == "constant" or not re.fullmatch(WORD, name, re.ASCII):
        return "", 0, 0
    offset = _window(code, name)
    piece = code[offset : offset + WINDOW]
    if kind in ("field", "method"):
        place = re.search(rf"(?<![\w.:])(?P<path>{CALLED})(?P<dot>[.:])(?P<at>{name}\b)", piece, re.ASCII)
        place = place or re.search(rf"[.:](?P<at>{name}\b)", piece, re.ASCII)
        if place is None:                                          # written as a text: x["name"]
            raw = error.lines.raw(error.line)[offset : offset + WINDOW]
            place = re.search(rf"(?P<path>{PATH})\[(?P<at>[\"']{name}[\"'])\]", raw, re.ASCII)
    else:
        place = re.search(rf"(?<![\w.:])(?P<at>{name}\b)", piece, re.ASCII)
    if place is None:
        return "", 0, 0
    path = name if kind not in ("field", "method") else place[0] if "path" in place.re.groupindex else ""
    return path if len(path) <= 40 else "", offset + place.start("at"), offset + place.end("at")


def _lost(error: Error) -> Found | None:
    """For a function, method or object that is not there: how Lua calls it, or the nearest name."""
    field = _NO_FIELD.match(error.text)
    if field and field["x"] in FIELDS[field["what"]]:
        return Found(f"write {field['what']}.{FIELDS[field['what']][field['x']].replace('%s', field['x'])}")
    lost = _LOST.match(error.text)
    if lost is None:
        return None
    name, kind = lost["x"] or lost["y"], lost["kind"]
    if kind == "global":
        if name in GLOBALS:
            return Found(f"instead of {name}, write {GLOBALS[name].replace('%s', name)}")
        if "did you mean" in error.text:
            return None
        near = difflib.get_close_matches(name, _names(error), 2, 0.7)
        near = [other for other in near if other != name]
        if near:
            return Found(f"the nearest name is {near[0]}")
        what = f"function {name}(...)" if error.text.startswith("attempt to call") else f"{name} = ..."
        return Found(f"nothing has the name {name} here; write local {what} above")
    if kind is not None and error.text.startswith("attempt to index"):
        return None
    if name in METHODS:
        return Found(f"instead of {name}, write {METHODS[name]}")
    if name == "get":
        return Found("only metadata and state have get: worker.metadata:get(key, default)")
    if name in LANGUAGE.methods["list"]:
        return Found("only workers and the lists they give have methods, your own tables have not")
    near = difflib.get_close_matches(name, METHOD_NAMES, 1, 0.75) if kind != "field" else []
    return Found(f"the nearest name is {near[0]}") if near and "did you mean" not in error.text else None


_DEFINED = re.compile(
    r"\bfunction\b\s*(?P<name>\w{0,60})[\w.:]{0,60}\s*\((?P<parameters>[^()]{0,200})\)"
    r"|\b(?:local|for)\s+(?!function\b)(?P<local>\w{1,60})",
    re.ASCII,
)


def _names(error: Error) -> list[str]:
    """Names that a script may use: those of the language and those that it defines itself, at most 500."""
    names = dict.fromkeys(name for name in (*LANGUAGE.globals, *error.known) if len(name) <= 60)
    for found in _DEFINED.finditer(error.lines.masked):
        if len(names) > 500:
            break
        names |= dict.fromkeys(re.findall(r"\w+", " ".join(part for part in found.groups() if part), re.ASCII))
    return list(names)[:500]


_COMPARES = re.compile(r"attempt to compare (?:two (?P<both>\w+) values|(?P<a>\w+) with (?P<b>\w+))\Z")
_COMPARISON = re.compile(
    rf"(?<![\w.:\])])(?P<left>#?{CALLED}|-?\d[\w.]{{0,20}}|[\"']\x01{{0,60}}[\"'])\s*(?P<op><=|>=|<|>)\s*"
    rf"(?P<right>#?{CALLED}|-?\d[\w.]{{0,20}}|[\"']\x01{{0,60}}[\"'])",
    re.ASCII,
)


def _compared(error: Error) -> Found | None:
    """For "attempt to compare number with nil": which side of which comparison on the line it was."""
    told = _COMPARES.match(error.text)
    if told is None:
        return None
    first, second = (told["both"], told["both"]) if told["both"] else (told["a"], told["b"])
    code = error.lines.code(error.line)
    fitting = []
    for place in _COMPARISON.finditer(code[:WINDOW]):
        left, right = (first, second) if place["op"][0] == "<" else (second, first)    # Lua turns a > b into b < a
        if _may_be(place["left"], left) and _may_be(place["right"], right):
            fitting.append((place, left, right))
    if len(fitting) != 1:
        hint, _ = _comparison_hint("", "", "", first, second)
        return Found(hint) if hint else None
    place, left, right = fitting[0]
    raw = error.lines.raw(error.line)
    x, y = (_clipped(raw[slice(*place.span(side))]) for side in ("left", "right"))
    hint, side = _comparison_hint(x, place["op"], y, left, right)
    return Found(hint, error.line, *place.span(side)) if hint else None


def _may_be(operand: str, kind: str) -> bool:
    if operand[0] in "\"'":
        return kind == "string"
    if operand[0] in "#-" or operand[0].isdigit():
        return kind == "number"
    return operand not in ("nil", "true", "false")


def _comparison_hint(x: str, op: str, y: str, left: str, right: str) -> tuple[str | None, str]:
    """The hint, and which side to mark."""
    kinds = {left, right}
    side = "left"
    if "function" in kinds:
        side = "left" if left == "function" else "right"
        called = x if side == "left" else y
        return f"{called} is a function; call it: {_call(called)}" if called else None, side
    if "nil" in kinds:
        default = '""' if "string" in kinds else "0"
        if not x:
            return f"a value that is compared is nil; give it a default: (x or {default})", side
        write = [f"({text} or {default})" if kind == "nil" else text for text, kind in ((x, left), (y, right))]
        is_nil = "both are" if left == right else f"{x if left == 'nil' else y} is"
        return f"{is_nil} nil here; write {write[0]} {op} {write[1]}", "left" if left == "nil" else "right"
    if kinds == {"number", "string"}:
        side = "left" if left == "string" else "right"
        text = x if side == "left" else y
        if text[:1] in ("'", '"'):
            return f"a number is compared with text; write {text[1:-1] or 0} without quotes", side
        return f"text and numbers do not compare; write tonumber({text or 'x'}) for the text", side
    if kinds == {"table"}:
        return "workers do not compare; compare a field of theirs, such as a.load < b.load", side
    if kinds == {"table", "number"}:
        side = "left" if left == "table" else "right"
        return f"the number of items of a list is #{(x if side == 'left' else y) or 'list'}", side
    if kinds == {"boolean"}:
        return "true and false have no order; use and, or, not, ==", side
    return None, side
