"""Tests of the timing of decisions: that each number is what it says. How large they are is no test's business."""

from __future__ import annotations

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import ScriptError
from rbeerouter.sim.bench import MOST_WORKERS, bench, read_workers, shown
from tests.support.builders import lua

LONG = lua("local n = 0 for i = 1, 300 do for _, w in ipairs(workers) do n = n + w.load end end return nil")


def test_each_number_of_workers_has_its_times_and_the_script_is_a_part_of_them() -> None:
    few, many = bench(LONG, "routing.lua", Abilities(), (1, 32), decisions=60)
    assert (few.workers, many.workers) == (1, 32)
    for cost in (few, many):
        assert cost.script_us is not None
        assert 0 < cost.strategy_us < cost.script_us and 0 < cost.median_us <= cost.p99_us
    assert many.median_us > few.median_us


def test_a_strategy_alone_has_no_script_s_part() -> None:
    (cost,) = bench(None, "least-request", Abilities(), (2,), "round-robin", decisions=50)
    assert cost.script_us is None and cost.median_us > 0


def test_a_script_that_does_not_load_is_no_candidate() -> None:
    with pytest.raises(ScriptError):
        bench(b"function", "routing.lua", Abilities(), (1,))


def test_the_table_has_a_row_for_each_number_of_workers() -> None:
    costs = bench(lua("return nil"), "routing.lua", Abilities(), (1, 3), decisions=20)
    made = shown(costs, "routing.lua")
    assert [row[0] for row in made.rows] == ["1", "3"]
    assert "of it the script" in made.head
    assert "of it the script" not in shown(bench(None, "x", Abilities(), (1,), decisions=20), "x").head


def test_numbers_of_workers_are_read_each_once() -> None:
    assert read_workers("8, 1,8") == (8, 1)


@pytest.mark.parametrize("text", ["", "0", "a", "1,,2", "-1", str(MOST_WORKERS + 1)])
def test_what_is_no_number_of_workers_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--workers .*expected whole numbers"):
        read_workers(text)
