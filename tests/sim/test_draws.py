"""What is drawn has the means, the spread and the shares that were asked for."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator

import pytest

from rbeerouter.sim import draws
from rbeerouter.sim.draws import Lengths

MANY = 40_000


def rng(seed: int = 7) -> random.Random:
    return random.Random(seed)


def gaps(times: Iterator[float], many: int = MANY) -> list[float]:
    taken = [0.0, *itertools.islice(times, many)]
    return [after - before for before, after in itertools.pairwise(taken)]


def cv(values: list[float]) -> float:
    return statistics.pstdev(values) / statistics.fmean(values)


@pytest.mark.parametrize(
    ("times", "expected_cv"),
    [
        (draws.poisson(5.0, rng()), 1.0),
        (draws.gamma(5.0, 2.0, rng()), 2.0),
        (draws.gamma(5.0, 0.5, rng()), 0.5),
        (draws.weibull(5.0, 2.0, rng()), 2.0),
        (draws.weibull(5.0, 0.5, rng()), 0.5),
    ],
    ids=["poisson", "gamma 2", "gamma 0.5", "weibull 2", "weibull 0.5"],
)
def test_gaps_have_the_rate_and_the_coefficient_of_variation(times: Iterator[float], expected_cv: float) -> None:
    drawn = gaps(times)
    assert 1.0 / statistics.fmean(drawn) == pytest.approx(5.0, rel=0.03)
    assert cv(drawn) == pytest.approx(expected_cv, rel=0.06)


def test_constant_gaps_do_not_drift() -> None:
    times = list(itertools.islice(draws.constant(3.0), 30_001))
    assert (times[0], times[3], times[-1]) == (0.0, 1.0, 10_000.0)


@pytest.mark.parametrize("wanted", [0.05, 0.5, 1.0, 3.0, 10.0])
def test_the_shape_of_weibull_is_that_of_its_coefficient_of_variation(wanted: float) -> None:
    shape = draws.weibull_shape(wanted)
    first, second = math.gamma(1 + 1 / shape), math.gamma(1 + 2 / shape)
    assert math.sqrt(second / first**2 - 1) == pytest.approx(wanted, rel=1e-6)


def test_bursts_have_the_rate_over_all_and_come_in_clumps() -> None:
    times = list(itertools.islice(draws.bursts(5.0, 10.0, 10.0, 50.0, rng()), MANY))
    assert len(times) / times[-1] == pytest.approx(5.0, rel=0.08)
    per_second = Counter(int(at) for at in times)
    counts = [per_second[second] for second in range(int(times[-1]))]
    assert statistics.pvariance(counts) / statistics.fmean(counts) > 4.0  # of Poisson it is 1


def test_a_burst_is_so_many_times_faster_than_a_pause() -> None:
    # In windows of a second the counts have two heaps, around 2 and around 20: rate = (20 * 10 + 2 * 50) / 60.
    times = itertools.islice(draws.bursts(5.0, 10.0, 10.0, 50.0, rng()), MANY)
    per_second = Counter(int(at) for at in times)
    heaps = Counter("burst" if count > 10 else "pause" for count in per_second.values())
    burst = statistics.fmean(count for count in per_second.values() if count > 10)
    assert burst == pytest.approx(20.0, rel=0.05)
    assert heaps["burst"] / max(per_second) == pytest.approx(1 / 6, rel=0.2)


def test_a_day_has_its_peak_where_it_was_put_and_the_rate_over_all() -> None:
    day, peak = 1000.0, 250.0
    times = list(itertools.islice(draws.diurnal(20.0, 0.8, day, peak, rng()), MANY))
    whole = [at for at in times if at < 2 * day]
    assert len(whole) / (2 * day) == pytest.approx(20.0, rel=0.03)
    at_peak = sum(abs(at % day - peak) < 50 for at in whole) / 200
    at_night = sum(abs(at % day - peak - day / 2) < 50 for at in whole) / 200
    assert at_peak == pytest.approx(20 * 1.8, rel=0.08)
    assert at_night == pytest.approx(20 * 0.2, rel=0.2)


@pytest.mark.parametrize(
    ("given", "mean", "spread"),
    [
        (Lengths("constant", mean=40), 40.0, 0.0),
        (Lengths("uniform", low=10, high=30), 20.0, math.sqrt((21**2 - 1) / 12)),
        (Lengths("exponential", mean=200, least=0), 200.0, 200.0),
        (Lengths("lognormal", mean=300, sigma=0.5), 300.0, 300 * math.sqrt(math.exp(0.25) - 1)),
        (Lengths("list", values=(1, 2, 9)), 4.0, math.sqrt(38 / 3)),
    ],
    ids=lambda given: getattr(given, "kind", None),
)
def test_lengths_have_their_mean_and_spread(given: Lengths, mean: float, spread: float) -> None:
    draw = draws.lengths(given, rng())
    drawn = [draw() for _ in range(MANY)]
    assert all(type(value) is int for value in drawn)
    assert statistics.fmean(drawn) == pytest.approx(mean, rel=0.02)
    assert statistics.pstdev(drawn) == pytest.approx(spread, rel=0.04)
    assert draws.mean_length(given) == pytest.approx(mean, rel=0.05)


@pytest.mark.parametrize("kind", ["uniform", "exponential", "lognormal", "list", "constant"])
def test_lengths_are_cut_to_least_and_most(kind: str) -> None:
    values = {"uniform": {"low": 1, "high": 99}, "list": {"values": (1, 99)}, "constant": {"mean": 99}}
    usual = {"mean": 50, **({"sigma": 2.0} if kind == "lognormal" else {})}
    draw = draws.lengths(Lengths(kind, least=20, most=60, **values.get(kind, usual)), rng())
    drawn = [draw() for _ in range(2000)]
    assert (min(drawn) >= 20, max(drawn)) == (True, 60)


def test_shares_are_those_of_the_weights_and_what_weighs_nothing_never_comes() -> None:
    ends, generator = draws.shares([0, 1, 3, 0]), rng()
    chosen = Counter(draws.choose(ends, generator) for _ in range(MANY))
    assert set(chosen) == {1, 2}
    assert chosen[2] / MANY == pytest.approx(0.75, abs=0.01)


def test_the_last_share_ends_at_one_whatever_the_rounding() -> None:
    assert draws.shares([0.1] * 10)[-1] == 1.0


def test_zipf_asks_for_the_second_half_as_often_as_for_the_first() -> None:
    ends, generator = draws.zipf_shares(100, 1.0), rng()
    chosen = Counter(draws.choose(ends, generator) for _ in range(MANY))
    assert chosen[0] / chosen[1] == pytest.approx(2.0, rel=0.08)
    assert chosen[0] / MANY == pytest.approx(1 / sum(1 / k for k in range(1, 101)), rel=0.04)
    assert draws.zipf_shares(4, 0.0) == [0.25, 0.5, 0.75, 1.0]
