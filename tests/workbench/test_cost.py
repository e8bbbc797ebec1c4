"""Tests of the measuring of decisions. That it measures is tested, not what: times are no test's business."""

from __future__ import annotations

from rbeerouter.routing.sandbox import Abilities
from rbeerouter.workbench.cost import decision_us
from tests.support.builders import lua


def test_each_number_of_workers_has_its_time_and_more_work_takes_longer() -> None:
    walk = lua("local n = 0 for i = 1, 200 do for _, w in ipairs(workers) do n = n + w.load end end return nil")
    light, heavy = (decision_us(source, "routing.lua", Abilities(), (2, 32)) for source in (lua("return nil"), walk))
    assert list(light) == list(heavy) == [2, 32]
    assert 0 < light[32] < heavy[32]


def test_a_script_that_fails_is_measured_as_well() -> None:
    assert decision_us(lua("return request.nothing"), "routing.lua", Abilities(), (2,))[2] > 0
