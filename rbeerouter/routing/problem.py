"""What went wrong in a routing script, so that a person can act on it: place, line, caret, and how Lua spells it.

Called by whoever tells somebody about an error of a script: the log, `rbeerouter routing check`, the control plane.
Pure text work on an error's message and the script's source: it must never raise, never run Lua, and stay quick on a
hostile source. It gives no hint where it is not sure: the tables below say when it is.

Lua stops at the first token that does not fit and tells only its line. So a habit of another language is looked for
where Lua stopped, then on the line before, then on the line that opened the block; `NEAR` holds what one token gives
away, `HABITS` what a line gives away, `TOLD` what the message itself says, `RUN_TIME` the errors of a running script.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import NamedTuple

import msgspec

from rbeerouter.routing.language import LANGUAGE

SHOWN_COLUMNS = 100
"""Columns of the source line that are shown around the caret."""

_MOST_SOURCE = 128 * 1024
_MOST_MESSAGE = 1000
_MOST_HINT = 300
_TABS = 4
_WINDOW = 300
"""Characters of a line in which habits are looked for: patterns may take quadratic time in it."""

_FILL = "\x01"
"""Stands for each character inside of quotes in a masked line."""


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


class Row(NamedTuple):
    """A habit: a pattern on a line whose texts and comments are masked, the hint, and a pattern on the message.

    Named groups of both fill the hint (`%(name)s`), as the script spells them; a group `at` is where the caret goes.
    """

    code: str
    hint: str
    message: str = ""


_PATH = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[-?\w{1,20}\])*"
_WORD = r"[A-Za-z_]\w*"
_TYPE = r"(?:int|integer|float|double|string|bool|boolean|auto|number|str|long|char)"
_CALLED = r"[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*|\[[^\[\]]{1,20}\]|\(\))*"
_BLOCK_WORD = r"'(?:return|local|if|for|while|function|repeat|break|do|goto|not|continue)'"

_LUA_WORD = r"(?:and|or|then|do|end|else|elseif|in|return|until|not|local|if|for|while|function|repeat|goto|break)"
_FIELD = "(?:" + "|".join(sorted({name for fields in LANGUAGE.records.values() for name in fields})) + ")"
_METHOD_NAMES = sorted({name for methods in LANGUAGE.methods.values() for name in methods})
_METHOD = "(?:" + "|".join(_METHOD_NAMES) + ")"

_NO_COMMENT = "Lua writes comments with --"
_NO_BRACES = "Lua has no { } around a block"
_CLOSURE = "Lua writes function(%(args)s) return ... end"

NEAR: dict[str, list[Row]] = {
    "!": [
        Row(r"(?P<at>!==?)", "Lua writes `~=` for not equal"),
        Row(r"(?P<at>\b(?:panic|todo|unreachable|bail)!)", 'Lua has no macros; an error is raised by error("text")'),
        Row(r"(?P<at>\bformat!)", 'Lua has no macros; texts are made by string.format("%%s", x) or joined with ..'),
        Row(r"(?P<at>\bvec!)", "Lua has no macros; a list is written { 1, 2 }"),
        Row(r"(?P<at>\b\w+!)\s*\(", "Lua has no macros; write log(...)"),
        Row(r"(?<![\w)\]])(?P<at>!+)\s*(?P<x>" + _CALLED + ")", "Lua writes `not %(x)s`"),
        Row(r"(?<![\w)\]])(?P<at>!+)\s*\(", "Lua writes `not (...)`"),
        Row(r"(?P<at>!)", "Lua has no ! after a value; leave it out, and write not x for the opposite"),
    ],
    "&": [
        Row(r"(?P<at>&&)", "Lua writes `and`"),
        Row(r"(?P<at>&)\s*(?:mut\s+)?" + _WORD, "Lua has no references; leave the & out"),
    ],
    "|": [
        Row(r"(?:[(,={]|\bmove\b|\breturn\b)\s*(?P<at>\|\s*(?P<args>[\w ,&:]{0,60}?)\s*\|)", _CLOSURE),
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at>\|\|=)", "Lua has no ||=; write %(x)s = %(x)s or ..."),
        Row(r"(?P<at>\|\|)", "Lua writes `or`"),
        Row(r"(?P<at>\|>)", "Lua has no pipes; write f(x)"),
    ],
    "?": [
        Row(r"(?P<x>" + _CALLED + r")\s*(?P<at>\?\?)\s*(?P<y>[^\s;,)]{1,40})", "Lua writes %(x)s or %(y)s"),
        Row(r"(?P<at>\?\?=?)", "Lua writes x or default"),
        Row(r"(?P<x>" + _PATH + r")(?P<at>\?\.)(?P<y>\w+)", "Lua has no ?.; write %(x)s and %(x)s.%(y)s"),
        Row(r"(?P<at>\?\.)", "Lua has no ?.; write x and x.y"),
        Row(r"(?:\breturn\b|(?<![=<>~!])=(?!=))\s*(?P<c>[^?]{1,60}?)\s*(?P<at>\?)\s*(?P<a>[^?:]{1,40}?)\s*:\s*"
            r"(?P<b>[^?:;]{1,40}?)\s*;?\s*$", "Lua has no ? :; write %(c)s and %(a)s or %(b)s"),
        Row(r"(?P<at>\?)[^:]*:", "Lua has no ? :; write condition and a or b"),
        Row(r"(?P<at>\?)", "Lua has no ? operator; write x or default, or condition and a or b"),
    ],
    "`": [Row(r"(?P<at>`)", 'Lua has no ` quotes; write "text " .. value')],
    "#": [
        Row(r"^\s*(?P<at>#!)", "a routing script has no #! line; leave it out"),
        Row(r"^\s*(?P<at>#\s*include\b)", "Lua includes nothing; all that a script may use is there already"),
        Row(r"(?P<at>#)", _NO_COMMENT + ", not with #"),
    ],
    "//": [Row(r"^\s*(?P<at>//)", _NO_COMMENT + ", not with //"), Row(r"(?P<at>///?)", _NO_COMMENT + ", not with //")],
    "/": [
        Row(r"(?P<at>/\*)", "Lua writes long comments --[[ ... ]], not /* ... */"),
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at>/=)", "Lua has no /=; write %(x)s = %(x)s / ..."),
    ],
    "*": [
        Row(r"(?P<at>/\*|\*/)", "Lua writes long comments --[[ ... ]], not /* ... */"),
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at>\*\*?=)", "Lua has no *=; write %(x)s = %(x)s * ..."),
        Row(r"(?P<at>\*\*)", "Lua writes x ^ y for powers"),
    ],
    "+": [
        Row(r"(?P<x>" + _PATH + r")(?P<at>\+\+)", "Lua has no ++; write %(x)s = %(x)s + 1"),
        Row(r"(?P<at>\+\+)\s*(?P<x>" + _PATH + ")", "Lua has no ++; write %(x)s = %(x)s + 1"),
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at>\+=)\s*(?P<y>" + _PATH + r"|[\d.]+)?",
            "Lua has no +=; write %(x)s = %(x)s + %(y)s"),
    ],
    "-": [
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at>-=)\s*(?P<y>" + _PATH + r"|[\d.]+)?",
            "Lua has no -=; write %(x)s = %(x)s - %(y)s"),
        Row(r"(?P<at>->)", "Lua has no ->; a field is x.name, a method x:name()"),
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at><-)", "Lua writes %(x)s = ..."),
    ],
    "%": [Row(r"(?P<x>" + _PATH + r")\s*(?P<at>%=)", "Lua has no %%=; write %(x)s = %(x)s %% ...")],
    "..": [
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at>\.\.=)", "Lua has no ..=; write %(x)s = %(x)s .. ..."),
        Row(r"\[\s*[\w]*\s*(?P<at>\.\.)", "Lua has no slices; take single items, list[1], or list:filter(...)"),
    ],
    "...": [Row(r"(?P<at>\.\.\.)\s*[A-Za-z_{(]", "Lua spreads a list with table.unpack(list)")],
    ">": [
        Row(r"(?P<at><>)", "Lua writes `~=` for not equal"),
        Row(r"(?P<at><=>)", "Lua has no <=>; a comparison for sort_by is a < b"),
        Row(r"[({]\s*\(?(?P<args>[\w\s,]{0,60}?)\)?\s*(?P<at>->)", _CLOSURE),
        Row(r"\)\s*(?P<at>->)", "Lua declares no types; leave -> and what follows out"),
        Row(r"(?P<at>->)", "Lua has no ->; a field is x.name, a method x:name()"),
    ],
    "<": [
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at><-)", "Lua writes %(x)s = ..."),
    ],
    "=": [
        Row(r"(?P<at>===)", "Lua writes `==` for equal"),
        Row(r"\b(?:if|elseif|while|until|and|or|not)\b.*[^=<>~\s]\s*(?P<at>=>)\s*[\w\x22']", "Lua writes `>=`"),
        Row(r"(?<![\w.)\]])(?P<at>(?:(?:\bfunction\s*)?\((?P<args>[^()]{0,60})\)|(?P<args1>[A-Za-z_]\w*))\s*(?:=>|->))",
            _CLOSURE),
        Row(r"(?P<at>=<)", "Lua writes `<=`"),
        Row(r"(?P<at>=~)", 'Lua has no =~; write text:match("pattern")'),
        Row(r"(?P<x>" + _PATH + r")\s*(?P<at>(?P<op>[\^&%])=)", "Lua has no %(op)s=; write %(x)s = %(x)s %(op)s ..."),
        Row(r"(?P<x>" + _WORD + r")\s*(?P<at>:=)", "Lua writes local %(x)s = ..."),
        Row(r"\b(?:if|elseif|while|until)\b[^=]*[^=<>~](?P<at>=)(?!=)", "`=` assigns; Lua compares with `==`"),
        Row(r"\bfunction\b[^=]*\([^=)]*\b(?P<x>\w+)\s*(?P<at>=)",
            "Lua has no default values; write %(x)s = %(x)s or ... inside of the function"),
        Row(r"^\s*local\s+\w+\s*=[^=,]*,\s*\w+\s*(?P<at>=)", "Lua writes local a, b = 1, 2"),
    ],
    "==": [Row(r"^\s*(?:local\s+)?(?P<x>[\w.,\s\[\]]{1,60}?)\s*(?P<at>==)", "`==` compares; Lua assigns with `=`")],
    ",": [
        Row(r"(?<![\w.)\]])(?P<at>(?:(?:\bfunction\s*)?\((?P<args>[^()]{0,60})\)|(?P<args1>[A-Za-z_]\w*))\s*(?:=>|->))",
            _CLOSURE),
        Row(r"\breturn\s*(?P<at>\((?P<x>[^()]{1,60})\))",
            "Lua returns several values without parentheses: return %(x)s"),
    ],
    ")": [Row(r"(?P<at>\))", "this ) has no ( before it", "^'(?:then|do)' expected")],
    "{": [
        Row(r"\b(?P<at>then\s*\{)", _NO_BRACES + "; write if ... then ... end"),
        Row(r"\b(?P<at>do\s*\{)", _NO_BRACES + "; write do ... end, or repeat ... until x for do { } while"),
        Row(r"\b(?P<at>else\s*\{)", _NO_BRACES + "; write else ... end"),
        Row(r"\bfunction\b[^{]*\)\s*(?P<at>\{)", _NO_BRACES + "; write function(...) ... end"),
        Row(r"\blocal\s*(?P<at>\{)", "Lua takes nothing apart; write local a, b = x.a, x.b"),
        Row(r"\bwhile\b[^{]*(?P<at>\{)", _NO_BRACES + "; write while x do ... end"),
    ],
    "[": [
        Row(r"\[[^\]]*\bfor\b.*\bin\b", "Lua has no comprehensions; write list:filter(...) and list:map(...)"),
        Row(r"\blocal\s*(?P<at>\[)", "Lua takes nothing apart; write local a, b = list[1], list[2]"),
        Row(r"(?P<x>" + _WORD + r")(?P<at>[.:]\[)", "an index takes no dot; write %(x)s[...]"),
        Row(r"(?:^|[=(,{]|\breturn\b|\bin\b|\band\b|\bor\b)\s*(?P<at>\[)", "Lua writes lists with braces: { 1, 2 }"),
    ],
    "(": [
        Row(r"\bfor\s*(?P<at>\(.*\b(?:of|in)\b)", "Lua writes for _, item in ipairs(list) do ... end"),
        Row(r"\bfor\s*(?P<at>\(.*;)", "Lua writes for i = 1, n do ... end"),
        Row(r"\bfor\s*(?P<at>\()", "Lua writes for i = 1, n do ... end, or for _, item in ipairs(list) do ... end"),
        Row(r"\blocal\s*(?P<at>\()", "Lua writes local a, b = f() without parentheses"),
        Row(r"^\s*(?P<at>function\s*\()",
            "a function that stands alone needs a name: local function pick(...) ... end"),
        Row(r"\b(?P<at>\w+::)", "Lua has no ::; write math.floor(x) or list:first()"),
    ],
    "::": [Row(r"\w\s*(?P<at>::)\s*\w", "Lua has no ::; write x.name or x:name()")],
    ";": [Row(r"(?P<at>;;)", "one ; is enough after return; leave the second out")],
    "$": [Row(r"(?P<at>\$)", "names in Lua have no $; leave it out")],
    "@": [Row(r"(?P<at>@)", "Lua has no @; leave it out")],
    "\\": [Row(r"(?P<at>\\)", "Lua has no \\ outside of quotes; a statement may go on on the next line without it")],
    "of": [
        Row(r"\bfor\b\s*(?:\w+\s+)?(?P<x>\w+)\s+(?P<at>of)\s+(?P<list>" + _CALLED + ")",
            "Lua writes for _, %(x)s in ipairs(%(list)s) do ... end"),
    ],
    "in": [
        Row(r"\bif\b\s*(?:not\s+)?(?P<x>[\w.\x01\x22'\[\]]{1,60})\s+(?P<at>in)\s+(?P<list>" + _CALLED + ")",
            "Lua has no in outside of for; write %(list)s:contains(%(x)s)"),
        Row(r"\b(?P<at>in)\b", "Lua has no in outside of for; write list:contains(x)"),
    ],
    "not": [Row(r"\b(?P<at>not\s+in)\b", "Lua has no not in; write not list:contains(x)")],
    "is": [
        Row(r"(?P<x>" + _CALLED + r")\s+(?P<at>is\s+not)\b", "Lua writes %(x)s ~= nil"),
        Row(r"(?P<x>" + _CALLED + r")\s+(?P<at>is)\b", "Lua writes %(x)s == nil"),
    ],
    "if": [
        Row(r"\breturn\b\s*(?P<y>.{1,40}?)\s+(?P<at>if)\s+(?P<c>[^;]{1,40}?)\s+else\s+(?P<z>.{1,40}?)\s*$",
            "Lua writes return %(c)s and %(y)s or %(z)s"),
        Row(r"\breturn\b\s*(?P<y>.{1,40}?)\s+(?P<at>if)\s+(?P<c>[^;]{1,60}?)\s*;?\s*$",
            "Lua writes if %(c)s then return %(y)s end"),
        Row(r"(?:=|\breturn\b|\()\s*(?P<at>if)\b", "if gives no value in Lua; write condition and a or b"),
    ],
    "else": [
        Row(r"=.*\b(?P<at>if\b.*\belse\b)", "Lua writes condition and a or b"),
    ],
    ":": [
        Row(r"\blocal\s+\w+\s*(?P<at>:\s*\w+)", "Lua declares no types; leave `%(at)s` out"),
        Row(r"\bfunction\b[^()]*\([^()]*\w\s*(?P<at>:\s*\w+)", "Lua declares no types; leave `%(at)s` out"),
        Row(r"\bfunction\b[^()]*\([^()]*\)\s*(?P<at>:)", "nothing stands after function(...) in Lua; leave the : out"),
        Row(r"\b(?P<at>else\s*:)", "Lua writes else without :"),
        Row(r"\[[^\[\]]*(?P<at>:)[^\[\]]*\]", "Lua has no slices; take single items, list[1], or list:filter(...)"),
        Row(r"[{,]\s*(?P<key>[\x22'][^\x22']{0,40}[\x22'])\s*(?P<at>:)", "Lua writes { [%(key)s] = ... }"),
        Row(r"\{[^{}]*(?P<at>:)", "Lua writes { key = value } with =, not :"),
    ],
    "}": [],
}  # fmt: skip
"""By the token that Lua could not fit. Looked at on Lua's line only; the first that fits gives the hint."""

HABITS: list[Row] = [
    Row(r"^\s*(?P<at>(?:let\s+mut|let|const|var|mut|my|val|final)\s+)(?P<x>[A-Za-z_]\w*)",
        "Lua writes local %(x)s = ..."),
    Row(r"^\s*(?P<at>let|const|var)\b\s*[\[({]", "Lua writes local a, b = ..."),
    Row(r"^\s*(?P<at>" + _TYPE + r")\s+(?P<x>[A-Za-z_]\w*)\s*=", "Lua declares no types; write local %(x)s = ..."),
    Row(r"^\s*(?P<at>async)\b", "Lua has no async; leave it out"),
    Row(r"\b(?P<at>await)\s+\w", "Lua has no await; leave it out"),
    Row(r"\b(?P<at>(?:pub\s+|async\s+)?(?:fn|def|func|fun|proc|sub))\s+(?P<x>[A-Za-z_]\w*)\s*\(",
        "Lua writes function %(x)s(...) ... end"),
    Row(r"\b(?P<at>fn)\s*\((?P<args>[^()]{0,60})\)", _CLOSURE),
    Row(r"\b(?P<at>lambda)\b\s*(?P<args>[\w\s,]{0,60}?)\s*:", _CLOSURE),
    Row(r"\bfunction\s+(?P<at>(?P<args>[\w]+))\s+return\b", _CLOSURE, r"^'\(' expected"),
    Row(r"\bfunction\s*\([^()]*\)\s*(?P<at>(?!return\b)[A-Za-z_][\w.:]*\s*(?:[<>]|==|~=|\bend\b))",
        "a Lua function gives its value with return: function(w) return ... end", "^syntax error"),
    Row(r"\b(?P<at>elif|elsif|elsf|elseIf|elif)\b", "Lua writes `elseif`"),
    Row(r"^\s*\}?\s*(?P<at>(?:try)\s*[{:])", "routing scripts have no try; check with if before you use a value"),
    Row(r"^\s*\}?\s*(?P<at>catch|except|finally)\b(?!\s*[.=])", "routing scripts have no try and catch"),
    Row(r"\b(?P<at>(?:switch|match))\s*\(?\s*" + _CALLED + r"\s*\)?\s*\{",
        "Lua writes if x == a then ... elseif x == b then ... end"),
    Row(r"^\s*(?P<at>(?:switch|match|case))\s+[\w\x22']", "Lua writes if x == a then ... elseif x == b then ... end"),
    Row(r"(?<!\bgoto )\b(?P<at>continue)\b\s*(?:;|end\b|$)",
        "Lua has no continue; put what follows into an if, or write goto next and ::next:: before the end"),
    Row(r"(?:^|\bthen\b|\belse\b|\bdo\b)\s*(?P<at>pass)\b\s*(?:;|end\b|$)", "Lua has no pass; leave the block empty"),
    Row(r"\b(?P<at>throw|raise)\s+[\w\x22']", 'Lua writes error("text")'),
    Row(r"^\s*(?P<at>import|use|from|include|using)\s+[\w{*\x22']",
        "Lua imports nothing; all that a script may use is there already"),
    Row(r"^\s*(?P<at>export|public|private|protected|static|pub)\s+\w", "Lua has no %(at)s; leave it out"),
    Row(r"^\s*(?P<at>class|struct|enum|interface|impl|trait|type)\s+\w",
        "Lua has no %(at)s; use plain tables and functions"),
    Row(r"\b(?P<at>fi|endif|endfor|endwhile|endfunction|esac|done|END)\s*;?\s*$", "Lua writes `end`"),
    Row(r"^\s*(?P<at>If|For|While|Return|Local|Function|Else|ElseIf|End|IF|FOR|WHILE|RETURN|LOCAL|ELSE)\b(?!\s*[=.:(])",
        "Lua's own words are in lower case"),
    Row(r"(?P<at>\.\.\.)\s*\w+\s*\)", "Lua writes ... alone and reads it as {...}", r"^'\)' expected"),
    Row(r"^\s*(?P<at>unless)\s+\w", "Lua writes if not x then ... end"),
    Row(r"\b(?P<at>new)\s+(?P<x>[A-Za-z_]\w*)\s*\(", "Lua has no new; leave it out"),
    Row(r"\b(?P<at>typeof)\s+(?P<x>" + _CALLED + ")", "Lua writes type(%(x)s)"),
    Row(r"\b(?P<at>instanceof)\b", 'Lua writes type(x) == "table"'),
    Row(r"^\s*(?P<at>delete|del)\s+(?P<x>" + _PATH + ")", "Lua writes %(x)s = nil"),
    Row(r"^\s*(?P<at>print|log|echo|puts)\s+\w", "Lua writes log(...) with parentheses"),
    Row(r"^\s*(?P<at>print|log|echo|puts)\s+[\x22']", "Lua writes log(...) with parentheses",
        r"near '(?:\.\.|[-+,*])'"),
    Row(r"^\s*(?P<x>" + _PATH + r")--", "-- begins a comment in Lua; write %(x)s = %(x)s - 1", "^syntax error"),
    Row(r"(?P<at>/\*|\*/)", "Lua writes long comments --[[ ... ]], not /* ... */"),
    Row(r"(?P<at>//)\s*(?:(?!(?:and|or|not)\b)\w+[ \t]+(?!" + _LUA_WORD + r"\b)\w|\w+[\x22'])",
        _NO_COMMENT + "; // divides whole numbers"),
    Row(r"(?P<at>#\{)", "Lua writes tables { key = value }, without #", "expected near"),
    Row(r"(?:^\s*|[{,]\s*)(?P<at>(?P<key>[A-Za-z_]\w*)\s*:)(?!:)\s+\S", "Lua writes { %(key)s = ... } with =, not :",
        r"^(?:<name>|function arguments|'\}') expected"),
    Row(r"^\s*(?P<at>(?P<key>[\x22'][^\x22']{0,40}[\x22'])\s*:)", "Lua writes { [%(key)s] = ... }",
        r"expected|unexpected symbol"),
    Row(r"\bif\b(?:(?!\b(?:then|do)\b)[^{}]){0,120}(?P<at>\{)\s*(?:$|\w)", _NO_BRACES + "; write if ... then ... end",
        r"'then' expected|'\}' expected|near " + _BLOCK_WORD),
    Row(r"\b(?P<x>while|for)\b(?:(?!\b(?:then|do|i?pairs)\b)[^{}]){0,120}(?P<at>\{)\s*(?:$|\w)",
        _NO_BRACES + "; write %(x)s ... do ... end", r"'do' expected|'\}' expected|near " + _BLOCK_WORD),
    Row(r"^\s*(?P<at>(?:loop)\s*\{)", _NO_BRACES + "; write while true do ... end"),
    Row(r"\b(?:if|elif|elseif)\b(?:(?!\bthen\b).){1,200}(?P<at>:)\s*(?:$|(?:return|local|break|pass)\b)",
        "Lua writes then after if, not :",
        "expected|unexpected symbol"),
    Row(r"\b(?:for|while)\b(?:(?!\bdo\b).){1,200}(?P<at>:)\s*(?:$|(?:return|local|break|pass)\b)",
        "Lua writes do after for and while, not :",
        "expected|unexpected symbol"),
    Row(r"^\s*(?P<at>else|elseif|try)\s*:", "Lua writes %(at)s without :"),
    Row(r"\b(?P<at>as)\s+(?:number|string|int|str|[A-Z]\w*|[iuf]\d\d)\b",
        "Lua converts nothing by as; write tonumber(x) or tostring(x)"),
    Row(r"\b(?P<x>" + _WORD + r")(?P<at>::)" + _WORD, "Lua has no ::; write %(x)s.name or %(x)s:name()",
        "'::' expected|near '::'"),
    Row(r"\blocal\s+\w+(?P<at>\.\w)", "local is for new names; a field is set without local", "near '.'$"),
]  # fmt: skip
"""Looked for on Lua's line, the line before it and the line that opened the block."""

TOLD: list[Row] = [
    Row(r"\blocal\s+(?P<at>{near})\b", "`%(near)s` is a word of Lua's own; take another name",
        r"^<name> expected near '[a-z]+'"),
    Row(r"(?P<at>\.\s*{near})\b", '`%(near)s` is a word of Lua\'s own; write ["%(near)s"]',
        r"^<name> expected near '[a-z]+'"),
    Row(r"[{,]\s*(?P<at>{near})\s*=", '`%(near)s` is a word of Lua\'s own; write ["%(near)s"] = ...', r"near '[a-z]+'"),
    Row(r"(?P<x>" + _PATH + r")(?P<at>:(?P<y>" + _FIELD + r")\b)",
        "a field takes a dot: %(x)s.%(y)s", "^function arguments expected"),
    Row(r"(?P<x>" + _CALLED + r")(?P<at>:(?P<y>\w+))\b(?!\s*[({\x22'\[])", "a colon calls: write %(x)s:%(y)s()",
        "^function arguments expected"),
    Row(r"(?P<x>" + _CALLED + r")(?P<at>\.\d+)\b", "Lua takes items by [ ]: list[1] is the first", r"near '\.\d"),
    Row(r"\b(?P<at>(?P<a>\d)_[\d_]*)", "Lua has no _ in numbers; leave it out", "^malformed number"),
    Row(r"\bfor\b.*\bin\s+(?P<at>(?P<a>\d+)\s*\.\.[.=<]*)", "Lua writes for i = %(a)s, n do ... end",
        "^malformed number"),
    Row(r"(?P<at>\b\d+\.\.)", "a number and .. need a space between: 1 .. x", "^malformed number near '[^'.]*[.][.]"),
    Row(r"(?P<at>\b0[bo]\d+)", "Lua writes numbers in decimal or as 0xff", "^malformed number"),
    Row(r"(?P<at>\b(?P<a>[\d.]*\d)[A-Za-z]\w*)", "a number is digits alone, without a unit: %(a)s",
        "^malformed number"),
    Row(r"(?P<at>'s\b|'t\b|'re\b)", "an apostrophe ends a text in '...'; write the text in double quotes",
        "^unfinished string"),
    Row("", "the text needs its closing quote on the same line; long texts stand in [[ ... ]]", "^unfinished string"),
    Row(r"(?P<at>\x22)\x01*$", "the long text that begins here needs its closing ]]", "^unfinished long string"),
    Row(r"(?P<at>--)\s*$", "the long comment that begins here needs its closing ]]", "^unfinished long comment"),
    Row("",
        "in a text, \\ stands before n, t, \\ or a quote; write \\\\ for \\ itself, %%d for a digit in a pattern",
        "^(?:invalid escape|hexadecimal digit expected|decimal escape)"),
    Row(r"\b(?P<at>goto\b)", "put ::%(x)s:: just before the end of the loop's body", r"^no visible label '(?P<x>\w+)'"),
    Row(r"\b(?P<at>break)\b", "break stands only inside of for, while and repeat", r"^break outside"),
    Row("", "leave <const> out where %(x)s is declared, or take another name",
        r"^attempt to assign to const variable '(?P<x>\w+)'"),
    Row("", "only a vararg function, function(...), has ...; a list is spread with table.unpack(list)",
        r"^cannot use '\.\.\.'"),
    Row("", "put some of them into a table, or into a function of their own", "^too many local variables"),
    Row(r"^\s*(?P<at>return)\b(?!.*\b{near}\b)",
        "return must be the last statement of its block; leave out what follows",
        r"^'end' expected .* near '[A-Za-z_]\w*'"),
    Row(r"^\s*(?P<at>(?P<x>if|elseif)\b\s*(?P<y>(?:(?!\b(?:return|end|break|local)\b)[^:;{}]){1,60}?))\s*$",
        "write %(x)s %(y)s then", "^'then' expected"),
    Row(r"\b(?P<at>if|elseif)\b(?!.*\bthen\b)", "write then after the condition", "^'then' expected"),
    Row(r"\b(?P<at>(?P<x>for|while))\b(?!.*\bdo\b)", "write do after %(x)s ...", "^'do' expected"),
    Row("", "the %(c)s of line %(n)s is not closed; add %(e)s, or the comma that is missing",
        r"^'(?P<e>\})' expected \(to close '(?P<c>\{)' at line (?P<n>\d+)\)"),
    Row("", "the %(c)s of line %(n)s is not closed; add %(e)s",
        r"^'(?P<e>\)|\])' expected \(to close '(?P<c>.)' at line (?P<n>\d+)\)"),
    Row("", "a } or a comma is missing before this", r"^'\}' expected near"),
    Row("", "a %(e)s is missing before this", r"^'(?P<e>[)\]])' expected near '(?:then|do|end|[)\]}])"),
    Row(r"^\s*(?P<at>[\d\x22'][\w.\x01]*)", "a value alone does nothing in Lua; return it or assign it",
        r"^unexpected symbol near '[\d\x22']"),
    Row("", "repeat ends with until and a condition, not with end", r"^'until' expected .* near 'end'"),
    Row(r"\bfunction\b", "the function needs its end before the )", r"^'end' expected near '\)'"),
    Row(r"(?P<at>(?:=|\.\.|[-+*/,(<>]|\b(?:and|or|not|return))\s*)$", "a value is missing at the end of this line",
        r"^unexpected symbol near '(?:end|then|do|else|elseif|local|if|for|while|return|\))'"),
    Row(r"^\s*(?P<at>" + _PATH + r")\s*;?\s*$",
        "a name alone does nothing in Lua; return it, assign it or call it with ()",
        "^syntax error near"),
]  # fmt: skip
"""What a syntax error's own words say, when no habit was found. `{near}` stands for the token that Lua named."""

_NO_VALUE = r"^attempt to (?:index|call|compare|concatenate|perform|get length).*\bnil\b"

RUN_TIME: list[Row] = [
    Row(r"\bfor\s+(?P<x>\w+)\s*=\s*(?P<at>0)\b", "Lua counts from 1: for %(x)s = 1, #list do", "^lists start at"),
    Row(r"(?P<x>" + _PATH + r")(?P<at>\[0\])", "Lua counts from 1: %(x)s[1] is the first",
        r"^lists start at|^attempt to \w+ a nil value \(field '(?:\?|integer index)'\)"),
    Row("", "Lua counts from 1 to #list", "^lists start at"),
    Row(r"(?<![\w.])(?P<x>(?!(?:string|table|math|utf8)\b)" + _PATH + r")(?P<at>\.(?P<y>" + _METHOD + r"))\s*[(\x22']",
        "methods take a colon: %(x)s:%(y)s(...)",
        r"^call it with a colon|\(local 'self'\)$|^bad argument|^\w+ expects |^attempt to index a (?!nil)"),
    Row(r"\b(?P<at>f)[\x22']", 'Lua has no f"..."; write "text " .. value, or string.format("%%s", value)',
        r"\(global 'f'\)"),
    Row(r"\b(?P<at>move)\s*\|", "Lua writes function(w) return ... end for closures", r"\(global 'move'\)"),
    Row(r"\bfor\s+(?P<x>\w+)\s+in\s+(?P<at>(?P<list>" + _CALLED + r"))\s*(?:\bdo\b|$)",
        "Lua writes for _, %(x)s in ipairs(%(list)s) do", r"^attempt to call a table value.*for iterator"),
    Row(r"\bfor\s+(?P<x>\w+\s*,\s*\w+)\s+in\s+(?P<at>(?P<list>" + _CALLED + r"))\s*(?:\bdo\b|$)",
        "Lua writes for %(x)s in ipairs(%(list)s) do for a list, pairs(%(list)s) for names and values",
        r"^attempt to call a table value.*for iterator"),
    Row("", "Lua walks a list with for _, item in ipairs(list) do", r"^attempt to call a table value.*for iterator"),
    Row(r"\bfor\s+(?P<x>\w+)\s+in\s+(?P<at>(?P<a>-?\d+)\s*,\s*(?P<b>[#\w.]+))",
        "Lua writes for %(x)s = %(a)s, %(b)s do", r"^attempt to call a number value.*for iterator"),
    Row(r"\bfor\b.*\bin\s+(?P<at>(?P<list>(?!nil\b)" + _CALLED + "))",
        "what for walks is nil here; write ipairs(%(list)s or {})",
        r"^attempt to call a nil value.*for iterator"),
    Row(r"(?P<at>\b(?P<f>i?pairs)\s*\((?P<x>(?!nil\b)" + _CALLED + r")\))",
        "%(x)s is nil here; write %(f)s(%(x)s or {})",
        r"'for iterator' \(table expected, got nil\)|^attempt to index a nil value$|to 'i?pairs' .*got (?:nil|no)"),
    Row(r"\b(?P<at>null|None|undefined|NULL|Null|nullptr)\b", "`%(at)s` is an ordinary name in Lua; write nil",
        _NO_VALUE + "|'(?:null|None|undefined|NULL|Null|nullptr)'"),
    Row(r"\b(?P<at>True|False|TRUE|FALSE)\b", "`%(at)s` is an ordinary name in Lua; write true or false",
        _NO_VALUE + "|'(?:True|False|TRUE|FALSE)'"),
    Row("", "timestamp is a function: timestamp():hour()", r"\(global 'timestamp'\)"),
    Row("", "%(path)s is a function; call it: %(called)s",
        r"^attempt to (?:index|perform arithmetic on|concatenate) a function value"),
    Row("", "there is no object of its own; use request and workers",
        r"^attempt to index a nil value \(global '(?:this|self)'\)"),
    Row("", "no item is there: the list is empty or too short; check is_empty() or for nil first",
        r"^attempt to index a nil value \(field '(?:\?|integer index)'\)"),
    Row("", "%(path)s is nil here; check it first: if not %(path)s then return nil end",
        r"^attempt to index a nil value \((?:local|upvalue) '"),
    Row("", "%(path)s is nil here; check it before you use what is in it", r"^attempt to index a nil value \(field '"),
    Row("", "%(x)s is nil here; check it before you use what is in it",
        r"^attempt to index a nil value \(field '(?P<x>\w+)'"),
    Row(r"(?P<at>:get\()", "get gives nil for a missing entry; give it a default: get(key, default)",
        r"^attempt to index a nil value$"),
    Row(r"(?P<at>:(?:first|last|min_by|max_by|sample|weighted|pick_by_hash)\()",
        "that gives nil for an empty list; keep it in a local and check it first",
        r"^attempt to index a nil value$"),
    Row("", "%(path)s is a %(kind)s and has no such field", r"^attempt to index a (?P<kind>number|boolean) value"),
    Row(r"(?P<at>" + _PATH + r"\s*\+\s*[\x22']|[\x22']\s*\+)", "Lua joins texts with .., not +",
        r"^attempt to (?:add a '(?:string|number)' with|perform arithmetic on a string)"),
    Row("", "Lua joins texts with .., not +; text becomes a number by tonumber(x)", r"^attempt to add a '"),
    Row("", "one side is text that is no number; write tonumber(x) or 0",
        r"^attempt to (?:sub|mul|div|mod|pow|idiv|unm) a '(?:string'|\w+' with a 'string')"),
    Row("", "%(path)s is nil here; give it a default: (%(path)s or 0)",
        r"^attempt to perform arithmetic on a nil value \(.*'\)$"),
    Row(r"\b(?P<at>tonumber\()", "tonumber gives nil for text that is no number; write (tonumber(x) or 0)",
        r"^attempt to (?:perform arithmetic on a nil value$|compare.*nil)"),
    Row("", "a value is nil here; give it a default: (x or 0)", r"^attempt to perform arithmetic on a nil value$"),
    Row("", "%(path)s is a table; the number of its items is #%(path)s",
        r"^attempt to perform arithmetic on a table value \(.*'\)$"),
    Row("", "%(path)s is nil here; give it a default: (%(path)s or \"none\")",
        r"^attempt to concatenate a nil value \(.*'\)$"),
    Row("", 'a value is nil here; give it a default: (x or "none")', r"^attempt to concatenate a nil value$"),
    Row("", "write tostring(%(path)s)",
        r"^attempt to concatenate a (?:boolean|table) value \((?:local|field|upvalue|global) '(?!integer)"),
    Row("", "write tostring(x) around what is no text", r"^attempt to concatenate a (?:boolean|table) value"),
    Row("", "%(path)s is nil here; write #(%(path)s or \"\") for text, #(%(path)s or {}) for a list",
        r"^attempt to get length of a nil value \(.*'\)$"),
    Row("", "%(path)s is a number and has no length; tostring(%(path)s) has",
        r"^attempt to get length of a number value \(.*'\)$"),
    Row(r"[^&](?P<at>&)[^&]", "Lua writes `and`; & works on the bits of whole numbers",
        r"^attempt to perform bitwise operation on a (?!number)"),
    Row(r"[^|](?P<at>\|)[^|]", "Lua writes `or`; | works on the bits of whole numbers",
        r"^attempt to perform bitwise operation on a (?!number)"),
    Row("", "%(path)s is a field, not a function; leave the () out",
        r"^attempt to call a (?:number|string|boolean) value \(field '(?!integer|\?)"),
    Row("", "%(path)s is no function; items are taken by [ ], fields by a dot",
        r"^attempt to call a table value \((?:local|upvalue|global) '"),
    Row("", "what stands before the () is no function", r"^attempt to call a (?:number|string|boolean|table) value"),
    Row("",
        "write local %(x)s = ... inside of route_request, or declare it above the function to keep it between requests",
        r"^assignment to (?:the |an )?undeclared (?:global|name|variable) '(?P<x>\w+)'"),
    Row(r"\b(?P<at>state\.(?P<x>\w+))\s*=", 'write state:set("%(x)s", value)', r"^cannot set '.*read-only"),
    Row("", "workers, the request and the libraries are only read; keep your own values in a local or in state",
        r"^cannot set '.*read-only"),
    Row(r"(?P<at>\b(?:while|repeat|for)\b)", "this loop may not end, or walks too much for one decision",
        "^budget exceeded$"),
    Row("", "a loop does not end, or the work for one decision is too much; keep results between requests",
        "^budget exceeded$"),
    Row("", "a table or text grows without end, or a function calls itself without end",
        r"^not enough memory$|^stack overflow\b"),
    Row("", "expressions or functions are nested too deep", "^C stack overflow"),
    Row(r"(?P<at>%\s*#(?P<x>" + _PATH + "))", "%(x)s is empty here; check %(x)s:is_empty() first",
        "^attempt to perform 'n%+0'|^attempt to divide by zero"),
    Row("", "the divisor is 0 here; check it first", "^attempt to perform 'n(?:%+|//)0'|^attempt to divide by zero"),
    Row("", "write math.floor(x) for a whole number", r"^(?:bad argument .*)?number has no integer representation\)?$"),
    Row("", "text must become a number first: tonumber(x) or 0",
        r"^bad argument #\d+ to '\w+' \(number expected, got string"),
    Row("", "a value is nil here; give it a default: (x or 0)",
        r"^bad argument #\d+ to '\w+' \(number expected, got (?:nil|no value)"),
    Row("", 'a value is nil here; give it a default: (x or "")',
        r"^bad argument #\d+ to '\w+' \(string expected, got (?:nil|no value)"),
    Row("", "a value is nil here; give it a default: (x or {})",
        r"^bad argument #\d+ to '\w+' \(table expected, got (?:nil|no value)"),
    Row(r"\bfor\b.*,\s*(?P<at>(?P<x>" + _PATH + "))",
        "the last number of for is no number; the length of a list is #%(x)s",
        r"^bad 'for' limit.*got table|^'for' limit must be a number"),
    Row("", "a number of for is not set; give it a default: (x or 0)", r"^bad 'for' \w+ .*got nil"),
    Row("", "the key is nil here; check it before t[key] = value", "^(?:table )?index is nil"),
    Row(r"(?P<at>(?P<x>" + _PATH + r"):(?P<y>filter|any|all|map)\()", "write %(x)s:%(y)s(function(w) return ... end)",
        r"^(?:filter|any|all|map) expects a function\b"),
    Row("", "what is sorted by must be all numbers or all text; tonumber(x) makes numbers of text",
        "^cannot compare a (?:number with a string|string with a number)"),
    Row("", "a worker is workers[n], not n alone", "^route_request returned a number"),
    Row("", "a function stands there that was not called; call it with ()", "^route_request returned a function"),
    Row("", "write the function route_request(request, workers) at the left margin of the file, without local in front",
        "^the script defines no function route_request"),
    Row("", "no try is there; check values with if before you use them", r"^'(?:pcall|xpcall)' is not available"),
    Row("", "the time is timestamp(), with :hour(), :weekday() and :epoch()", r"^'os' is not available"),
    Row("", "files cannot be read or written; keep values in state, tell the log with log(...)",
        r"^'io' is not available"),
    Row("", "nothing can be loaded; all that a script may use is there already",
        r"^'(?:require|load|loadfile|dofile|package)' is not available"),
    Row("", "use plain tables and functions",
        r"^'(?:setmetatable|getmetatable|raw\w+|debug|coroutine)' is not available"),
]  # fmt: skip
"""Errors of a running script: the first whose message and line fit. `path` is how the line spells what Lua names."""


def _spelled(table: dict[str, str]) -> dict[str, str]:
    """One entry per name, from entries for several names that share a spelling."""
    return {name: spelling for names, spelling in table.items() for name in names.split()}


METHODS = _spelled({
    "length size count": "#list, or list:len()",
    "push append add push_back": "table.insert(list, item)",
    "pop": "table.remove(list)",
    "iter into_iter collect to_vec cloned": "list:filter(f) or list:map(f) on the list itself",
    "forEach for_each each": "for _, item in ipairs(list) do ... end",
    "find_first findFirst": "list:filter(f):first()",
    "some": "list:any(f)",
    "every": "list:all(f)",
    "includes": "list:contains(item), text:contains(part)",
    "reduce fold inject": "a for loop over ipairs(list)",
    "sort sorted sortBy order_by orderBy sort_by_key sort_unstable_by": 'list:sort_by("load") or list:sort_by(f)',
    "minBy min_by_key": "list:min_by(f)",
    "maxBy max_by_key": "list:max_by(f)",
    "groupBy": "list:group_by(f)",
    "isEmpty empty": "list:is_empty()",
    "choose choice random": "list:sample()",
    "startsWith startswith start_with hasPrefix": "text:starts_with(prefix)",
    "endsWith endswith end_with hasSuffix": "text:ends_with(suffix)",
    "toLowerCase to_lowercase to_lower tolower downcase": "text:lower()",
    "toUpperCase to_uppercase to_upper toupper upcase": "text:upper()",
    "toString to_string to_s": "tostring(x)",
    "strip trimStart trim_start trimEnd trim_end": "text:trim()",
    "replace replaceAll replace_all": 'text:gsub("old", "new")',
    "indexOf index_of": "text:find(part, 1, true)",
    "substring substr sub_string slice": "text:sub(first, last)",
    "charAt char_at": "text:sub(n, n)",
    "unwrap unwrap_or unwrap_or_default unwrap_or_else": "x or default",
    "is_some": "x ~= nil",
    "is_none": "x == nil",
    "join": 'table.concat(list, ", ")',
    "hasOwnProperty contains_key has_key containsKey": "t[key] ~= nil",
    "toFixed": 'string.format("%.2f", x)',
    "getHours hours": "timestamp():hour()",
    "getDay day_of_week": "timestamp():weekday()",
    "round": "math.floor(x + 0.5)",
    "trunc": "math.tointeger(x) or math.floor(x)",
    "pow": "x ^ y",
})  # fmt: skip
"""Methods of lists, texts and numbers elsewhere, and what is written instead."""

GLOBALS = _spelled({
    "parseInt parseFloat parse_int parse_float int float Number": "tonumber(x)",
    "str String to_string": "tostring(x)",
    "len count size": "#list",
    "range": "for i = 1, n do ... end",
    "enumerate": "for i, item in ipairs(list) do ... end",
    "min max abs floor ceil sqrt": "math.%s(x)",
    "round": "math.floor(x + 0.5)",
    "pow": "x ^ y",
    "random randint rng": "rand(), or math.random(1, 10)",
    "console println printf puts echo debug dbg logger": "log(...)",
    "typeof type_of isinstance": "type(x)",
    "Math": "math",
    "JSON json": "plain tables; there is no JSON in routing scripts",
    "Date date datetime now time": "timestamp()",
    "throw raise panic fail": 'error("text")',
    "Error Exception ValueError": 'error("text")',
    "Some Ok": "the value itself",
    "Err": 'error("text")',
    "fn func lambda fun": "function(w) return ... end",
    "loop": "while true do ... end",
    "hash": "hash_str(text)",
    "sprintf format": "string.format(...)",
    "concat insert remove": "table.%s(...)",
    "filter map any all sort_by min_by max_by group_by contains first last is_empty sample": "workers:%s(...)",
    "sort sorted": 'workers:sort_by("load")',
    "module exports": "a plain global function route_request(request, workers)",
    "switch match": "if ... then ... elseif ... then ... end",
    "not_nil isset defined": "x ~= nil",
    "try": "if checks before a value is used; there is no try",
})  # fmt: skip
"""Functions and objects that are global elsewhere; `%s` is the name itself."""

FIELDS = {
    "worker": _spelled({
        "name worker_id": "id", "state": "status", "queue queued queue_length pending": "waiting",
        "active running requests": "in_flight", "max_concurrency concurrency slots": "capacity",
        "cost price": "cost_per_hour", "speed perf throughput": "performance", "latency": "latency_ms",
        "ttft": "ttft_ms", "memory gpu_memory vram_total": "vram", "device": "backend", "model": "models",
        "region tier zone": "metadata.%s",
    }),
    "request": _spelled({
        "user": "user_id", "session": "session_id", "size": "model_size", "tokens": "prompt_tokens",
        "messages body text content input": "prompt", "endpoint url": "path", "kind task": "type",
        "tier region user_tier": "metadata.%s",
    }),
}  # fmt: skip
"""Names that a field has elsewhere, and its name here."""


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
    lines = _read(source)
    error = _Error(text, line, lines, known)
    found = _syntax(error) if error.near is not None else _run_time(error)
    shown = _safe(text)
    if found is None:
        source_line, marker = _picture(lines.raw(line), 0, 0)
        return Problem(file, line, 0, shown, None, source_line, line if source_line else 0, marker)
    hint = _safe(found.hint)[:_MOST_HINT] or None
    if hint and found.line not in (line, 0):
        hint = f"line {found.line}: {hint}"
    at = found.line or line
    source_line, marker = _picture(lines.raw(at), found.start, found.end)
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


# ------------------------------------------------------------------------------------------------------- the source

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


class _Source:
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
def _read(source: bytes) -> _Source:
    return _Source(source)


# ------------------------------------------------------------------------------------------------------- the search


class _Found(NamedTuple):
    """A hint, the line it is about (0: Lua's own), and the columns to mark there, from 0; none when end is 0."""

    hint: str
    line: int = 0
    start: int = 0
    end: int = 0


_SYNTAX = re.compile(
    r"(?:unexpected symbol|syntax error|malformed number|unfinished |invalid escape|hexadecimal digit|decimal escape"
    r"|missing '|UTF-8 value|'[^']{1,10}' expected|<\w+> expected|function arguments expected|'=' or 'in' expected"
    r"|cannot use '...'|too many )[^\"]{0,120}? near (?P<near>.*)\Z"
    r"|(?:no visible label|break outside|label '|multiple to-be|unknown attribute|attempt to assign to const).*\Z"
    r"|unexpected symbol\Z",
    re.DOTALL,
)


class _Error:
    """An error as the finders see it. `near` is the token that Lua named, "" when it named none, None at run time."""

    def __init__(self, text: str, line: int, lines: _Source, known: Iterable[str]) -> None:
        self.text, self.line, self.lines, self.known = text, line, lines, known
        syntax = _SYNTAX.match(text)
        self.near = None if syntax is None else (syntax["near"] or "")
        if self.near and self.near[0] == "'":
            self.near = self.near[1:].removesuffix("'")


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


def _search(rows: Iterable[Row], error: _Error, number: int, path: str = "") -> _Found | None:
    """The first row that fits the message and this line of the source."""
    code = error.lines.code(number)
    offset = _window(code, error.near or path)
    piece = code[offset : offset + _WINDOW]
    for row in rows:
        told = _pattern(row.message).search(error.text) if row.message else None
        if (row.message and told is None) or ("%(path)s" in row.hint and not path):
            continue
        values = defaultdict(str, path=path, called=_call(path), near=error.near or "")
        if told:
            values |= {key: _clipped(value or "") for key, value in told.groupdict().items()}
        if not row.code:
            return _Found(row.hint % values)
        place = _fits(row.code, error.near or "", piece)
        if place is None:
            continue
        raw = error.lines.raw(number)[offset : offset + _WINDOW]
        values |= {key: _clipped(raw[slice(*place.span(key))]) for key in place.re.groupindex if place[key] is not None}
        values["args"] = values["args"] or values["args1"]
        start, end = place.span("at") if "at" in place.re.groupindex else (0, 0)
        return _Found(row.hint % values, number, offset + start, offset + end if end else 0)
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
    if len(code) <= _WINDOW:
        return 0
    return max(0, code.find(token) - _WINDOW // 2) if token else 0


def _clipped(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 40 else text[:37] + "..."


# ----------------------------------------------------------------------------------------------------- syntax errors


def _syntax(error: _Error) -> _Found:
    near, line = error.near or "", error.line
    start, end = _token_at(error)
    found = _strange(error) or _search(NEAR.get(near, ()), error, line) or _stray_brace(error)
    if found is None:
        places = _places(error)
        found = _first(HABITS, error, places) or _unclosed(error) or _first(TOLD, error, places)
    if found is None:
        return _Found("", line, start, end)
    return found if found.line else found._replace(line=line, start=start, end=end)


def _first(rows: list[Row], error: _Error, places: list[int]) -> _Found | None:
    return next((found for number in places if (found := _search(rows, error, number))), None)


def _places(error: _Error) -> list[int]:
    """The lines that may hold the cause: Lua's own, the one before, and the one that began what is not finished."""
    places = [error.line, error.lines.before(error.line)]
    opened = re.search(r"\bat line (\d{1,9})", error.text)
    if opened:
        places.append(int(opened[1]))
    missing = re.match(r"'(then|do)' expected", error.text)
    if missing:
        words = r"\b(?:if|elif|elseif)\b" if missing[1] == "then" else r"\b(?:for|while)\b"
        for number in range(min(error.line, len(error.lines)), max(0, error.line - 50), -1):
            if _pattern(words).search(error.lines.code(number)[:_WINDOW]):
                places.append(number)
                break
    return [number for number in dict.fromkeys(places) if number > 0]


_TOKEN = re.compile(r"\w+|==|~=|<=|>=|<<|>>|//|::|\.\.\.?|\S", re.ASCII)
_ENDS_VALUE = re.compile(r"\w|[)\]}\"'\x01]", re.ASCII)
_OPENING = re.compile(_LUA_WORD + r"\Z")
"""Words after which a value may stand."""


def _token_at(error: _Error) -> tuple[int, int]:
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


STRANGE = {
    "\u201c\u201d\u201e\u00ab\u00bb": 'text stands in plain quotes, "..."',
    "\u2018\u2019\u201a\u00b4": "text stands in plain quotes, '...'",
    "\u2013\u2014\u2212": "a minus is a plain -",
    "\u2260": "Lua writes `~=` for not equal",
    "\u2264": "Lua writes `<=`",
    "\u2265": "Lua writes `>=`",
    "\u00a0\u2009\u202f\u3000": "a space that is no ordinary space stands here; write an ordinary one",
    "\u200b\u200c\u200d\u2060": "an invisible character stands here; leave it out",
    "\ufeff": "an invisible byte order mark stands here; save the file as UTF-8 without one",
    "\u2026": "three dots are ...",
    "\u2192\u21d2": "Lua has no arrows; a closure is function(w) return ... end",
    "\u00d7": "Lua writes * for times",
}


def _strange(error: _Error) -> _Found | None:
    """A character that Lua knows only inside of texts: it names it as a byte, <\\226>."""
    if not (error.near or "").startswith("<\\"):
        return None
    code = error.lines.code(error.line)
    place = re.search(r"[^\x00-\x7f]", code)
    if place is None:
        return None
    for characters, hint in STRANGE.items():
        if place[0] in characters:
            return _Found(hint, error.line, *place.span())
    if place[0] == "\ufffd":
        return _Found("the file must be saved as UTF-8", error.line, *place.span())
    return _Found("names in Lua have only the letters a to z, digits and _", error.line, *place.span())


class _Block:
    """A block or bracket that the walk has entered; `else_if` is the line and column of an `else if` in it."""

    def __init__(self, word: str, line: int, indent: int, column: int) -> None:
        self.word, self.line, self.indent, self.column = word, line, indent, column
        self.else_if: tuple[int, int, int] | None = None


_BLOCK = re.compile(
    r"\b(?:function|if|elseif|else|for|while|do|repeat|end|until)\b|[(){}\[\]]|\r\n|\n\r|\n|\r", re.ASCII
)
_CLOSES = {")": "(", "}": "{", "]": "["}


class _Walk:
    """Walks through the blocks of a source until one does not fit, by nesting or by how the lines are indented.

    unclosed: the block that seems to lack its end; stray: the line and column of a } that closes nothing;
    extra: the line and column of an `end` too many, and the line of what it closed, if anything; open: what is open
    """

    def __init__(self, lines: _Source) -> None:
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
    return len(code[:_WINDOW].expandtabs(_TABS)) - len(code[:_WINDOW].expandtabs(_TABS).lstrip())


def _stray_brace(error: _Error) -> _Found | None:
    if error.near != "}":
        return None
    walk = _Walk(error.lines)
    if walk.stray is None or walk.stray[0] != error.line:
        return None
    line, column = walk.stray
    if _pattern(r"^\}\s*(?:else|elseif)\b").search(error.lines.code(line)[column : column + _WINDOW]):
        return _Found("Lua writes else without braces: if ... then ... else ... end", line, column, column + 1)
    return _Found("Lua closes a block with end, not }", line, column, column + 1)


def _unclosed(error: _Error) -> _Found | None:
    """For a missing or superfluous `end`: Lua notices it late, the shape of the file tells where it should stand."""
    too_many = error.text.startswith("<eof> expected near 'end'")
    if not too_many and not re.match(r"'end' expected|unexpected symbol near '\)'", error.text):
        return None
    walk = _Walk(error.lines)
    if too_many:
        if walk.extra is None:
            return None
        line, column, closed = walk.extra
        began = f"closes what began at line {closed}; one end is too many" if closed else "is one too many"
        return _Found(f"this end {began}", line, column, column + 3)
    block, at_end = walk.unclosed, error.near == "<eof>"
    if block and block.else_if:
        return _Found(_ELSE_IF, *block.else_if)
    if at_end and block is None:
        if 0 < len(walk.else_ifs) <= len(walk.open):
            return _Found(_ELSE_IF, *walk.else_ifs[0])
        block = walk.open[-1] if walk.open else None
        return _Found(f"the {block.word} of line {block.line}, or a block inside of it, has no end") if block else None
    if block is None or not (at_end or error.near == ")"):
        return None
    if not at_end and not any(one.word == "(" for one in walk.open):
        return _Found("this ) closes nothing")
    inside = [place for place in walk.else_ifs if place[:2] > (block.line, block.column)]
    if inside:
        return _Found(_ELSE_IF, *inside[0])
    return _Found(f"this {block.word} has no end", block.line, block.column, block.column + len(block.word))


_ELSE_IF = "Lua writes elseif, in one word; else if begins a block that needs an end of its own"

# -------------------------------------------------------------------------------------------------- run-time errors

_NAMED = re.compile(r"\((local|global|upvalue|field|method|constant) '([^']{1,60})'\)\s*\Z")
_NO_FIELD = re.compile(r"an? (?P<what>worker|request) has no field '(?P<x>\w{1,60})'\Z", re.ASCII)
_LOST = re.compile(
    r"attempt to (?:call|index) a nil value \((?P<kind>global|method|field) '(?P<x>\w{1,60})'\)"
    r"|(?:an? \w{1,20}|timestamp\(\)|state) has no (?:field |method )?'(?P<y>\w{1,60})'",
    re.ASCII,
)


def _run_time(error: _Error) -> _Found | None:
    """What there is to say of an error of a running script; None when its message is none that we know."""
    path, start, end = _named(error)
    found = _search(RUN_TIME, error, error.line, path) or _lost(error) or _compared(error)
    if found is None:
        return _Found("", error.line, start, end) if end else None
    return found if found.line else found._replace(line=error.line, start=start, end=end)


def _named(error: _Error) -> tuple[str, int, int]:
    """How the line spells what Lua calls (field 'vram'), as "w.vram", and its columns; the bare name if not found."""
    named = _NAMED.search(error.text)
    if named is None:
        return "", 0, 0
    kind, name = named.groups()
    code = error.lines.code(error.line)
    if kind == "constant" or not re.fullmatch(_WORD, name, re.ASCII):
        return "", 0, 0
    offset = _window(code, name)
    piece = code[offset : offset + _WINDOW]
    if kind in ("field", "method"):
        place = re.search(rf"(?<![\w.:])(?P<path>{_CALLED})(?P<dot>[.:])(?P<at>{name}\b)", piece, re.ASCII)
        place = place or re.search(rf"[.:](?P<at>{name}\b)", piece, re.ASCII)
        if place is None:                                          # written as a text: x["name"]
            raw = error.lines.raw(error.line)[offset : offset + _WINDOW]
            place = re.search(rf"(?P<path>{_PATH})\[(?P<at>[\"']{name}[\"'])\]", raw, re.ASCII)
    else:
        place = re.search(rf"(?<![\w.:])(?P<at>{name}\b)", piece, re.ASCII)
    if place is None:
        return "", 0, 0
    path = name if kind not in ("field", "method") else place[0] if "path" in place.re.groupindex else ""
    return path if len(path) <= 40 else "", offset + place.start("at"), offset + place.end("at")


def _lost(error: _Error) -> _Found | None:
    """For a function, method or object that is not there: how Lua calls it, or the nearest name."""
    field = _NO_FIELD.match(error.text)
    if field and field["x"] in FIELDS[field["what"]]:
        return _Found(f"write {field['what']}.{FIELDS[field['what']][field['x']].replace('%s', field['x'])}")
    lost = _LOST.match(error.text)
    if lost is None:
        return None
    name, kind = lost["x"] or lost["y"], lost["kind"]
    if kind == "global":
        if name in GLOBALS:
            return _Found(f"instead of {name}, write {GLOBALS[name].replace('%s', name)}")
        if "did you mean" in error.text:
            return None
        near = difflib.get_close_matches(name, _names(error), 2, 0.7)
        near = [other for other in near if other != name]
        if near:
            return _Found(f"the nearest name is {near[0]}")
        what = f"function {name}(...)" if error.text.startswith("attempt to call") else f"{name} = ..."
        return _Found(f"nothing has the name {name} here; write local {what} above")
    if kind is not None and error.text.startswith("attempt to index"):
        return None
    if name in METHODS:
        return _Found(f"instead of {name}, write {METHODS[name]}")
    if name == "get":
        return _Found("only metadata and state have get: worker.metadata:get(key, default)")
    if name in LANGUAGE.methods["list"]:
        return _Found("only workers and the lists they give have methods, your own tables have not")
    near = difflib.get_close_matches(name, _METHOD_NAMES, 1, 0.75) if kind != "field" else []
    return _Found(f"the nearest name is {near[0]}") if near and "did you mean" not in error.text else None


_DEFINED = re.compile(
    r"\bfunction\b\s*(?P<name>\w{0,60})[\w.:]{0,60}\s*\((?P<parameters>[^()]{0,200})\)"
    r"|\b(?:local|for)\s+(?!function\b)(?P<local>\w{1,60})",
    re.ASCII,
)


def _names(error: _Error) -> list[str]:
    """Names that a script may use: those of the language and those that it defines itself, at most 500."""
    names = dict.fromkeys(name for name in (*LANGUAGE.globals, *error.known) if len(name) <= 60)
    for found in _DEFINED.finditer(error.lines.masked):
        if len(names) > 500:
            break
        names |= dict.fromkeys(re.findall(r"\w+", " ".join(part for part in found.groups() if part), re.ASCII))
    return list(names)[:500]


_COMPARES = re.compile(r"attempt to compare (?:two (?P<both>\w+) values|(?P<a>\w+) with (?P<b>\w+))\Z")
_COMPARISON = re.compile(
    rf"(?<![\w.:\])])(?P<left>#?{_CALLED}|-?\d[\w.]{{0,20}}|[\"']\x01{{0,60}}[\"'])\s*(?P<op><=|>=|<|>)\s*"
    rf"(?P<right>#?{_CALLED}|-?\d[\w.]{{0,20}}|[\"']\x01{{0,60}}[\"'])",
    re.ASCII,
)


def _compared(error: _Error) -> _Found | None:
    """For "attempt to compare number with nil": which side of which comparison on the line it was."""
    told = _COMPARES.match(error.text)
    if told is None:
        return None
    first, second = (told["both"], told["both"]) if told["both"] else (told["a"], told["b"])
    code = error.lines.code(error.line)
    fitting = []
    for place in _COMPARISON.finditer(code[:_WINDOW]):
        left, right = (first, second) if place["op"][0] == "<" else (second, first)    # Lua turns a > b into b < a
        if _may_be(place["left"], left) and _may_be(place["right"], right):
            fitting.append((place, left, right))
    if len(fitting) != 1:
        hint, _ = _comparison_hint("", "", "", first, second)
        return _Found(hint) if hint else None
    place, left, right = fitting[0]
    raw = error.lines.raw(error.line)
    x, y = (_clipped(raw[slice(*place.span(side))]) for side in ("left", "right"))
    hint, side = _comparison_hint(x, place["op"], y, left, right)
    return _Found(hint, error.line, *place.span(side)) if hint else None


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


def _picture(raw: str, start: int, end: int) -> tuple[str, str]:
    """A source line to show, cut around the columns to mark, and the marker to stand below it."""
    first = max(0, start - 2 * SHOWN_COLUMNS) if len(raw) > 20 * SHOWN_COLUMNS else 0
    cells: list[tuple[str, int]] = []
    marked = [0, 0]
    for index, character in enumerate(raw[first : first + 20 * SHOWN_COLUMNS], first):
        if index == start:
            marked[0] = len(cells)
        if character == "\t":
            cells += [(" ", 1)] * (_TABS - len(cells) % _TABS)
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
    line = head + "".join(text for text, _ in cells[begin:stop]) + tail
    if not end or marked[0] >= len(cells):
        return line.rstrip(), ""
    length = max(1, _columns(cells[marked[0] : min(marked[1], stop)]))
    return line.rstrip(), " " * (len(head) + _columns(cells[begin : marked[0]])) + "^" + "~" * (length - 1)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _columns(cells: Iterable[tuple[str, int]]) -> int:
    return sum(width for _, width in cells)
