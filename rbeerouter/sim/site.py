"""A worker in truth, beside the router's picture of it: its engine, what is wrong with it, and what is sent to it.

`world` keeps one `Site` for each worker, and `looks` reads from it what a probe would be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from rbeerouter.core.dispatch import Job
from rbeerouter.core.types import Worker
from rbeerouter.sim.engine import Engine, Work
from rbeerouter.sim.faults import Trouble
from rbeerouter.sim.types import Arrival, SimWorker

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Send

NEVER = float("inf")


class Flight(msgspec.Struct, eq=False, gc=False):
    """One request's story, as `wire.exchange.Exchange` is: what there is to it besides its job.

    Attributes:
        site: where its attempt is, None while there is none.
        work: the attempt in the engine, None before the engine gets it and once it has ended there.
        send: what is not in the engine yet: it pauses, cannot connect, or is on its way.
        stalls: its answer will stop in the middle. stopped_at: since when nothing comes any more; first_s: when its
            first content came, once there is no work that tells.
        got: tokens of the answer that the client has of a worker that broke off, for which another one goes on.
    """

    job: Job
    arrival: Arrival
    number: int
    site: Site | None = None
    work: Work | None = None
    send: Send | None = None
    stalls: bool = False
    stopped_at: float | None = None
    first_s: float | None = None
    got: int = 0


class Site:
    """One worker.

    Attributes:
        due: when the engine has to be asked next, as far as the loop's heap knows.
        flights: those whose attempt is here, in order.
        served: names of models that it has, empty where it takes any. renames: does it know models by other names?
        area: request-seconds of attempts that were here, less the times at which those began that still are: with the
            number of these times the time, it makes request-seconds until then.
        started_at: Unix time of its start, as it tells. told_before: counters at its start, which it tells from 0 on.
    """

    __slots__ = (
        "area", "attempts", "due", "engine", "flights", "overhead_s", "renames", "served", "sim", "started_at",
        "told_before", "trouble", "worker",
    )  # fmt: skip

    def __init__(self, sim: SimWorker, worker: Worker, block_tokens: int, started_at: float) -> None:
        self.sim = sim
        self.worker = worker
        self.engine = Engine(sim, block_tokens)
        self.overhead_s = sim.profile.overhead_s
        self.trouble = Trouble()
        self.due = NEVER
        self.flights: dict[Flight, None] = {}
        self.served = worker.model_set | frozenset(sim.spec.model_names.values())
        self.renames = bool(sim.spec.model_names)
        self.area = 0.0
        self.attempts = 0
        self.started_at = started_at
        self.told_before = (0, 0, 0)

    def restarted(self, wall: float) -> None:
        """It is another process from now on."""
        engine = self.engine
        self.started_at = wall
        self.told_before = (engine.prompt_tokens, engine.cached_tokens, engine.generated_tokens)
