"""Numbers in words."""

from __future__ import annotations

import pytest

from rbeerouter.sim import units


@pytest.mark.parametrize(
    "value, told",
    [
        (None, ""), (0, "0 ms"), (0.000412, "0.412 ms"), (0.0123, "12.3 ms"), (0.243, "243 ms"), (0.9994, "999 ms"),
        (0.9996, "1.00 s"), (1.523, "1.52 s"), (75.3, "75.3 s"), (1204.4, "1,204 s"),
    ],
)  # fmt: skip
def test_a_latency_below_a_second_is_told_in_milliseconds(value: float | None, told: str) -> None:
    assert units.seconds(value) == told


@pytest.mark.parametrize(
    "value, told",
    [(0.5, "500 ms"), (12.5, "12.5 s"), (60, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (7500, "2 h 5 min"), (273600, "3 d 4 h")],
)
def test_a_span_of_time_has_at_most_two_units(value: float, told: str) -> None:
    assert units.duration(value) == told


@pytest.mark.parametrize(
    "value, told",
    [
        (None, ""), (0, "0%"), (1, "100%"), (0.00004, "<0.01%"), (0.0004, "0.04%"), (0.0093, "0.93%"), (0.093, "9.3%"),
        (0.0995, "10%"), (0.45, "45%"), (0.991, "99.1%"), (0.99994, ">99.9%"),
    ],
)  # fmt: skip
def test_only_nothing_is_0_percent_and_only_all_is_100_percent(value: float | None, told: str) -> None:
    assert units.percent(value) == told


@pytest.mark.parametrize(
    "value, told",
    [(None, ""), (0, "0"), (1.234e-6, "0.00000123"), (0.5, "0.500"), (99.95, "100"), (9.996, "10.0"), (1_000_000, "1,000,000"), (-0.25, "-0.250")],
)
def test_a_figure_has_three_digits_that_count(value: float | None, told: str) -> None:
    assert units.figure(value) == told


@pytest.mark.parametrize(
    "value, unit, told",
    [
        (None, "s", ""), (0.25, "s", "250 ms"), (0.25, "share", "25%"), (12031, "requests", "12,031"), (3.0, "requests", "3"),
        (0.5, "requests", "0.500"), (171.3, "Wh", "171 Wh"), (0.25, "currency", "0.250"), (0.25, "index", "0.250"),
    ],
)  # fmt: skip
def test_a_metric_is_told_in_its_unit(value: float | None, unit: str, told: str) -> None:
    assert units.told(value, unit) == told


def test_one_is_singular_and_everything_else_plural() -> None:
    told = [units.count(number, "request") for number in (0, 1, 2, 12031)]
    assert told == ["0 requests", "1 request", "2 requests", "12,031 requests"]
    assert (units.count(2, "entry", "entries"), units.count(3)) == ("2 entries", "3")


def test_nothing_in_a_printable_text_can_steer_a_terminal() -> None:
    hostile = "a\x1b[2Jb\nc\x00d\u202ee\x9bf\u2028g"
    assert units.printable(hostile) == r"a\x1b[2Jb\nc\x00d\u202ee\x9bf\u2028g"
    assert units.printable("plain text, ünïcode 日本") == "plain text, ünïcode 日本"


def test_width_counts_what_a_terminal_shows() -> None:
    assert [units.width(text) for text in ("abc", "日本", "e\u0301", "")] == [3, 4, 1, 0]


def test_a_shortened_text_fits_and_says_that_it_was_cut() -> None:
    assert [units.shortened("abcdef", room) for room in (6, 5)] == ["abcdef", "abcd…"]
    assert units.width(units.shortened("日本日本日本", 6)) <= 6
