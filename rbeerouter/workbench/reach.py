"""Which workers a script can choose at all: found by trying many requests on the configured fleet."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import msgspec

from rbeerouter.core.types import Env, WorkerSpec
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import Script
from rbeerouter.workbench.fleets import DEFAULT_CAPACITY, Row, fleet_of, row_of
from rbeerouter.workbench.inputs import Inputs

_TRIES, _LONGEST_S = 3000, 2.0
_SEED = 1


def never_chosen(source: bytes, name: str, specs: Sequence[WorkerSpec], abilities: Abilities) -> list[str]:
    """Ids of the workers that no request that was tried went to by the script's choice.

    Requests are made of the constants that the script compares with, on the fleet with changing loads and states, at
    all hours. A script that leaves every choice to the strategy is no news: then the list is empty.
    """
    made, dice = Inputs(source, abilities), random.Random(_SEED)
    models = sorted({model for spec in specs for model in spec.models}) or [""]
    clock = {"wall": 0.0}
    env = Env(lambda: clock["wall"], lambda: clock["wall"], random.Random(_SEED))
    script = Script(source, name, env, None, abilities)
    wanted = {spec.id for spec in specs}
    left, until = set(wanted), time.monotonic() + _LONGEST_S
    for number in range(_TRIES):
        case = made.case(number)
        clock["wall"] = case.wall
        model = dice.choice(models) if number % 4 else case.request.model
        request = msgspec.structs.replace(case.request, model=model or case.request.model)
        # Now and then all but one are offline: whoever can be chosen is then chosen.
        alone = number % len(specs) if number % 2 else None
        fleet = fleet_of([_row(spec, dice, alone is None or index == alone) for index, spec in enumerate(specs)])
        choice = script.route(request, fleet, lambda _strategy, _request, workers: dice.choice(workers))
        left -= {worker.id for worker in choice.workers or (choice.worker,) if worker is not None}
        if not left or time.monotonic() > until:
            break
    script.close()
    return [] if left == wanted else [spec.id for spec in specs if spec.id in left]


def _row(spec: WorkerSpec, rng: random.Random, usable: bool) -> Row:
    """A worker of the configuration in some state."""
    row = row_of(spec)
    capacity = row.capacity or DEFAULT_CAPACITY
    in_flight = rng.randrange(capacity + 1)
    status = "offline" if not usable else "busy" if in_flight == capacity else "ready"
    return msgspec.structs.replace(row, status=status, in_flight=in_flight)
