"""What was going on over time, in intervals that grow."""

from __future__ import annotations

import pytest

from rbeerouter.sim.sketch import NONE, bucket
from rbeerouter.sim.timeline import MOST, Timeline


def test_an_interval_tells_means_of_what_went_on_in_it() -> None:
    timeline = Timeline(["a", "b"])
    timeline.take([0.1, 0.2, 0.6], [0.3, 0.7, 0.8], [bucket(0.2), NONE, bucket(0.4)])
    timeline.close([0.0, 0.5, 0.25])
    timeline.close([1.0, 0.5, 0.75])
    series = timeline.series(1.0)
    assert series.every_s == 0.5
    assert series.arrivals == [4.0, 2.0]
    assert series.waiting == [0.0, 2.0]
    assert series.in_flight == {"a": [1.0, 0.0], "b": [0.5, 1.0]}
    assert series.ttft_p95_s == [pytest.approx(0.2, rel=0.011), pytest.approx(0.4, rel=0.011)]


def test_when_all_are_full_each_two_become_one_and_the_means_stay_true() -> None:
    timeline, area = Timeline(["a"]), 0.0
    for index in range(1000):
        start = index * 0.5
        area += 0.5 * index
        timeline.take([start + 0.1], [start + 0.2], [bucket(0.1)])
        if start + 0.5 >= timeline.ends:
            timeline.close([0.0, area])
    series = timeline.series(500.0)
    assert series.every_s == 4.0
    assert len(series.arrivals) == len(series.in_flight["a"]) == 125 <= MOST
    assert series.arrivals == [2.0] * 125
    assert series.in_flight["a"] == [pytest.approx(8 * index + 3.5) for index in range(125)]


def test_the_last_interval_may_be_shorter() -> None:
    timeline = Timeline(["a"])
    timeline.close([0.0, 0.5])
    timeline.take([0.55], [0.6], [NONE])
    timeline.close([0.0, 0.6], 0.75)
    series = timeline.series(0.75)
    assert series.arrivals == [0.0, pytest.approx(4.0)]
    assert series.in_flight == {"a": [1.0, pytest.approx(0.4)]}
    assert series.ttft_p95_s == [None, None]
