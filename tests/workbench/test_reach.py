"""Tests of the search for workers that a script never chooses."""

from __future__ import annotations

import pytest

from rbeerouter.routing.sandbox import Abilities
from rbeerouter.workbench.reach import never_chosen
from tests.support.builders import lua, worker

FLEET = [
    worker("gpu1", backend="cuda", models=("m",), metadata={"region": "eu"}),
    worker("gpu2", backend="cuda", models=("m",), metadata={"region": "us"}),
    worker("cpu", backend="cpu", models=("small",), metadata={"region": "eu"}),
]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("return workers:filter(function(w) return w.status == 'ready' end):sample()", []),
        ("return workers:filter(function(w) return w.backend == 'cuda' end):min_by('load')", ["cpu"]),
        ("if request.metadata.tier == 'gold' then return 'gpu1' end return 'cpu'", ["gpu2"]),
        ("if request.max_tokens and request.max_tokens < 100 then return 'cpu' end return 'gpu2'", ["gpu1"]),
        ("if timestamp():hour() == 3 then return 'cpu' end return {'gpu1', 'gpu2'}", []),
        ("return queue('gpu1')", ["gpu2", "cpu"]),
        ("return nil", []),
        ("return request.nothing", []),
    ],
)
def test_the_workers_that_no_request_reaches_are_found(body: str, left: list[str]) -> None:
    assert never_chosen(lua(body), "routing.lua", FLEET, Abilities()) == left
