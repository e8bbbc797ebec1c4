"""Numbers as people read them: `243 ms`, `1.52 s`, `3 h 20 min`, `12,031 requests`, `45%`.

`text`, `page` and `markdown` write every number by these functions, so that a figure looks alike wherever it stands.
None of them knows what a result is.
"""

from __future__ import annotations

import math
import unicodedata

UNKNOWN = ""
"""What is written for a value that is not known: nothing."""


def count(number: float, one: str = "", many: str = "") -> str:
    """12,031; with a noun: 1 request, 12,031 requests. `many` is `one` + "s" unless it is given."""
    told = f"{number:,.0f}"
    return f"{told} {one if number == 1 else many or one + 's'}" if one else told


def figure(number: float | None) -> str:
    """Three digits that count: 0.0123, 4.56, 78.9, 12,031."""
    if number is None:
        return UNKNOWN
    rounded = float(f"{number:.3g}")
    if rounded == 0 or abs(rounded) >= 100:
        return f"{number:,.0f}"
    return f"{rounded:.{2 - math.floor(math.log10(abs(rounded)))}f}"


def seconds(value: float | None) -> str:
    """A latency: 0.41 ms, 243 ms, 1.52 s, 75.3 s, 1,204 s."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0 ms"
    if abs(value) < 0.9995:
        return f"{figure(1000 * value)} ms"
    return f"{figure(value)} s"


def duration(value: float) -> str:
    """A span of time: 12.5 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    if value < 60:
        return seconds(value)
    whole = round(value)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    while not parts[0][0]:
        parts.pop(0)
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number)


def percent(share: float | None) -> str:
    """45%, 9.3%, 0.04%; 0% and 100% are said only of nothing and of all."""
    if share is None:
        return UNKNOWN
    if share in (0, 1):
        return f"{share:.0%}"
    hundred = 100 * share
    if hundred < 0.005:
        return "<0.01%"
    if hundred > 99.94:
        return ">99.9%"
    return f"{hundred:.{2 if hundred < 0.995 else 1 if hundred < 9.95 or hundred >= 98.95 else 0}f}%"


def told(value: float | None, unit: str) -> str:
    """A number with a unit as `metrics.METRICS` names it: "s", "share", what is counted, or a word to put behind it."""
    if value is None:
        return UNKNOWN
    if unit == "s":
        return seconds(value)
    if unit == "share":
        return percent(value)
    whole = figure(value) if value % 1 else count(value)
    return f"{whole} {unit}" if unit in ("Wh", "requests/s", "tokens/s") else whole


def printable(text: str) -> str:
    """The text with whatever would steer a terminal or hide itself (controls, line ends) made visible."""
    return "".join(
        char if char == " " or unicodedata.category(char)[0] not in "CZ" else char.encode("unicode_escape").decode()
        for char in text
    )


def width(text: str) -> int:
    """The columns that a terminal gives to it: two for wide characters of Asian scripts, none for accents on others."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def shortened(text: str, columns: int) -> str:
    """The text, its end cut off where it is wider than so many columns."""
    if width(text) <= columns:
        return text
    while text and width(text) >= columns:
        text = text[:-1]
    return text + "…"
