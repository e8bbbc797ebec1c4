"""The library for texts, tables and numbers that is left to a script, and what was added to it (sandbox.lua)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import picked, quick, shown

# Texts.


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("('llama-3-8b'):starts_with('llama')", "true"), ("('llama'):starts_with('llama-3')", "false"),
        ("('llama'):starts_with('')", "true"), ("('llama'):ends_with('ma')", "true"),
        ("('llama'):ends_with('')", "true"),
        ("('llama'):ends_with('x')", "false"), ("('llama'):contains('lam')", "true"),
        ("('llama'):contains('.')", "false"),
        ("('llama'):contains('')", "true"), ("('a.b'):contains('.')", "true"),
        ("string.starts_with('ab', 'a')", "true"),
        ("('x'):rep(3)", "xxx"), ("('x'):rep(3, '-')", "x-x-x"), ("('x'):rep(0)", ""), ("('x'):rep(-1)", ""),
        ("('Ab'):upper() .. ('Ab'):lower()", "ABab"), ("('abc'):reverse()", "cba"), ("('abc'):sub(2, -1)", "bc"),
        ("('abc'):byte()", "97"), ("select('#', ('abc'):byte(1, -1))", "3"), ("string.char(104, 105)", "hi"),
        ("('abc'):len()", "3"), ("('a=1'):match('^(%w+)=(%d)$')", "a"), ("('abc'):find('b', 1, true)", "2"),
        ("('a b'):gsub(' ', '_')", "a_b"), ("('abc'):gsub('%w', function(c) return c:upper() end)", "ABC"),
        ("('abc'):gsub('b', {b = 'x'})", "axc"), ("string.format('%s %d %.1f %s', 'a', 3, 2.5, true)", "a 3 2.5 true"),
        ("tostring(nil) .. tostring(1.5) .. tostring(true)", "nil1.5true"), ("tonumber('12') + 1", "13"),
        ("utf8.len('grün')", "4"), ("#'grün'", "5"), ("utf8.codepoint('ü')", "252"),
        ("table.concat({1, 2}, ',')", "1,2"),
        ("select('#', table.unpack({1, 2, 3}))", "3"), ("table.pack(1, 2).n", "2"), ("math.floor(1.5)", "1"),
        ("#{table.remove({1, 2})}", "1"), ("type(next)", "function"), ("assert(5)", "5"),
    ],
)  # fmt: skip
def test_the_library_that_is_left_does_what_lua_does(expression: str, value: str) -> None:
    assert shown(f"({expression})") == value


def test_all_words_of_a_text_can_be_walked() -> None:
    body = "local t = {} for word in ('a b c'):gmatch('%a') do t[#t + 1] = word end"
    assert shown("table.concat(t, '+')", None, body) == "a+b+c"


def test_tables_show_as_a_word_and_never_as_an_address() -> None:
    shows = "tostring({}) .. tostring(print) .. tostring(workers) .. tostring(request) .. tostring(hash_str)"
    assert shown(shows) == "tablefunctiontabletablefunction"


# split, trim.


def parts(expression: str) -> list[str]:
    body = f"local t = {{}} for _, part in ipairs({expression}) do t[#t + 1] = '[' .. part .. ']' end"
    return shown("table.concat(t, '')", None, body)[1:-1].split("][") if shown(f"#({expression})") != "0" else []


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("('a,b,c'):split(',')", ["a", "b", "c"]), ("('a,,c'):split(',')", ["a", "", "c"]), ("(','):split(',')", ["", ""]),
        ("(''):split(',')", [""]), ("('abc'):split(',')", ["abc"]), ("('a.b'):split('.')", ["a", "b"]),
        ("('a%b'):split('%')", ["a", "b"]), ("('a--b--'):split('--')", ["a", "b", ""]), ("('aaa'):split('aa')", ["", "a"]),
        ("('  a  b '):split()", ["a", "b"]), ("('   '):split()", []), ("(''):split()", []), ("('a\\tb\\nc'):split()", ["a", "b", "c"]),
        ("('ünö'):split('n')", ["ü", "ö"]), ("string.split('a b')", ["a", "b"]), ("('a b'):split(nil)", ["a", "b"]),
        ("('1x2'):split('x')", ["1", "2"]), ("('a1b'):split(1)", ["a", "b"]),
    ],
)  # fmt: skip
def test_split_gives_the_parts_of_a_text(expression: str, expected: list[str]) -> None:
    assert parts(expression) == expected


@quick(max_examples=60)
@given(st.lists(st.text("ab ,ü", max_size=4), min_size=1, max_size=6), st.sampled_from([",", ", ", "ü", "ab"]))
def test_split_is_the_opposite_of_concat(given_parts: list[str], separator: str) -> None:
    text = separator.join(given_parts)
    assert shown(f"table.concat(({text!r}):split({separator!r}), '|')") == "|".join(text.split(separator))


@quick(max_examples=60)
@given(st.text(" \t\n\r\v\fa1ü", max_size=12))
def test_trim_takes_white_space_off_both_ends(text: str) -> None:
    spelled = "".join(f"\\{octet:03d}" for octet in text.encode())
    assert shown(f"'[' .. ('{spelled}'):trim() .. ']'") == "[" + text.strip(" \t\n\r\v\f") + "]"


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("('a'):split('')", "split expects a separator that is not empty"),
        ("('a'):split({})", "bad argument #2 to 'split' (string expected, got table)"),
        ("string.split(nil, ',')", "bad argument #1 to 'split' (string expected, got nil)"),
        ("string.trim()", "bad argument #1 to 'trim' (string expected, got nil)"),
        ("string.trim({})", "bad argument #1 to 'trim' (string expected, got table)"),
        ("(('x'):rep(60000)):split(('y'):rep(100))", "the text is too long to search"),
    ],
)
def test_split_and_trim_say_what_they_expect(expression: str, error: str) -> None:
    assert picked(f"return {expression}") == f"routing.lua:2: {error}"


def test_trimming_a_long_text_of_white_space_is_quick_enough() -> None:
    assert shown("#((' '):rep(65536)):trim()") == "0"
    assert shown("#(('x' .. (' '):rep(65000) .. 'y' .. (' '):rep(500))):trim()") == "65002"


def test_a_text_in_a_template_may_be_of_any_kind_but_a_table() -> None:
    assert shown("string.format('%s|%5.2f|%03d|%x|%q|%s|%%', 'a', 1.005, 7, 255, 'b', nil)") == 'a| 1.00|007|ff|"b"|nil|%'
