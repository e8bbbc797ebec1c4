"""Chance as traffic shows it: times of arrivals, lengths of prompts and answers, and choices among things with weights.

`workload` draws from here. Everything takes its random numbers from the generator it is given and from nowhere else.
Sources: W. Fischer, K. Meier-Hellstern, "The Markov-modulated Poisson process (MMPP) cookbook" (1993) for bursts;
P. Lewis, G. Shedler, "Simulation of nonhomogeneous Poisson processes by thinning" (1979) for the day's curve.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

from rbeerouter.config.sections import Positive, Section


class Lengths(Section):
    """How long prompts or answers are, in tokens.

    kind: "constant" (mean), "uniform" (low to high), "exponential" (mean), "lognormal" (mean, and sigma of the
    logarithm), "list" (values, each as likely as the others). least, most: what is shorter or longer is cut to that.
    """

    kind: str = "lognormal"
    mean: Positive | None = None
    sigma: Positive | None = None
    low: int | None = None
    high: int | None = None
    values: tuple[int, ...] = ()
    least: int = 1
    most: int = 32_768


NEEDS = {
    "constant": ("mean",),
    "uniform": ("low", "high"),
    "exponential": ("mean",),
    "lognormal": ("mean", "sigma"),
    "list": ("values",),
}
"""{kind of lengths: the keys that say which}"""

ARRIVALS = ("poisson", "constant", "gamma", "weibull", "bursts", "diurnal")


def lengths(given: Lengths, rng: random.Random) -> Callable[[], int]:
    """A function that draws whole numbers of tokens."""
    least, most, uniform = given.least, given.most, rng.random
    mean, sigma = given.mean or 0.0, given.sigma or 0.0
    if given.kind == "constant":
        value = min(most, max(least, round(mean)))
        return lambda: value
    if given.kind == "list":
        values = [min(most, max(least, value)) for value in given.values]
        many = len(values)
        return lambda: values[int(uniform() * many)]
    if given.kind == "uniform":
        low, span = given.low or 0, (given.high or 0) - (given.low or 0) + 1
        return _cut(lambda: low + uniform() * span, least, most)
    if given.kind == "exponential":
        log = math.log
        return _cut(lambda: 0.5 - mean * log(1.0 - uniform()), least, most)
    middle, gauss, exp = math.log(mean) - sigma * sigma / 2, rng.gauss, math.exp

    def draw() -> int:                                        # what most traffic has, so without a call more
        value = int(0.5 + exp(gauss(middle, sigma)))
        return value if least <= value <= most else least if value < least else most

    return draw


def _cut(draw: Callable[[], float], least: int, most: int) -> Callable[[], int]:
    """The whole part of what is drawn, within bounds."""
    return lambda: min(most, max(least, int(draw())))


def mean_length(given: Lengths) -> float:
    """What `lengths` draws on average, by a sample of its own: cutting to `most` has no short formula."""
    draw = lengths(given, random.Random(0))
    return sum(draw() for _ in range(4000)) / 4000


def shares(weights: Sequence[float]) -> list[float]:
    """The upper ends of intervals of 0 to 1, one for each weight; `bisect_right(shares, random())` chooses one."""
    total, sum_so_far, ends = sum(weights), 0.0, []
    for weight in weights:
        sum_so_far += weight
        ends.append(sum_so_far / total)
    for index in range(len(ends) - 1, -1, -1):               # rounding must not leave a gap below 1, nor reach what has
        ends[index] = 1.0                                     # no weight
        if weights[index] > 0:
            break
    return ends


def zipf_shares(many: int, exponent: float) -> list[float]:
    """The same for `many` things of which the k-th is asked for as often as 1 / k ** exponent says."""
    return shares([1.0 / k**exponent for k in range(1, many + 1)])


def choose(ends: list[float], rng: random.Random) -> int:
    return bisect_right(ends, rng.random())


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    """Times of arrivals in seconds, without end; so do the others here."""
    at, uniform, log = 0.0, rng.random, math.log
    while True:
        at -= log(1.0 - uniform()) / rate
        yield at


def constant(rate: float) -> Iterator[float]:
    number = 0
    while True:
        yield number / rate                                   # not a sum of gaps, which would drift
        number += 1


def gamma(rate: float, cv: float, rng: random.Random) -> Iterator[float]:
    """Gaps of the Gamma distribution. cv: their coefficient of variation; 1 is Poisson, more comes in clumps."""
    shape = 1.0 / (cv * cv)
    at, scale, draw = 0.0, 1.0 / (shape * rate), rng.gammavariate
    while True:
        at += draw(shape, scale)
        yield at


def weibull(rate: float, cv: float, rng: random.Random) -> Iterator[float]:
    """Gaps of the Weibull distribution with this coefficient of variation."""
    shape = weibull_shape(cv)
    at, scale, draw = 0.0, 1.0 / (rate * math.gamma(1.0 + 1.0 / shape)), rng.weibullvariate
    while True:
        at += draw(scale, shape)
        yield at


def weibull_shape(cv: float) -> float:
    """The shape whose coefficient of variation this is, by bisection: it falls as the shape grows."""
    low, high = 0.1, 200.0
    for _ in range(100):
        shape = math.sqrt(low * high)
        spread = math.lgamma(1.0 + 2.0 / shape) - 2.0 * math.lgamma(1.0 + 1.0 / shape)
        low, high = (shape, high) if math.sqrt(math.expm1(spread)) > cv else (low, shape)
    return shape


def bursts(rate: float, times: float, on_s: float, off_s: float, rng: random.Random) -> Iterator[float]:
    """A Poisson process of two rates that take turns (MMPP). rate: over all; times: how many times more in a burst than
    between bursts; on_s, off_s: how long a burst and a pause last on average, exponentially distributed."""
    quiet = rate * (on_s + off_s) / (times * on_s + off_s)
    at, uniform, log = 0.0, rng.random, math.log
    on = uniform() < on_s / (on_s + off_s)
    changes_at = -log(1.0 - uniform()) * (on_s if on else off_s)
    while True:
        gap = -log(1.0 - uniform()) / (quiet * times if on else quiet)
        if at + gap < changes_at:
            at += gap
            yield at
        else:                                                 # what is left of a gap has no memory: draw it anew
            at, on = changes_at, not on
            changes_at -= log(1.0 - uniform()) * (on_s if on else off_s)


def diurnal(rate: float, swing: float, period_s: float, peak_s: float, rng: random.Random) -> Iterator[float]:
    """rate * (1 + swing * cos(...)) requests per second, the most of them `peak_s` seconds into each period."""
    turn, uniform, cos = 2.0 * math.pi / period_s, rng.random, math.cos
    for at in poisson(rate * (1.0 + swing), rng):
        if uniform() * (1.0 + swing) < 1.0 + swing * cos(turn * (at - peak_s)):
            yield at
