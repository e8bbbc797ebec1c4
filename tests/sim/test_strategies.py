"""Each strategy is better than chance at what it is named for, in a small simulation of what scripts/compare-strategies
shows at full size. Numbers that are close are judged there, over several seeds and real traces."""

from __future__ import annotations

import pytest

from rbeerouter.routing.strategies import STRATEGIES
from scripts.comparing.cases import CASES, RANDOM
from scripts.comparing.measures import MEASURES
from scripts.comparing.run import simulate

MARGIN = 0.9
"""Of what random has, where less is better; its inverse, where more is."""


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != RANDOM])
def test_it_is_better_than_random_at_what_it_is_for(name: str) -> None:
    case = CASES[name]
    setting = case.setting(None, case.few, 1)
    measure = MEASURES[case.measures[0]]
    mine, chance = (measure.of(simulate(setting, who, 1)) for who in (name, RANDOM))
    if measure.lower:
        assert mine < MARGIN * chance
    else:
        assert mine > chance / MARGIN


def test_chance_is_even_in_the_long_run() -> None:
    case = CASES[RANDOM]
    setting = case.setting(None, case.few, 1)
    ran = simulate(setting, RANDOM, 1)
    assert MEASURES["off_share"].of(ran) < 5 * (case.few * 7 / 64) ** 0.5
