"""Tests of the lines to paste: they differ in the numbers and in nothing else, and Lua reads them so."""

from __future__ import annotations

import pytest

from rbeerouter.routing.syntax import params
from rbeerouter.sim.paste import loaded_with, pasted, settable, shown, with_defaults

SCRIPT = b"""-- policy
local limit = param("limit", 4, 1, 16)      -- requests
local a, b = param("a", 0.5, 0, 1), param('b', -2, -5, 5)
local other = param( "c" ,
  1e2,
  0, 1000)
local name = "d"
local hidden = param(name, 1, 0, 2)
function route_request(request, workers)
  return param("limit", 4, 1, 16) > 3 and nil or workers:first()
end
"""


def test_each_line_that_changes_is_given_with_its_number() -> None:
    assert pasted(SCRIPT, {"limit": 9, "a": 0.5, "b": 3, "c": 250.0, "d": 2}) == [
        (2, 'local limit = param("limit", 9, 1, 16)      -- requests'),
        (3, "local a, b = param(\"a\", 0.5, 0, 1), param('b', 3, -5, 5)"),
        (5, "  250.0,"),
        (10, '  return param("limit", 9, 1, 16) > 3 and nil or workers:first()'),
    ]


def test_two_params_of_a_line_change_together() -> None:
    assert pasted(SCRIPT, {"a": 0.25, "b": -1}) == [(3, "local a, b = param(\"a\", 0.25, 0, 1), param('b', -1, -5, 5)")]


def test_what_stays_as_it_is_needs_no_line() -> None:
    assert pasted(SCRIPT, {"limit": 4, "a": 0.5}) == []
    assert pasted(b"return", {"limit": 4}) == []


@pytest.mark.parametrize("value", [0.1, 3, 3.0, -7, 1e-9, 123456.789, 2.0**40])
def test_a_number_is_read_as_it_was_meant(value: float) -> None:
    (found,) = params(f'param("x", {shown(value)}, -1e99, 1e99)'.encode())
    assert found.default == value and type(found.default) is type(value)


def test_the_whole_script_differs_in_these_lines_alone() -> None:
    changed = with_defaults(SCRIPT, {"limit": 9, "c": 250.0}).decode().splitlines()
    differing = [number for number, pair in enumerate(zip(SCRIPT.decode().splitlines(), changed, strict=True), 1) if pair[0] != pair[1]]
    assert differing == [2, 5, 10]


def test_a_param_that_is_read_once_cannot_be_set_while_the_script_runs() -> None:
    assert settable(b"function f() return param('x', 1, 0, 2) end local g = function() return param('y', 1, 0, 2) end", ["x", "y"])
    assert not settable(SCRIPT, ["limit"]) and not settable(SCRIPT, ["c", "z"]) and settable(SCRIPT, ["z"])


def test_letters_of_more_bytes_before_a_param_do_no_harm() -> None:
    source = 'local größe = param("größe", 1, 0, 9)'.encode()
    assert pasted(source, {"größe": 5}) == [(1, 'local größe = param("größe", 5, 0, 9)')]


def test_only_what_is_read_once_is_written_into_the_script_that_is_loaded() -> None:
    assert loaded_with(SCRIPT, {"a": 1.0, "c": 3}) == SCRIPT.replace(b'"a", 0.5', b'"a", 1.0').replace(b"1e2", b"3")
    assert b'param("limit", 9, 1, 16)      -- requests' in loaded_with(SCRIPT, {"limit": 9.0})
    within = b'function route_request(r, w) return param("p", 1, 0, 2) > 1 and w:first() or nil end'
    assert loaded_with(within, {"p": 2}) is within and loaded_with(SCRIPT, {"strange": 1}) is SCRIPT


def test_what_is_read_once_and_has_no_number_to_change_is_refused() -> None:
    with pytest.raises(ValueError, match="param p: line 2 reads it once, with a default that is no plain number"):
        loaded_with(b'local low = 1\nlocal p = param("p", low, 0, 2)\n', {"p": 2})
