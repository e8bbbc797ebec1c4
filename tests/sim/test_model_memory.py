"""Which models are in memory, which go, and when one is there."""

from __future__ import annotations

import math

from rbeerouter.sim.model_memory import ModelMemory
from rbeerouter.sim.types import Footprint, Profile

SIZES = {
    "a": Footprint(4.0),
    "b": Footprint(4.0),
    "c": Footprint(4.0),
    "large": Footprint(7.0),
    "huge": Footprint(99.0),
}


def memory(loaded: tuple[str, ...] | None = None, **changes: float) -> ModelMemory:
    profile = Profile(**{"memory_gib": 10.0, "load_gib_per_s": 2.0, "load_s": 1.0, **changes})
    return ModelMemory(profile, SIZES, ("a", "large", "b", "c"), loaded)


def test_as_many_models_as_fit_are_there_at_the_start() -> None:
    assert memory().loaded(0.0) == ("a", "b")
    assert memory(("large",)).loaded(0.0) == ("large",)
    assert memory(()).loaded(0.0) == ()


def test_a_load_takes_its_time_and_is_the_only_one() -> None:
    mine = memory(())
    assert mine.load("a", 5.0)
    assert (mine.loading, mine.ready_s, mine.has("a", 5.0), mine.loaded(7.9)) == ("a", 8.0, False, ())
    assert not mine.load("b", 6.0)
    mine.settle()
    assert (mine.has("a", 8.0), mine.ready_s, mine.loads) == (True, math.inf, 1)


def test_the_model_that_was_idle_longest_makes_room() -> None:
    mine = memory()
    for at, model in ((1.0, "b"), (2.0, "a")):
        mine.take(model)
        mine.give_back(model, at)
    assert mine.load("c", 3.0)
    assert list(mine.users) == ["a", "c"]


def test_models_with_requests_stay_and_nothing_goes_in_vain() -> None:
    mine = memory()
    mine.take("a")
    assert not mine.load("large", 1.0)
    assert mine.loaded(1.0) == ("a", "b")
    mine.give_back("a", 2.0)
    assert mine.load("large", 2.0)
    assert list(mine.users) == ["large"]


def test_a_model_larger_than_the_memory_gets_all_of_it() -> None:
    mine = memory()
    assert mine.load("huge", 1.0)
    assert list(mine.users) == ["huge"]


def test_an_idle_model_goes_after_its_time_but_not_while_it_loads() -> None:
    mine = memory(("a",), keep_alive_s=2.0)
    mine.take("a")
    assert mine.loaded(100.0) == ("a",)
    mine.give_back("a", 100.0)
    assert (mine.loaded(101.9), mine.loaded(102.0)) == (("a",), ())
    assert mine.load("b", 200.0)
    assert mine.loaded(202.5) == ()
    mine.settle()
    assert (mine.loaded(203.5), mine.loaded(205.0)) == (("b",), ())


def test_after_a_crash_nothing_is_in_memory() -> None:
    mine = memory()
    mine.load("c", 1.0)
    mine.clear()
    assert (mine.loaded(1.0), mine.loading, mine.ready_s, mine.loads) == ((), None, math.inf, 1)
