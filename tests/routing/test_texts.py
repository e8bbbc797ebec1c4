"""The library for texts, tables and numbers that is left to a script, and what was added to it (sandbox.lua)."""

from __future__ import annotations

import pytest

from tests.support.builders import shown

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
