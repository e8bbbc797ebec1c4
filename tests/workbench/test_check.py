"""The checker as a whole: what Lua says, what is rendered, that no script makes it fail, and no good one is blamed."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbeerouter.routing.language import LANGUAGE
from rbeerouter.routing.syntax import parse
from rbeerouter.workbench.check import check, render
from rbeerouter.workbench.finding import ERROR, WARNING, Finding, Report, nearest
from tests.docs.pages import REPOSITORY, blocks
from tests.support.builders import lua, quick
from tests.workbench.scripts import findings, told

EXAMPLE = (REPOSITORY / "routing.example.lua").read_bytes()
FRAGMENT = re.compile(r"-- in (\w+)\n")
"""An example that is only the body of a hook begins with its name."""


def whole(text: str) -> bytes:
    found = FRAGMENT.match(text)
    if found:
        text = text.replace(found[0], f"function {found[1]}({', '.join(LANGUAGE.hooks[found[1]])})\n", 1) + "end\n"
    return text.encode() + (b"" if "function route_request" in text else b"function route_request() end\n")


GOOD = {
    str(block): whole(block.text)
    for block in blocks("lua")
    if "--> error: " not in block.text and (FRAGMENT.match(block.text) or "function route_request" in block.text)
} | {
    str(path.relative_to(REPOSITORY)): path.read_bytes()
    for path in [REPOSITORY / "routing.example.lua", *sorted((REPOSITORY / "docs/examples").glob("*.lua"))]
    if not path.stem.endswith("_test")
}
HOSTILE = sorted((REPOSITORY.parent / "shared" / "hostile").glob("*.lua"))


@pytest.mark.parametrize("name", GOOD)
def test_no_script_of_the_documentation_is_called_wrong(name: str) -> None:
    assert [found for found in check(GOOD[name], "routing.lua") if found.severity == ERROR] == []


def test_the_documentation_has_many_scripts() -> None:
    assert len(GOOD) > 40


def test_the_script_to_start_from_gives_no_warning_either() -> None:
    assert check(EXAMPLE, "routing.lua") == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        (b"function route_request(request, workers)\n  return workers[1]\n", ["error syntax 3:1"]),
        (b"function route_request()\n  if x != 1 then end\nend", ["error syntax 2:8"]),
        (b"function route_request() goto nowhere end", ["error syntax 1:26"]),
        (b"local limit = 5 + nil\nfunction route_request() return limit end", ["error load 1:1"]),
        (b"os.execute('x')\nfunction route_request() end", ["error unavailable 1:1"]),
        (b"local x = 5\nlog(x)", ["error missing-route-request 1:1"]),
        (b"local function route_request() end", ["error missing-route-request 1:1", "warning unused 1:16"]),
        (b"", ["error missing-route-request 1:1"]),
        (b"--" + b"x" * 40_000, ["error not-loaded 1:1"]),
        (b"\x1bLua", ["error syntax 1:1"]),
    ],
)
def test_what_lua_itself_refuses_is_told_with_its_line(source: bytes, lines: list[str]) -> None:
    assert [re.sub(r"(syntax \d+|load \d+):\d+", r"\1:1", line) for line in told(source)] == [
        re.sub(r"(syntax \d+|load \d+):\d+", r"\1:1", line) for line in lines
    ]


def test_a_syntax_error_is_all_that_is_told_of_a_script() -> None:
    assert [found.code for found in findings("return workers[0].nope(")] == ["syntax"]


def test_a_finding_is_shown_with_its_line_a_caret_and_a_hint() -> None:
    source = lua("  return workers:filtr(function(w) return true end)")
    (found,) = check(source, "routing.lua")
    assert found == Finding(ERROR, "unknown-method", 2, 18, "a list has no 'filtr'", "did you mean filter?")
    assert render(found, source).splitlines() == [
        "routing.lua:2:18: error: a list has no 'filtr' [unknown-method]",
        "    2 |   return workers:filtr(function(w) return true end)",
        "      |                  ^",
        "hint: did you mean filter?",
    ]


def test_a_long_line_is_cut_around_the_caret() -> None:
    source = lua(f"local x = '{'a' * 300}' return request.modle, x")
    (found,) = check(source, "routing.lua")
    _, line, marker, _ = render(found, source).splitlines()
    assert line[marker.index("^") :].startswith("modle")
    assert len(line) < 120


def test_tabs_and_wide_characters_keep_the_caret_below_its_place() -> None:
    source = lua("\tlog('火', request.modle)")
    (found,) = check(source, "routing.lua")
    _, line, marker, _ = render(found, source).splitlines()
    assert found.column == 19
    assert line == "    2 |     log('火', request.modle)"
    assert marker == "      | ".ljust(line.index("modle") + 1) + "^", "火 takes two columns"


def test_a_place_behind_the_end_of_its_line_has_no_caret() -> None:
    shown = render(Finding(ERROR, "odd", 1, 90, "odd"), b"return 1")
    assert shown.splitlines() == ["routing.lua:1:90: error: odd [odd]", "    1 | return 1"]


def test_nothing_that_is_shown_can_move_a_cursor() -> None:
    source = lua("log('\x1b[2J\u202e', request.modle)")
    (found,) = check(source, "routing.lua")
    assert all(line.isprintable() for line in render(found, source).splitlines())


def test_a_syntax_error_is_shown_by_the_words_of_problem() -> None:
    source = lua("  if request.model != 'x' then return nil end")
    (found,) = check(source, "routing.lua")
    shown = render(found, source).splitlines()
    assert found.line == 2
    assert "~=" in (found.hint or "")
    assert shown[0].startswith("routing.lua:2: error: ")
    assert shown[0].endswith("[syntax]")
    assert shown[2].strip(" |^~") == ""


def test_columns_count_characters_and_lines_count_as_lua_does() -> None:
    assert told("log('Zürich', request.modle)") == ["error unknown-field 2:23"]
    windows = lua("log(1)\nlog(request.modle)").replace(b"\n", b"\r\n")
    assert told(windows) == ["error unknown-field 3:13"]
    assert told(windows.replace(b"\r\n", b"\r")) == ["error unknown-field 3:13"]


@pytest.mark.skipif(not HOSTILE, reason="the hostile scripts are not here")
@pytest.mark.parametrize("path", HOSTILE, ids=lambda path: path.name)
def test_a_hostile_script_is_checked_in_no_time(path: Path) -> None:
    source = path.read_bytes()
    began = time.process_time()
    found = check(source, path.name)
    assert time.process_time() - began < 3.0
    assert all(len(render(one, source, path.name)) < 2000 for one in found)


@pytest.mark.parametrize(
    "body",
    [
        "return " + "(" * 150 + "1" + ")" * 150,
        "return " + "a.b" + ".c" * 9000,
        "return f" + "()" * 9000,
        "return " + "a or " * 6000 + "a",
        "if a and " + "x.y and " * 3500 + "b then end",
        "local x = { " + "{ w = 1 }, " * 2500 + "}",
        "if a then " + "elseif b then " * 2000 + "end",
        "local f = function(x) return x end\n" + "f(f)\n" * 5000,
        "local a = workers\n" + "a = a:filter(function(w) return w.load < a[1].load end)\n" * 400,
        "seen = 1\n" * 3000,
        "-- " + "\n" * 30_000,
        "return " + "[" * 30_000,
        "a b " * 8000,
    ],
    ids=lambda body: body[:20],
)
def test_a_script_that_is_deep_or_long_is_checked_in_no_time(body: str) -> None:
    source = lua(body)
    began = time.process_time()
    check(source, "routing.lua")
    assert time.process_time() - began < 5.0


@quick(max_examples=150)
@given(st.binary(max_size=120) | st.text(max_size=120).map(str.encode))
def test_no_text_makes_it_fail(source: bytes) -> None:
    for found in check(source, "routing.lua"):
        render(found, source)


PIECES = [
    b" end ", b" function ", b" return ", b" if ", b" then ", b" local ", b" = ", b"(", b")", b"[", b"]", b"{", b"}",
    b".", b":", b"::", b" goto x ", b"'", b"--[[", b"\n", b"\r", b"\0", b"\xff", b" workers ", b" request ", b" nil ",
    b" 0 ", b" and ", b" or ", b" not ", b"#", b"...", b"~=", b" break ", b" repeat ", b" until ", b" while true do ",
]  # fmt: skip


@quick(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 40), st.sampled_from([*PIECES, b""])), max_size=6))
def test_no_change_to_a_good_script_makes_it_fail(changes: list[tuple[int, int, bytes]]) -> None:
    source = EXAMPLE
    for place, length, piece in changes:
        source = source[:place] + piece + source[place + length :]
    for found in check(source, "routing.lua"):
        render(found, source)


def test_only_so_many_findings_are_told() -> None:
    report = Report(parse(b"x = 1\n" * 300))
    for node in report.tree.nodes:
        report.add(node, WARNING, "odd", "odd")
    assert len(report.sorted()) == 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [("statsu", "status"), ("maxTokens", "max_tokens"), ("loading", "load"), ("zebra", None), ("", None)],
)
def test_the_nearest_name_is_the_one_that_was_meant(name: str, expected: str | None) -> None:
    assert nearest(name, ["status", "max_tokens", "load"]) == expected
