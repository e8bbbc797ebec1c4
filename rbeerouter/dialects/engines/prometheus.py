"""Reads the few numbers that matter out of an engine's Prometheus page, by exact name.

Called by the readers of the engines, a few times a second in a large fleet, on pages of up to some hundred kilobytes of
which a dozen lines are wanted. So the page is searched for names, and never split into lines. Names are matched whole:
beside each counter `x_total` stands a gauge `x_created`, whose value is a date. What is no number is left out; the
module must not raise, whatever the page holds.
"""

from __future__ import annotations

import math
import re

_MOST_SERIES = 4096
"""Lines of one name that are read. Real pages have one for each engine of a worker."""
_LABEL = re.compile(rb'([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"')

Series = list[tuple[bytes, float]]
"""(the text between the braces, the value) of each line of one name."""


class Metrics:
    """One page."""

    __slots__ = ("_page",)

    def __init__(self, page: bytes) -> None:
        self._page = b"\n" + page.replace(b"\r\n", b"\n") if b"\r" in page[:1024] else b"\n" + page

    def series(self, name: str) -> Series:
        """All lines of this name whose value is a number."""
        found: Series = []
        page, wanted = self._page, b"\n" + name.encode()
        at = page.find(wanted)
        while at >= 0 and len(found) < _MOST_SERIES:
            start, end = at + len(wanted), page.find(b"\n", at + 1)
            line = page[start : end if end >= 0 else len(page)]
            if line[:1] in b"{ \t" and line:
                labels, value = _split(line)
                if value is not None:
                    found.append((labels, value))
            elif found:
                break                                          # lines of one name stand together
            if end < 0:
                break
            at = end if page.startswith(wanted, end) else (-1 if found else page.find(wanted, end))
        return found

    def total(self, *names: str) -> float | None:
        """The sum over the series of the first of these names that the page has."""
        for name in names:
            found = self.series(name)
            if found:
                return _finite(sum(value for _, value in found))
        return None

    def mean(self, *names: str) -> float | None:
        """The mean over the series of the first of these names that the page has."""
        for name in names:
            found = self.series(name)
            if found:
                return _finite(sum(value for _, value in found) / len(found))
        return None

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of each line of this name."""
        return [labels(text) for text, _ in self.series(name)]


def labels(text: bytes) -> dict[str, str]:
    """{name: value} from the text between the braces."""
    return {name.decode(): _unescape(value).decode("utf-8", "replace") for name, value in _LABEL.findall(text)}


def count(value: float | None) -> int | None:
    """A number of things: whole and not negative, or not known."""
    return int(value) if value is not None and 0 <= value < 2**53 else None


def share(value: float | None) -> float | None:
    """A part of a whole, 0 to 1, or not known."""
    return min(1.0, value) if value is not None and value >= 0 else None


def _finite(value: float) -> float | None:
    """Numbers may be so large that their sum is none."""
    return value if math.isfinite(value) else None


def _split(line: bytes) -> tuple[bytes, float | None]:
    """What follows a name: labels in braces if there are any, the value, then perhaps a time or an exemplar."""
    inside = b""
    if line[:1] == b"{":
        line = line.partition(b" # {")[0]
        inside, _, line = line[1:].rpartition(b"}")
    words = line.split(None, 1)
    try:
        value = float(words[0])
    except (ValueError, IndexError):
        return inside, None
    return inside, value if math.isfinite(value) else None


def _unescape(value: bytes) -> bytes:
    if b"\\" not in value:
        return value
    return re.sub(rb"\\(.)", lambda match: b"\n" if match[1] == b"n" else match[1], value)
