"""Which values of a script's param()s are tried: a grid of one or two, an even spread over the space of more.

`tune` simulates each of them. The first is always what the script says now. Nothing here simulates or judges.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Iterable, Sequence
from itertools import product

import msgspec

from rbeerouter.config.sections import ConfigError

Point = dict[str, float]
"""{param: value}"""
MOST_PARAMS = 12
"""A budget of a few hundred runs tells nothing of a space with more dimensions."""
_MOST_STEPS = 1000
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


class Span(msgspec.Struct, frozen=True):
    """A param and where its values may lie. values: those that the user named; empty: anywhere from low to high.

    whole: its default is a whole number, so the others are, too.
    """

    name: str
    low: float
    high: float
    now: float
    whole: bool
    values: tuple[float, ...] = ()

    def at(self, share: float) -> float:
        """The value at this share, 0 to 1, of the way from low to high, rounded to a thousandth of it or so."""
        value = self.low + share * (self.high - self.low)
        if self.whole:
            return int(min(max(round(value), math.ceil(self.low)), math.floor(self.high)))
        width = self.high - self.low
        if not width:
            return self.low
        digits = 3 - math.floor(math.log10(width))
        return min(max(round(value, digits), self.low), self.high)

    def steps(self, count: int) -> list[float]:
        """At most so many values, evenly from low to high, each once."""
        if self.values:
            return list(self.values)
        return list(dict.fromkeys(self.at(step / (count - 1)) for step in range(count))) if count > 1 else [self.now]


def spans_of(params: dict[str, dict[str, float]], given: dict[str, str]) -> list[Span]:
    """The params that are swept.

    Args:
        params: as `Script.params()` tells them.
        given: {name: "a,b,c" or "low..high/steps"}; empty: all params over all of their range.

    Raises:
        ConfigError: the script has no such param, or the values are not within its range.
    """
    found = []
    for name in given or params:
        known = params.get(name)
        if known is None:
            near = difflib.get_close_matches(name, params, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--param {name}: the script has {', '.join(params) or 'no param()'}{hint}")
        whole = isinstance(known["default"], int)
        span = Span(name, known["min"], known["max"], known["value"], whole)
        found.append(_narrowed(span, given[name]) if name in given else span)
    if len(found) > MOST_PARAMS:
        raise ConfigError(f"{len(found)} params are too many to sweep; name up to {MOST_PARAMS}: --param NAME=A..B")
    return found


def _narrowed(span: Span, text: str) -> Span:
    """A span with the values that the user named."""
    option = f"--param {span.name}={text}"
    low, dots, rest = text.partition("..")
    if not dots:
        values = [_number(part, option) for part in text.split(",")]
    else:
        high, slash, steps = rest.partition("/")
        ends = [_number(low, option), _number(high, option)]
        if ends[0] > ends[1]:
            raise ConfigError(f"{option}: {ends[0]:g} is more than {ends[1]:g}; expected LOW..HIGH")
        _within(span, ends, option)
        span = msgspec.structs.replace(span, low=ends[0], high=ends[1])
        if not slash:
            return span
        if not steps.isdecimal() or not 2 <= int(steps) <= _MOST_STEPS:
            raise ConfigError(f"{option}: {steps!r} steps; expected 2 to {_MOST_STEPS}")
        values = span.steps(int(steps))
    _within(span, values, option)
    if span.whole:
        values = [int(value) if float(value).is_integer() else value for value in values]
    return msgspec.structs.replace(span, values=tuple(dict.fromkeys(values)))


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{option}: {text.strip()!r} is no number; expected A,B,C or LOW..HIGH or LOW..HIGH/STEPS")
    return value


def _within(span: Span, values: Iterable[float], option: str) -> None:
    for value in values:
        if not span.low <= value <= span.high:
            raise ConfigError(f"{option}: {value:g} is not within {span.low:g} and {span.high:g}, as the script says")


def points(spans: Sequence[Span], most: int, seed: int) -> list[Point]:
    """What is tried, at most so many points, the present values first.

    Raises:
        ConfigError: the user named more combinations than that.
    """
    now = {span.name: span.now for span in spans}
    if all(span.values for span in spans):
        wanted = math.prod(len(span.values) for span in spans) + any(span.now not in span.values for span in spans)
        if wanted > most:
            raise ConfigError(f"--param: {wanted} points, the present one included, are more than --runs {most}")
        found = _grid(spans, 0)
    elif len(spans) <= 2:
        found = _grid(spans, _side(spans, most - 1))
    else:
        found = _spread(spans, most - 1, seed)
    unique = {tuple(point.values()): point for point in [now, *found]}
    return list(unique.values())[:most]


def _side(spans: Sequence[Span], most: int) -> int:
    """How many steps a param gets that has no values of its own, so that the grid has at most so many points."""
    named = math.prod(len(span.values) for span in spans if span.values)
    free = sum(not span.values for span in spans)
    return max(2, int(max(1.0, most / named) ** (1 / free) + 1e-9))


def _grid(spans: Sequence[Span], side: int) -> list[Point]:
    names = [span.name for span in spans]
    return [dict(zip(names, values, strict=True)) for values in product(*(span.steps(side) for span in spans))]


def _spread(spans: Sequence[Span], count: int, seed: int) -> list[Point]:
    """Halton's sequence, shifted by chance: even over the whole space, however many points are taken of it
    (Cranley and Patterson, 1976, doi.org/10.1137/0713071)."""
    rng = random.Random(seed)
    shifts = [rng.random() for _ in spans]
    found = []
    for index in range(1, count + 1):
        point = {}
        for span, prime, shift in zip(spans, _PRIMES, shifts, strict=False):
            share = (halton(index, prime) + shift) % 1.0
            point[span.name] = span.values[int(share * len(span.values))] if span.values else span.at(share)
        found.append(point)
    return found


def halton(index: int, base: int) -> float:
    """The digits of index in this base, mirrored behind the point: 1/2, 1/4, 3/4, 1/8, ... for base 2."""
    share, weight = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        share += digit * weight
        weight /= base
    return share
