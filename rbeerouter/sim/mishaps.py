"""What ends attempts before their answer is whole: faults of workers, and time limits.

`world` keeps one `Mishaps`; `faults` says what is wrong with a worker, this does it to the requests that are there. Its
time limits are those of `wire.exchange.Exchange.check`, asked twice a second and only when one can be over.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.config.sections import Config, Limits, limits_of_models
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.types import Outcome
from rbeerouter.sim.faults import CRASH, CUT, SLOW, STALL, hits
from rbeerouter.sim.site import NEVER, Flight, Site
from rbeerouter.sim.types import Fault

if TYPE_CHECKING:
    from rbeerouter.sim.world import World

SWEEP_S = 0.5
"""How often `wire.listener` looks at what changes by time alone."""
_CONTINUED = frozenset({"/v1/chat/completions", "/v1/completions"})
"""What another worker can go on with (`dialects.continuation`)."""


class Mishaps:
    """Faults and time limits.

    Attributes:
        check_at: until then nobody can be over a limit.
        chance: which requests a fault hits.
    """

    def __init__(self, world: World, config: Config, seed: int) -> None:
        self._world = world
        self._limits = config.limits
        self.limits_of = limits_of_models(config.limits, config.models)
        self._models = config.models
        self.chance = random.Random(f"{seed} faults")
        every = (config.limits, *self.limits_of.values())
        self._least_s = min(min(one.first_content_s, one.gap_s, one.request_s, one.stream_s) for one in every)
        self.check_at = self._least_s

    def limits(self, flight: Flight) -> Limits:
        return self.limits_of.get(flight.job.request.model, self._limits)

    # Time limits

    def check(self, now: float) -> None:
        """Who is over a limit? As the listener asks each exchange."""
        world, late = self._world, []
        check_at = now + self._least_s                         # nobody who comes later can be over a limit before
        for site in world.sites:
            world.catch_up(site)
            for flight in site.flights:
                due, code = self._limit(flight, now)
                if now > due:
                    late.append((flight, site, code))
                else:
                    check_at = min(check_at, due)
        self.check_at = check_at
        for flight, site, code in late:
            if flight.site is site:
                committed = self.note_first(flight)
                world.stop_work(flight, site)
                world.attempt_ended(flight, Outcome(FAILURES[code], committed=committed))

    def _limit(self, flight: Flight, now: float) -> tuple[float, str]:
        """(until when an attempt may go on as it does, what it is when that is over)."""
        job = flight.job
        deadline = self._world.dispatcher.deadline(job)
        if now > deadline or not job.request.stream:           # else the answer has no head before it is whole
            return deadline, "upstream_deadline"
        limits = self.limits(flight)
        if self.first_s(flight) is None:
            due, code = job.sent + limits.first_content_s, "upstream_first_content_timeout"
        elif flight.stopped_at is not None:
            seen_at = -(-flight.stopped_at // SWEEP_S) * SWEEP_S
            due, code = seen_at + limits.gap_s, "upstream_stalled"
        else:
            return deadline, "upstream_deadline"
        return (due, code) if due < deadline else (deadline, "upstream_deadline")

    def first_s(self, flight: Flight) -> float | None:
        """When this attempt's first content came, if it has. The engine must be at the present."""
        work = flight.work
        first_s = flight.first_s if work is None else work.first_s
        return first_s if first_s is not None and first_s <= self._world.now else None

    def note_first(self, flight: Flight) -> bool:
        """Notes on the job what the client of a stream has got so far. Returns whether it has got anything."""
        job, first_s = flight.job, self.first_s(flight)
        if job.request.stream and first_s is not None and job.first_content is None:
            job.first_content, job.status = first_s, 200
        return job.request.stream and job.first_content is not None

    def stop(self, flight: Flight, first_s: float | None, last_s: float) -> None:
        """Nothing more comes of an answer after this time, and nobody is told."""
        flight.first_s, flight.stopped_at = first_s, last_s
        self.check_at = min(self.check_at, self._world.now)

    # Faults

    def begin(self, fault: Fault) -> None:
        world = self._world
        site = next(site for site in world.sites if site.worker.id == fault.worker)
        was_down, now = site.trouble.down, world.now
        world.catch_up(site)
        site.trouble.begin(fault)
        after_s = site.sim.profile.cold_start_s if fault.kind == CRASH else 0.0
        world.at(now + fault.for_s + after_s, self._end, (site, fault))
        if fault.kind == SLOW:
            self._set_speed(site, now)
        elif fault.kind == CRASH and not was_down:
            self._crash(site, now)
        elif fault.kind == CUT:
            for flight in [flight for flight in site.flights if flight.work is not None]:
                first_s = self.first_s(flight)
                world.stop_work(flight, site)
                self.stop(flight, first_s, now)
        elif fault.kind == STALL:
            for flight in site.flights:
                if flight.work is not None and hits([fault.amount], self.chance):
                    flight.stalls = True

    def _end(self, ended: tuple[Site, Fault]) -> None:
        site, fault = ended
        self._world.catch_up(site)
        site.trouble.end(fault)
        if fault.kind == SLOW:
            self._set_speed(site, self._world.now)
        elif fault.kind == CRASH and not site.trouble.down:
            site.restarted(self._world.env.wall())

    def _set_speed(self, site: Site, now: float) -> None:
        site.engine.set_speed(site.trouble.times, now)
        self._world.schedule(site)

    def _crash(self, site: Site, now: float) -> None:
        """It is gone with all that it was working on. Who pauses before the attempt, or connects, has lost nothing."""
        site.engine.crash(now)
        site.due = NEVER
        for flight in [one for one in site.flights if one.work is not None or one.stopped_at is not None]:
            committed = self.note_first(flight)
            if committed and self._goes_on(flight):
                committed = False
            flight.work = None
            self._world.attempt_ended(flight, Outcome(FAILURES["upstream_disconnected"], committed=committed))

    def _goes_on(self, flight: Flight) -> bool:
        """May another worker go on with the stream? It gets what there is of the answer as part of the prompt."""
        work, job, arrival = flight.work, flight.job, flight.arrival
        model = self._models.resolve(job.request.model)
        if model is None or not model.continuation or job.request.path not in _CONTINUED:
            return False
        if work is None or job.continued:
            return False
        got = min(work.done_tokens, arrival.tokens_out - 1)
        job.continued = True
        flight.arrival = msgspec.structs.replace(
            arrival, tokens_in=arrival.tokens_in + got, tokens_out=arrival.tokens_out - got
        )
        flight.got = got
        return True
