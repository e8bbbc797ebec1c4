"""Which workers a script can choose at all: found by trying many requests on the configured fleet."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rbeerouter.core.types import Env, WorkerSpec
from rbeerouter.routing.sandbox import Abilities
from rbeerouter.routing.script import Script
from rbeerouter.workbench.fleets import Row, fleet_of
from rbeerouter.workbench.inputs import Inputs

_TRIES = 3000
_SEED = 1


def never_chosen(source: bytes, name: str, specs: Sequence[WorkerSpec], abilities: Abilities) -> list[str]:
    """Ids of the workers that no request that was tried went to by the script's choice.

    Requests are made of the constants that the script compares with, on the fleet with changing loads and states, at
    all hours. A script that leaves every choice to the strategy is no news: then the list is empty.
    """
    made = Inputs(source, random.Random(_SEED), specs)
    clock = {"wall": 0.0}
    env = Env(lambda: clock["wall"], lambda: clock["wall"], random.Random(_SEED))
    script = Script(source, name, env, None, abilities)
    wanted = {spec.id for spec in specs}
    left = set(wanted)
    for number in range(_TRIES):
        request, clock["wall"] = made.request(), made.wall()
        # Now and then all but one are offline: whoever can be chosen is then chosen.
        alone = number % len(specs) if number % 2 else None
        fleet = fleet_of([_row(spec, made.rng, alone is None or index == alone) for index, spec in enumerate(specs)])
        choice = script.route(request, fleet, lambda _strategy, _request, workers: made.rng.choice(workers))
        left -= {worker.id for worker in choice.workers or (choice.worker,) if worker is not None}
        if not left:
            break
    script.close()
    return [] if left == wanted else [spec.id for spec in specs if spec.id in left]


def _row(spec: WorkerSpec, rng: random.Random, usable: bool) -> Row:
    in_flight = rng.randrange(spec.max_concurrency + 1)
    status = "offline" if not usable else "busy" if in_flight == spec.max_concurrency else "ready"
    return Row(
        spec.id, status, in_flight, spec.max_concurrency, spec.engine, spec.backend, spec.vram, None, None, spec.models,
        spec.performance, spec.cost_per_hour, spec.metadata, role=spec.role, loras=spec.loras,
    )  # fmt: skip
