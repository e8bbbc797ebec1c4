"""Who can have a request. What comes of it in decisions is in test_decide.py and test_rules.py."""

from __future__ import annotations

from rbeerouter.core.models import NO_MODELS
from rbeerouter.routing.eligible import Eligible, renamed, shown
from tests.support.builders import fill, fleet, request, worker


def test_who_serves_a_model_is_known_anew_when_the_fleet_is_another_one() -> None:
    eligible = Eligible(fleet(worker("a", models=("m",)), worker("b", models=("n",))), NO_MODELS)
    asked = request(model="m")
    assert [one.id for one in eligible.serving(asked, "m")] == ["a"]
    assert [one.id for one in eligible.serving(asked, "m", tried=("a",))] == []
    eligible.fleet = fleet(worker("c", models=("m", "n")))
    assert [one.id for one in eligible.serving(asked, "m")] == ["c"]


def test_those_without_room_are_not_usable_and_when_all_are_full_nobody_is() -> None:
    made = fleet(worker("a", max_concurrency=1), worker("b", max_concurrency=1))
    eligible = Eligible(made, NO_MODELS)
    fill(made, "a", 1)
    assert [one.id for one in eligible.usable(request(), "m")] == ["b"]
    fill(made, "b", 1)
    assert eligible.usable(request(), "m") == []


def test_why_nobody_can_have_it_is_told() -> None:
    none = Eligible(fleet(worker("a", models=("n",))), NO_MODELS).nobody(request(model="m"), "m")
    assert (none.failure.code, none.message) == ("model_not_found", "the model 'm' does not exist on any worker")


def test_a_worker_of_another_model_gets_its_own_models_name() -> None:
    other = fleet(worker("a", models=("n",))).ordered[0]
    assert renamed(request(model="m"), other) == "n"
    assert renamed(request(model="n"), other) is None
    assert renamed(request(model="n"), other, "x") == "x"
    assert shown("x" * 200) == repr("x" * 100 + "...")
