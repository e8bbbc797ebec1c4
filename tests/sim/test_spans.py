"""Tests of which values of params are tried."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.spans import MOST_PARAMS, Span, halton, points, spans_of
from tests.support.builders import quick


def param(default: float, low: float, high: float, value: float | None = None) -> dict[str, float]:
    return {"value": default if value is None else value, "default": default, "min": low, "max": high}


PARAMS = {"limit": param(4, 1, 16), "weight": param(0.5, 0.0, 2.0)}


def spans(**given: str) -> list[Span]:
    return spans_of(PARAMS, given)


def test_without_a_word_every_param_is_swept_over_all_of_its_range() -> None:
    assert spans() == [Span("limit", 1, 16, 4, True), Span("weight", 0.0, 2.0, 0.5, False)]


@pytest.mark.parametrize(("text", "values"), [
    ("1,2,8", (1, 2, 8)), ("2..6/3", (2, 4, 6)), ("2..3/9", (2, 3)), (" 2 , 3 ", (2, 3)), ("5,5", (5,)), ("7", (7,)),
])  # fmt: skip
def test_values_are_named_one_by_one_or_in_steps(text: str, values: tuple[float, ...]) -> None:
    (span,) = spans(limit=text)
    assert span.values == values
    assert all(isinstance(value, int) for value in span.values)


def test_a_narrower_range_is_swept_within_it() -> None:
    (span,) = spans(weight="0.25..0.75")
    assert (span.low, span.high, span.values) == (0.25, 0.75, ())
    assert span.steps(3) == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(("name", "text", "said"), [
    ("limmit", "1", "the script has limit, weight; did you mean limit?"),
    ("limit", "0,1", "0 is not within 1 and 16"),
    ("limit", "1..17", "17 is not within 1 and 16"),
    ("limit", "3..2", "3 is more than 2"),
    ("limit", "1..2/1", "'1' steps; expected 2 to"),
    ("limit", "1..2/x", "'x' steps"),
    ("limit", "1..2/5000", "steps; expected"),
    ("limit", "a", "'a' is no number; expected A,B,C or"),
    ("limit", "1,", "'' is no number"),
    ("limit", "nan", "is no number"),
    ("limit", "1..inf", "is no number"),
])  # fmt: skip
def test_what_cannot_be_swept_is_refused(name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        spans(**{name: text})
    assert said in str(refused.value) and str(refused.value).startswith("--param")


def test_too_many_params_are_refused() -> None:
    many = {f"p{index}": param(1, 0, 2) for index in range(MOST_PARAMS + 1)}
    with pytest.raises(ConfigError, match="too many to sweep"):
        spans_of(many, {})


def test_one_param_is_swept_in_even_steps_with_the_present_value_first() -> None:
    found = points(spans_of({"w": param(0.3, 0.0, 1.0)}, {}), 6, 1)
    assert [point["w"] for point in found] == [0.3, 0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_param_that_was_set_is_tried_as_it_is_set() -> None:
    assert points(spans_of({"w": param(0.3, 0.0, 1.0, value=0.9)}, {}), 2, 1)[0] == {"w": 0.9}


def test_two_params_are_swept_in_a_grid() -> None:
    found = points(spans(), 17, 1)
    assert found[0] == {"limit": 4, "weight": 0.5}
    assert len(found) == 17
    assert len({point["limit"] for point in found[1:]}) == len({point["weight"] for point in found[1:]}) == 4


def test_named_values_are_all_tried_and_too_many_are_refused() -> None:
    few = points(spans(limit="1,2", weight="0,1,2"), 7, 1)
    assert [tuple(point.values()) for point in few[1:]] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    with pytest.raises(ConfigError, match="7 points, the present one included, are more than --runs 6"):
        points(spans(limit="1,2", weight="0,1,2"), 6, 1)
    assert len(points(spans(limit="4,2", weight="0,0.5"), 4, 1)) == 4


def test_named_values_of_one_leave_the_other_the_rest_of_the_runs() -> None:
    found = points(spans(limit="1,2", weight="0..2"), 21, 1)
    assert len({point["weight"] for point in found[1:]}) == 10


def test_more_params_are_spread_evenly_and_alike_for_the_same_seed() -> None:
    many = {name: param(0.5, 0.0, 1.0) for name in "abcd"}
    found = points(spans_of(many, {}), 65, 3)
    assert found == points(spans_of(many, {}), 65, 3) != points(spans_of(many, {}), 65, 4)
    for name in many:
        for quarter in range(4):
            inside = sum(quarter / 4 <= point[name] < (quarter + 1) / 4 for point in found[1:])
            assert 12 <= inside <= 20, (name, quarter, inside)


def test_named_values_are_kept_to_among_many_params() -> None:
    many: dict[str, Any] = {name: param(0.5, 0.0, 1.0) for name in "abc"}
    found = points(spans_of(many, {"a": "0.1,0.9", "b": "0..1", "c": "0..1"}), 30, 1)
    assert {point["a"] for point in found[1:]} == {0.1, 0.9}


def test_halton_s_sequence_mirrors_digits() -> None:
    assert [halton(index, 2) for index in range(1, 6)] == [0.5, 0.25, 0.75, 0.125, 0.625]
    assert [round(halton(index, 3), 4) for index in range(1, 4)] == [0.3333, 0.6667, 0.1111]


@given(
    strategies.floats(-1e6, 1e6), strategies.floats(0, 1e6), strategies.floats(0, 1), strategies.booleans(),
)  # fmt: skip
@quick(max_examples=300)
def test_a_value_is_never_outside_of_its_range(low: float, width: float, share: float, whole: bool) -> None:
    low = float(round(low)) if whole else low
    high = low + (round(width) if whole else width)
    assert low <= Span("x", low, high, low, whole).at(share) <= high
