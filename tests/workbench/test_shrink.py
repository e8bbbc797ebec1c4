"""Failing cases are made small, and stay failing."""

from __future__ import annotations

import pytest

from rbeerouter.routing.sandbox import Abilities
from rbeerouter.workbench import shrink as shrinking
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.inputs import Case, Inputs, as_lua
from rbeerouter.workbench.shrink import shrink
from tests.support.builders import request

LARGE = Case(
    5,
    (
        Row("a", "busy", 9, 8, models=("x", "y"), metadata={"tier": "gold", "n": 12}, performance=5.0),
        Row("b", "ready", 1, 8, models=("x",), backend="cuda", latency_ms=3.0),
        Row("c", "offline", models=("z",)),
    ),
    request(
        model="some-model", user_id="somebody", max_tokens=77, metadata={"type": "llm", "tier": "gold"}, stream=True
    ),
    wall=5e8,
    failing=("a", "b"),
)  # fmt: skip


def test_what_does_not_matter_goes() -> None:
    small = shrink(LARGE, lambda case: True)
    assert as_lua(small) == 'seed(5)\nfleet{}\nroute{ model = "m" }'


def test_what_matters_stays() -> None:
    def fails(case: Case) -> bool:
        return case.request.metadata.get("tier") == "gold" and any(one.backend == "cuda" for one in case.workers)

    small = shrink(LARGE, fails)
    assert small.workers == (Row("b", capacity=4, backend="cuda"),)
    assert small.request.metadata == {"type": "llm", "tier": "gold"}
    assert small.request.user_id is None and small.failing == ()


def test_a_busy_worker_that_matters_is_as_plain_as_can_be() -> None:
    small = shrink(LARGE, lambda case: any(one.status == "busy" for one in case.workers))
    assert small.workers == (Row("a", "busy", 4, 4),)


def test_models_are_renamed_together() -> None:
    case = Case(1, (Row("a", models=("large", "other")),), request(model="large"))
    small = shrink(case, lambda one: any(one.request.model in worker.models for worker in one.workers))
    assert small.request.model == "m" and small.workers[0].models == ("m",)


def test_a_case_that_fails_only_as_it_is_stays() -> None:
    assert shrink(LARGE, lambda case: case == LARGE) == LARGE


def test_the_tries_are_bounded() -> None:
    tries = []
    shrink(LARGE, lambda case: bool(tries.append(case)), most=10)
    assert len(tries) == 10


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinking, "MOST_S", -1.0)
    assert shrink(LARGE, lambda case: True) == LARGE


def test_it_ends_for_every_case() -> None:
    inputs = Inputs(b"", Abilities())
    for seed in range(64):
        shrink(inputs.case(seed), lambda case: len(case.workers) != 1, most=100_000)
        shrink(inputs.case(seed), lambda case: True, most=100_000)
