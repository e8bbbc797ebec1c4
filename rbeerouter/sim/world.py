"""The simulated world: requests come, the real dispatcher decides, simulated engines answer; a `Result` tells of it.

`run` is the one door. It performs the effects of `core.dispatch.Dispatcher` as `wire.exchange` does, and calls what
`wire.listener`, `wire.waiting` and `control.probe` call, at the same times. Nothing here decides about a request.

The loop is a heap of (time, number, what to call, with what) for all but the next arrival, which comes from the
workload. An engine has one entry that counts, that of `Site.due`. Whoever has a time limit has no entry: `_sweep` looks
twice a second whether one can be over, as the listener does.
"""

from __future__ import annotations

import gc
import random
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any

import msgspec

from rbeerouter.config.sections import ConfigError, health_rules, limits_of_models, queue_rules, retry_rules
from rbeerouter.config.values import strategy_spelling, utc_offset_s
from rbeerouter.core.dispatch import WAITING, Dispatcher, Effect, Job, Send, Wait
from rbeerouter.core.errors import FAILURES, LOST, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import name_to_send
from rbeerouter.core.types import READY, Env, Outcome
from rbeerouter.routing.decide import Decider
from rbeerouter.routing.script import Script, ScriptError, configured_abilities, configured_limits
from rbeerouter.routing.split import make_split
from rbeerouter.routing.strategies import STRATEGIES
from rbeerouter.sim import outcome
from rbeerouter.sim.engine import Work
from rbeerouter.sim.faults import CRASH, CUT, SLOW, check_faults, hits
from rbeerouter.sim.looks import Looks
from rbeerouter.sim.site import NEVER, Flight, Site
from rbeerouter.sim.sketch import Sketch
from rbeerouter.sim.statistics import Statistics
from rbeerouter.sim.timeline import Timeline
from rbeerouter.sim.types import Arrival, Fault, Result, Scenario
from rbeerouter.wire import refusals

SWEEP_S = 0.5
"""How often `wire.listener` looks at what changes by time alone."""
_SETTLE_S = 75.0
"""Before something happens after an idle time, so much of it is gone through, as figures of the last minute are made of
it; the rest is left out."""
_RETRY_AFTER_S = 1.0
_FULL_BODY = b'{"error":{"message":"the server is overloaded","type":"overloaded_error","code":503}}'
_MISSING_BODY = b'{"error":{"message":"the model does not exist","type":"invalid_request_error","code":404}}'
_SERVED = Outcome(None, 200, True, delivered=True)
_TOLD_EVERY = 1024
"""Arrivals from one call of `progress` to the next."""
_TIMED_EVERY = 64
"""Every so many decisions one is timed."""
_NO_CPU_LIMIT_S = 3600.0
"""Of a script's decision. What a machine has to do besides must not change a result; instructions are limited."""


def run(
    scenario: Scenario,
    progress: Callable[[int, float], None] | None = None,
    choices: array | None = None,
    on_line: Callable[[Job], None] | None = None,
) -> Result:
    """Simulates a scenario.

    Args:
        progress: told now and then how many requests have come, and what time it is in the simulation, in seconds.
        choices: gets for each request, in order of arrival, the index of the worker that it was sent to first, or -1.
        on_line: told of each job that has ended, as `record` is.

    Raises:
        ConfigError: the scenario cannot be simulated.
        ScriptError: the script cannot be used.
    """
    world = World(scenario, choices, on_line)
    started = time.perf_counter()
    with _quiet_collector():
        world.play(progress)
    return outcome.result(scenario, world, time.perf_counter() - started)


class World:
    """One run.

    Attributes:
        sites: the workers, in order. arrived: requests that have come; live: those of them that have not ended.
        decision_us: of decisions that were timed. script: what was loaded.
    """

    def __init__(
        self, scenario: Scenario, choices: array | None = None, on_line: Callable[[Job], None] | None = None
    ) -> None:
        _check(scenario)
        config = scenario.config
        self._scenario = scenario
        self._clock = clock = [0.0, scenario.start_wall]
        timezone = config.routing.timezone
        self.env = env = Env(
            partial(clock.__getitem__, 0), partial(clock.__getitem__, 1), random.Random(scenario.seed),
            lambda: utc_offset_s(timezone, clock[1]) if timezone else 0,
        )  # fmt: skip
        self.fleet = Fleet(health_rules(config), env.rng)
        self.fleet.configure([worker.spec for worker in scenario.workers])
        block_tokens = scenario.workload.block_tokens
        self.sites = [
            Site(sim, worker, block_tokens, scenario.start_wall)
            for sim, worker in zip(scenario.workers, self.fleet.ordered, strict=True)
        ]
        self.decider = _decider(scenario, self.fleet, env)
        self.script = self.decider.script
        self.dispatcher = Dispatcher(self.fleet, self.decider, env)
        self._limits, self._models = config.limits, config.models if config.models else None
        self._limits_of = limits_of_models(config.limits, config.models)
        self.dispatcher.retries.rules = retry_rules(config.limits)
        self.dispatcher.queue.rules = queue_rules(config.limits, self._limits_of)
        poison, health = self.dispatcher.poison, config.health
        poison.strikes, poison.hold_s, poison.most = health.poison_strikes, health.poison_s, health.poison_kept
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = count()
        self._chance = random.Random(f"{scenario.seed} faults")
        self._looks = Looks(
            self.fleet, self.sites, config.probes, random.Random(f"{scenario.seed} looks"), env.now, self._at,
            self._catch_up,
        )  # fmt: skip
        self.timeline = Timeline([worker.id for worker in self.fleet.ordered])
        self.statistics = Statistics(self.fleet.ordered, config.models, scenario.targets, self.timeline)
        self._choices, self._on_line = choices, on_line
        self._waiting: dict[Job, Flight] = {}
        self._waiting_area = 0.0
        self._admitting = False
        self.decision_us = Sketch()
        self.arrived = self.live = 0
        self._next_at = NEVER
        self._check_at = NEVER
        every = (config.limits, *self._limits_of.values())
        self._least_s = min(min(one.first_content_s, one.gap_s, one.request_s, one.stream_s) for one in every)

    # The loop

    def play(self, progress: Callable[[int, float], None] | None = None) -> None:
        """Goes through the whole workload, and on until every request has ended."""
        clock, heap, wall = self._clock, self._heap, self._scenario.start_wall
        stop_s = NEVER if self._scenario.stop_after_s is None else self._scenario.stop_after_s
        for fault in self._scenario.faults:
            self._at(fault.at_s, self._begin, fault)
        self._looks.look_at_all()
        self._at(SWEEP_S, self._sweep, None)
        for arrival in self._scenario.workload:
            at = arrival.at_s
            if at > stop_s:
                break
            self._next_at = at
            while heap[0][0] <= at:
                when, _, act, what = heappop(heap)
                clock[0], clock[1] = when, wall + when
                act(what)
            clock[0], clock[1] = at, wall + at
            self._arrive(arrival)
            if progress is not None and not self.arrived % _TOLD_EVERY:
                progress(self.arrived, at)
        self._next_at = NEVER
        while self.live:
            when, _, act, what = heappop(heap)
            clock[0], clock[1] = when, wall + when
            act(what)
        self._close_intervals(clock[0], last=True)
        self.statistics.catch_up()
        if progress is not None:
            progress(self.arrived, clock[0])

    @property
    def now(self) -> float:
        return self._clock[0]

    def _at(self, when: float, act: Callable[[Any], None], what: Any) -> None:
        heappush(self._heap, (when, next(self._number), act, what))

    def _sweep(self, _: None) -> None:
        """What `wire.listener.Listener._sweep` does."""
        now = self._clock[0]
        if now > self._check_at:
            self._check(now)
        self.dispatcher.sweep(now)
        if self.dispatcher.waiting:
            self._admit()
        fault = self.dispatcher.fault
        if fault is not None:
            raise fault
        if now >= self.timeline.ends:
            self._close_intervals(now)
        rest_s = 0.0 if self.live else self._idle_s(now)
        if rest_s:
            self._looks.shift(rest_s)
        self._at(now + SWEEP_S + rest_s, self._sweep, None)

    def _idle_s(self, now: float) -> float:
        """How much of the time to come can be left out, as nothing is going on and nothing is about to change."""
        if self._next_at - now < 2 * _SETTLE_S:
            return 0.0
        if not all(site.worker.standing == READY and site.worker.weight == 1.0 for site in self.sites):
            return 0.0
        own = (self._looks.glance, self._sweep)
        until = min((when for when, _, act, _ in self._heap if act not in own), default=NEVER)
        rest_s = min(until, self._next_at) - now - _SETTLE_S
        return max(0.0, rest_s // SWEEP_S * SWEEP_S)

    def _close_intervals(self, now: float, last: bool = False) -> None:
        timeline = self.timeline
        while now >= timeline.ends:
            timeline.close(self._areas(timeline.ends))
        if last:
            timeline.close(self._areas(now), now)

    def _areas(self, when: float) -> list[float]:
        """Request-seconds until then: of those who wait, and of those on each worker."""
        sites = [site.area + site.worker.in_flight * when for site in self.sites]
        return [self._waiting_area + len(self._waiting) * when, *sites]

    # A request, as in wire.exchange

    def _arrive(self, arrival: Arrival) -> None:
        request, clock = arrival.request, self._clock
        if self._models is not None:
            request = self._models.resolved(request)
        job = Job(request, clock[0], clock[1])
        flight = Flight(job, arrival, self.arrived)
        if self._choices is not None:
            self._choices.append(-1)
        self.live += 1
        self.arrived += 1
        if arrival.leaves_after_s is not None:
            self._at(clock[0] + arrival.leaves_after_s, self._client_leaves, flight)
        if request.timeout_s is not None:
            self._check_at = min(self._check_at, clock[0] + request.timeout_s)
        dispatcher = self.dispatcher
        if dispatcher.poison.seen and dispatcher.poison.refused(request.id.encode(), clock[0]):
            what = RouterError("poison_request", "two workers have died over this request a short while ago")
            self._perform(flight, dispatcher.refuse(job, what))
        elif self.arrived % _TIMED_EVERY:
            self._perform(flight, dispatcher.on_request(job))
        else:
            started = time.perf_counter()
            effect = dispatcher.on_request(job)
            self.decision_us.add((time.perf_counter() - started) * 1e6)
            self._perform(flight, effect)

    def _perform(self, flight: Flight, effect: Effect) -> None:
        """Does what the dispatcher decided."""
        if type(effect) is Send:
            now, site = self._clock[0], self.sites[effect.worker.index]
            flight.site = site
            site.flights[flight] = None
            site.attempts += 1
            site.area -= now
            if now + self._least_s < self._check_at:
                self._check_at = now + self._least_s
            choices = self._choices
            if choices is not None and choices[flight.number] < 0:
                choices[flight.number] = effect.worker.index
            if effect.pause_s:
                flight.send = effect
                self._at(now + effect.pause_s, self._attempt_now, (flight, effect))
            else:
                self._attempt(flight, effect, site)
        elif type(effect) is Wait:
            self._waiting[flight.job] = flight
            self._waiting_area -= self._clock[0]
        else:
            self.live -= 1
            self.statistics.ended(flight.job)
            if self._on_line is not None:
                self._on_line(flight.job)

    def _attempt_now(self, planned: tuple[Flight, Send]) -> None:
        """A pause before an attempt is over, unless the attempt is."""
        flight, send = planned
        if flight.send is send and flight.site is not None:
            flight.send = None
            self._attempt(flight, send, flight.site)

    def _attempt(self, flight: Flight, send: Send, site: Site) -> None:
        """Sends the request to the worker that was chosen."""
        job, model = flight.job, send.model
        request, worker = job.request, send.worker
        if worker.spec.model_names or request.asked_model is not None:
            model = name_to_send(request, worker, model)
        job.sent_model = model
        if model is None:
            model = request.asked_model or request.model
        if site.trouble.any and self._meets_trouble(flight, send, site):
            return
        if site.served and model not in site.served:
            self._answered(flight, 404, _MISSING_BODY, None)
            return
        flight.work = work = Work(flight.arrival, model, flight)
        if site.overhead_s:
            heappush(self._heap, (self._clock[0] + site.overhead_s, next(self._number), self._arrives, work))
        else:
            self._arrives(work)

    def _arrives(self, work: Work) -> None:
        """The request is in the engine."""
        flight: Flight = work.tag
        site = flight.site
        if site is None or flight.work is not work:            # it has ended on the way
            return
        engine = site.engine
        engine.submit(work, self._clock[0])
        due = engine.next_s
        if due < site.due:
            site.due = due
            heappush(self._heap, (due, next(self._number), self._advance, site))

    def _meets_trouble(self, flight: Flight, send: Send, site: Site) -> bool:
        """Does a fault of the worker end the attempt, or is it about to?"""
        trouble = site.trouble
        if trouble.cut:                                        # the connection is not made within the limit
            flight.send = send
            self._at(self._clock[0] + self._limits.connect_s, self._not_connected, (flight, send))
            return True
        if trouble.down:
            self._attempt_ended(flight, Outcome(FAILURES["upstream_connect_failed"]))
            return True
        if trouble.refusing and hits(trouble.refusing, self._chance):
            self._answered(flight, 503, _FULL_BODY, _RETRY_AFTER_S)
            return True
        flight.stalls = bool(trouble.stalling) and hits(trouble.stalling, self._chance)
        return False

    def _not_connected(self, planned: tuple[Flight, Send]) -> None:
        flight, send = planned
        if flight.send is send and flight.site is not None:
            flight.send = None
            self._attempt_ended(flight, Outcome(FAILURES["upstream_connect_failed"]))

    def _answered(self, flight: Flight, status: int, body: bytes, retry_after_s: float | None) -> None:
        """The worker gave an error of its own."""
        assert flight.site is not None, "an answer from nowhere"
        failure = refusals.verdict(flight.site.worker.engine, status, body)
        assert failure is not None, "an error that would be the client's"
        self._attempt_ended(flight, Outcome(failure, status, retry_after_s=retry_after_s, answered=True))

    def _advance(self, site: Site) -> None:
        """An engine may have finished something."""
        clock = self._clock
        now = clock[0]
        if site.due != now:                                    # an entry that another one has overtaken
            return
        site.due = NEVER
        engine = site.engine
        for work in engine.advance(now):
            self._finished(work, now)
        due = engine.next_s
        if due < site.due:
            site.due = due
            heappush(self._heap, (due, next(self._number), self._advance, site))

    def _finished(self, work: Work, now: float) -> None:
        """The engine gave its answer to the end."""
        flight: Flight = work.tag
        flight.work = None
        job, arrival = flight.job, flight.arrival
        if flight.stalls:
            self._stop(flight, work.first_s, now)
            return
        job.first_content = work.first_s if job.request.stream else now
        job.status = 200
        job.tokens_in, job.tokens_out = arrival.tokens_in, arrival.tokens_out
        self._attempt_ended(flight, _SERVED)

    def _attempt_ended(self, flight: Flight, outcome: Outcome) -> None:
        """As in wire.exchange, word by word."""
        dispatcher, job, site = self.dispatcher, flight.job, flight.site
        assert site is not None, "the end of an attempt that was not made"
        if outcome.failure is not None or dispatcher.poison.seen:
            outcome = self._judged(job, outcome)
        self._leave(flight, site)
        effect = dispatcher.on_outcome(job, outcome)
        if outcome.failure is not None:
            self._looks.failed(site)
        if dispatcher.waiting:
            if job.state == WAITING:                           # it may be let go at once itself
                self._perform(flight, effect)
                self._admit()
                return
            self._admit()
        self._perform(flight, effect)

    def _leave(self, flight: Flight, site: Site) -> None:
        site.area += self._clock[0]
        del site.flights[flight]
        flight.site = flight.send = flight.stopped_at = None
        flight.stalls = False

    def _judged(self, job: Job, outcome: Outcome) -> Outcome:
        """Did a worker die over this request that may not have been the first? A request's name stands for its body."""
        poison, worker, body = self.dispatcher.poison, job.worker, job.request.id.encode()
        if outcome.failure is None:
            poison.forgive(body)
        elif (
            outcome.failure.retry == LOST and worker is not None
            and poison.strike(body, worker.id, self._clock[0], job.sent, worker.in_flight > 1)
        ):  # fmt: skip
            return msgspec.structs.replace(outcome, poisonous=True)
        return outcome

    def _admit(self) -> None:
        """Lets go those who have a worker now, or have waited too long, as wire.waiting does."""
        if self._admitting:
            return
        self._admitting = True
        now = self._clock[0]
        while effects := self.dispatcher.on_tick(now):
            for job, effect in effects:
                flight = self._waiting.pop(job)
                self._waiting_area += now
                self._perform(flight, effect)
        self._admitting = False

    def _client_leaves(self, flight: Flight) -> None:
        job, dispatcher = flight.job, self.dispatcher
        if flight.site is not None:
            self._catch_up(flight.site)
        if job.finished is not None:
            return
        site = flight.site
        if site is not None:
            first_s = self._first_s(flight)
            if first_s is not None and job.request.stream:
                job.first_content, job.status = first_s, 200
            self._stop_work(flight, site)
            self._leave(flight, site)
        elif self._waiting.pop(job, None) is not None:
            self._waiting_area += self._clock[0]
        effect = dispatcher.on_cancel(job)
        if dispatcher.waiting:
            self._admit()
        self._perform(flight, effect)

    def _first_s(self, flight: Flight) -> float | None:
        """When the client got the first content, if it has. The engine must be at the present."""
        work, now = flight.work, self._clock[0]
        first_s = flight.first_s if work is None else work.first_s
        return first_s if first_s is not None and first_s <= now else None

    def _stop_work(self, flight: Flight, site: Site) -> None:
        """The connection to the worker is closed: its engine stops."""
        work, flight.work = flight.work, None
        if work is None or work.engine is None:
            return
        site.engine.cancel(work, self._clock[0])
        self._schedule(site)

    def _catch_up(self, site: Site) -> None:
        """Brings an engine to the present, so that what it tells is true."""
        now = self._clock[0]
        for work in site.engine.advance(now):
            self._finished(work, now)
        self._schedule(site)

    def _schedule(self, site: Site) -> None:
        due = site.engine.next_s
        if due < site.due:
            site.due = due
            self._at(due, self._advance, site)

    # What takes too long

    def _check(self, now: float) -> None:
        """Who is over a limit? As the listener asks each exchange."""
        check_at = NEVER
        late = []
        for site in self.sites:
            self._catch_up(site)
            for flight in site.flights:
                due, code = self._limit(flight, now)
                if now > due:
                    late.append((flight, code))
                else:
                    check_at = min(check_at, due)
        self._check_at = check_at
        for flight, code in late:
            site = flight.site
            if site is None:
                continue
            first_s, stream = self._first_s(flight), flight.job.request.stream
            committed = stream and first_s is not None
            if committed:
                flight.job.first_content, flight.job.status = first_s, 200
            self._stop_work(flight, site)
            self._attempt_ended(flight, Outcome(FAILURES[code], committed=committed))

    def _limit(self, flight: Flight, now: float) -> tuple[float, str]:
        """(until when an attempt may go on as it does, what it is when that is over)."""
        job = flight.job
        limits = self._limits_of.get(job.request.model, self._limits)
        deadline = self.dispatcher.deadline(job)
        if not job.request.stream:                             # it has no head before it is whole
            return deadline, "upstream_deadline"
        due, code = deadline, "upstream_deadline"
        if self._first_s(flight) is None:
            due, code = job.sent + limits.first_content_s, "upstream_first_content_timeout"
        elif flight.stopped_at is not None:
            seen_at = -(-flight.stopped_at // SWEEP_S) * SWEEP_S
            due, code = seen_at + limits.gap_s, "upstream_stalled"
        return (due, code) if due < deadline and not now > deadline else (deadline, "upstream_deadline")

    def _stop(self, flight: Flight, first_s: float | None, now: float) -> None:
        """Nothing more comes of an answer; nobody is told. The client has had what came in the first half of it."""
        flight.first_s = first_s
        flight.stopped_at = now if first_s is None else (first_s + now) / 2
        self._check_at = min(self._check_at, now)

    # Faults

    def _begin(self, fault: Fault) -> None:
        site = next(site for site in self.sites if site.worker.id == fault.worker)
        was_down, now = site.trouble.down, self._clock[0]
        self._catch_up(site)
        site.trouble.begin(fault)
        after_s = site.sim.profile.cold_start_s if fault.kind == CRASH else 0.0
        self._at(now + fault.for_s + after_s, self._end, (site, fault))
        if fault.kind == SLOW:
            site.engine.set_speed(site.trouble.times, now)
            self._schedule(site)
        elif fault.kind == CRASH and not was_down:
            self._crash(site, now)
        elif fault.kind == CUT:
            for flight in site.flights:
                if flight.work is not None:
                    first_s = self._first_s(flight)
                    self._stop_work(flight, site)
                    flight.first_s, flight.stopped_at = first_s, now
                    self._check_at = min(self._check_at, now)
        elif site.trouble.stalling:
            for flight in site.flights:
                flight.stalls = flight.stalls or hits([fault.amount], self._chance)

    def _end(self, ended: tuple[Site, Fault]) -> None:
        site, fault = ended
        site.trouble.end(fault)
        if fault.kind == SLOW:
            site.engine.set_speed(site.trouble.times, self._clock[0])
            self._schedule(site)
        elif fault.kind == CRASH and not site.trouble.down:
            site.restarted(self._clock[1])

    def _crash(self, site: Site, now: float) -> None:
        """It is gone with all that it was working on. Who pauses before the attempt, or connects, has lost nothing."""
        site.engine.crash(now)
        site.due = NEVER
        died = [flight for flight in site.flights if flight.work is not None or flight.stopped_at is not None]
        for flight in died:
            first_s = self._first_s(flight)
            committed = flight.job.request.stream and first_s is not None
            if committed:
                flight.job.first_content, flight.job.status = first_s, 200
            flight.work = None
            self._attempt_ended(flight, Outcome(FAILURES["upstream_disconnected"], committed=committed))


def _check(scenario: Scenario) -> None:
    """Raises ConfigError for a scenario that cannot be."""
    ids = [worker.spec.id for worker in scenario.workers]
    if not ids:
        raise ConfigError("no workers to simulate")
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"worker {twice!r}: there are two with this id; expected each once")
    if strategy_spelling(scenario.strategy) not in STRATEGIES:
        raise ConfigError(f"strategy = {scenario.strategy!r}: expected one of {', '.join(STRATEGIES)}")
    check_faults(scenario.faults, ids)


def _decider(scenario: Scenario, fleet: Fleet, env: Env) -> Decider:
    """As `server.scripts.Scripts.decider` makes it. Raises ScriptError, ConfigError."""
    config, routing = scenario.config, scenario.config.routing
    decider = Decider(
        fleet, None, scenario.strategy, env, False, routing.script_faults, models=config.models,
        split=make_split(routing.split, config.models),
    )  # fmt: skip
    if scenario.script is not None:
        limits = msgspec.structs.replace(configured_limits(routing), cpu_s=_NO_CPU_LIMIT_S)
        script = Script(scenario.script, scenario.script_name, env, limits, configured_abilities(routing))
        fault = script.self_test(fleet, decider.choose_for_script)
        if fault is not None:
            raise ScriptError(f"{scenario.script_name}: the self-test request failed: {fault}")
        decider.script = script
    known = decider.script.params() if decider.script is not None else {}
    for name, value in scenario.params.items():
        if name not in known:
            raise ConfigError(f"param {name}: the script has no such param; known: {', '.join(known) or 'none'}")
        try:
            decider.script.set_param(name, value)  # type: ignore[union-attr]
        except ValueError as error:
            raise ConfigError(f"param {name}: {error}") from None
    return decider


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """Requests make no cycles, so the collector would look at everything for nothing."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
