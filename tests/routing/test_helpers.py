"""Time, chance, hashes, log, state, param and strategy, as a script calls them (helpers.lua)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import WALL, Clock, fleet, quick, request, script, shown

# rand, timestamp, hash_str.


def test_rand_is_at_least_zero_and_below_one_and_follows_the_seed() -> None:
    body = "local t = {} for i = 1, 20 do t[i] = string.format('%.6f', rand()) end"
    rolls = [
        [float(roll) for roll in (script(f"{body} error(table.concat(t, ' '), 0)", seed=seed)
                                  .route(request(), fleet()).error or "").split()[1:]]
        for seed in (1, 1, 2)
    ]  # fmt: skip
    assert rolls[0] == rolls[1] != rolls[2]
    assert all(0 <= roll < 1 for roll in rolls[0]) and len(set(rolls[0])) == 20


@pytest.mark.parametrize(
    ("offset_s", "expected"),
    [(0, "12 0 0"), (3600, "13 0 0"), (-5 * 3600, "7 0 0"), (5 * 3600 + 1800, "17 30 0"), (12 * 3600, "0 0 1"),
     (-12 * 3600 - 60, "23 59 6")],
)  # fmt: skip
def test_the_clock_shows_local_time(offset_s: int, expected: str) -> None:
    clock = Clock()
    clock.utc_offset_s = offset_s
    asked = "local t = timestamp() error(t:hour() .. ' ' .. t:minute() .. ' ' .. t:weekday(), 0)"
    choice = script(asked, clock=clock).route(request(), fleet())
    assert choice.error == f"routing.lua: {expected}"


def test_the_clock_moves_with_each_request_and_daylight_saving_is_seen_within_a_minute() -> None:
    clock = Clock()
    one = script("error(timestamp():hour() .. ':' .. timestamp():minute(), 0)", clock=clock)
    seen = []
    for seconds, offset_s in ((0.0, 0), (3600.0, 0), (10.0, 3600), (50.0, 3600), (-7200.0, 3600)):
        clock.advance(seconds)
        clock.utc_offset_s = offset_s
        seen.append((one.route(request(), fleet()).error or "").removeprefix("routing.lua: "))
    assert seen == ["12:0", "13:0", "13:0", "14:1", "12:1"]


def test_the_clock_tells_unix_seconds() -> None:
    assert shown("timestamp():epoch()") == str(WALL)


def fold(data: bytes) -> int:
    """FNV-1a, 64 bits, its halves folded into one: written from the definition, not from prelude.lua."""
    value = fnv1a(data)
    return (value ^ value >> 32) & 0xFFFFFFFF


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for octet in data:
        value = (value ^ octet) * 0x100000001B3 % (1 << 64)
    return value


def test_the_reference_gives_the_published_hashes() -> None:
    assert [fnv1a(text) for text in (b"", b"a", b"foobar")] == [
        0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "a", "foobar", "user-42", "ü", "x" * 7, "x" * 8, "x" * 9, "x" * 16, "x" * 1000])
def test_hash_str_is_folded_fnv_1a(text: str) -> None:
    assert shown(f"hash_str({text!r})") == str(fold(text.encode()))


def test_hash_str_never_changes() -> None:
    assert [shown(f"hash_str('{text}')") for text in ("", "a", "foobar", "user-42")] == [
        "1339080641", "694300864", "1923950233", "2146635118",
    ]  # fmt: skip


@quick(max_examples=80)
@given(st.binary(max_size=60))
def test_hash_str_hashes_any_bytes(data: bytes) -> None:
    spelled = "".join(f"\\x{octet:02x}" for octet in data)
    assert shown(f"hash_str('{spelled}')") == str(fold(data))


def test_hash_str_of_a_number_hashes_its_digits() -> None:
    assert shown("hash_str(12345)") == str(fold(b"12345"))
