"""Quantiles of many values in little memory."""

from __future__ import annotations

import random

import pytest

from rbeerouter.sim.sketch import ERROR, NONE, Sketch, bucket, middle


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e4])
def test_each_quantile_is_right_within_a_hundredth(share: float, scale: float) -> None:
    rng, sketch = random.Random(1), Sketch()
    values = [rng.lognormvariate(0, 2) * scale for _ in range(5000)]
    for value in values:
        sketch.add(value)
    truth = sorted(values)[int(share * (len(values) - 1))]
    assert sketch.quantile(share) == pytest.approx(truth, rel=ERROR * 1.0001)
    told = sketch.quantiles()
    assert (told.count, told.most) == (5000, max(values))
    assert told.mean == pytest.approx(sum(values) / 5000)


def test_a_value_is_near_the_middle_of_its_bucket() -> None:
    for value in (1e-9, 3.7e-6, 0.01, 1.0, 59.0, 3e7):
        assert middle(bucket(value)) == pytest.approx(value, rel=ERROR * 1.0001)
    assert middle(bucket(0.0)) == middle(bucket(1e-12)) == 0.0


def test_any_number_of_values_takes_few_buckets() -> None:
    sketch = Sketch()
    for exponent in range(-90, 76):
        sketch.add(10.0 ** (exponent / 10))
    assert max(sketch.counts) < 2000


def test_those_without_the_quantity_are_left_out_of_a_batch() -> None:
    sketch = Sketch()
    sketch.take([0.0, 2.0, 0.0, 4.0], [NONE, bucket(2.0), NONE, bucket(4.0)])
    assert (sketch.count, sketch.quantiles().mean, sketch.most) == (2, 3.0, 4.0)


def test_two_sketches_become_one() -> None:
    one, other, both = Sketch(), Sketch(), Sketch()
    for number in range(1, 200):
        (one if number % 3 else other).add(number / 7)
        both.add(number / 7)
    one.merge(other)
    assert one.counts == both.counts
    assert (one.count, one.most, one.quantile(0.9)) == (both.count, both.most, both.quantile(0.9))
    assert one.total == pytest.approx(both.total)


def test_an_empty_sketch_tells_nothing() -> None:
    assert (Sketch().quantile(0.5), Sketch().quantiles().mean, Sketch().cdf()) == (None, None, [])


def test_the_distribution_for_drawing_rises_to_all_of_them_in_few_points() -> None:
    rng, sketch = random.Random(2), Sketch()
    for _ in range(20_000):
        sketch.add(rng.lognormvariate(0, 3))
    points = sketch.cdf(100)
    assert len(points) <= 101
    assert points == sorted(points)
    assert points[-1] == (pytest.approx(sketch.most, rel=ERROR), 1.0)
