"""The simulated world: requests come, the real dispatcher decides, simulated engines answer; a `Result` tells of it.

`run` is the one door. It performs the effects of `core.dispatch.Dispatcher` as `wire.exchange` does, and calls what
`wire.listener`, `wire.waiting` and `control.probe` call, at the same times. Nothing here decides about a request.

The loop is a heap of (time, number, what to call, with what) for all but the next arrival, which comes from the
workload. An engine has one entry that counts, that of `Site.due`. Whoever has a time limit has no entry: `_sweep` looks
twice a second whether one can be over, as the listener does.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import count, repeat
from typing import Any

import msgspec

from rbeerouter.config.sections import ConfigError, health_rules, queue_rules, retry_rules
from rbeerouter.config.values import utc_offset_s
from rbeerouter.core.chance import Chance
from rbeerouter.core.dispatch import WAITING, Dispatcher, Effect, Job, Send, Wait
from rbeerouter.core.errors import FAILURES, LOST, RouterError
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.models import name_to_send, with_targets
from rbeerouter.core.seen import Roll
from rbeerouter.core.types import READY, Env, Outcome, Wishes
from rbeerouter.routing.decide import Decider
from rbeerouter.sim import outcome
from rbeerouter.sim.engine import Work
from rbeerouter.sim.faults import hits
from rbeerouter.sim.looks import Looks
from rbeerouter.sim.mishaps import SWEEP_S, Mishaps
from rbeerouter.sim.setting import check, make_decider, quiet_collector, run_name
from rbeerouter.sim.site import NEVER, Flight, Site
from rbeerouter.sim.sketch import Sketch
from rbeerouter.sim.statistics import BATCH, Statistics
from rbeerouter.sim.timeline import Timeline
from rbeerouter.sim.types import Arrival, BlockNames, Result, Scenario, Targets
from rbeerouter.wire import refusals

_SETTLE_S = 75.0
"""Before something happens after an idle time, so much of it is gone through, as figures of the last minute are made of
it; the rest is left out."""
LONGEST_S = 1e11
"""Three thousand years: clocks that went on for much longer could not tell a half second any more."""
_RETRY_AFTER_S = 1.0
_FULL_BODY = b'{"error":{"message":"the server is overloaded","type":"overloaded_error","code":503}}'
_MISSING_BODY = b'{"error":{"message":"the model does not exist","type":"invalid_request_error","code":404}}'
_SERVED = Outcome(None, 200, True, delivered=True)
_TIMED_EVERY = 64
"""Every so many decisions one is timed."""
_MOST_AT_ONCE, _MOST_OF_ONE = 10_000, 100
"""More events than ever come at one time, of everything and besides of each request under way."""


def run(
    scenario: Scenario,
    progress: Callable[[int, float], None] | None = None,
    choices: array | None = None,
    on_line: Callable[[Job], None] | None = None,
    on_roll: Callable[[Roll, Decider], None] | None = None,
) -> Result:
    """Simulates a scenario.

    Args:
        progress: told now and then how many requests have come, and what time it is in the simulation, in seconds.
        choices: gets for each request, in order of arrival, the index of the worker that it was sent to first, or -1.
        on_line: told of each job that has ended, as `record` is.
        on_roll: told of each list of workers that a decision saw first, as `Recorder.enroll` is.

    Raises:
        ConfigError: the scenario cannot be simulated.
        ScriptError: the script cannot be used.
    """
    world = World(scenario, choices, on_line)
    if on_roll is not None:
        world.tell_rolls(on_roll)
    started = time.perf_counter()
    with quiet_collector():
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
        check(scenario)
        config = scenario.config
        self._scenario = scenario
        self._clock = clock = [0.0, scenario.start_wall]
        timezone = config.routing.timezone
        rng = random.Random(scenario.seed)
        self.env = env = Env(
            partial(clock.__getitem__, 0), partial(clock.__getitem__, 1), rng,
            lambda: utc_offset_s(timezone, clock[1]) if timezone else 0, Chance(rng.getrandbits(64)),
        )  # fmt: skip
        self.fleet = Fleet(health_rules(config), env.rng)
        self.fleet.configure([worker.spec for worker in scenario.workers])
        self._block_tokens = block_tokens = scenario.workload.block_tokens
        self.sites = [
            Site(sim, worker, block_tokens, scenario.start_wall)
            for sim, worker in zip(scenario.workers, self.fleet.ordered, strict=True)
        ]
        self.decider = make_decider(scenario, self.fleet, env)
        self.script = self.decider.script
        self.dispatcher = Dispatcher(self.fleet, self.decider, env)
        self._connect_s, self._models = config.limits.connect_s, config.models if config.models else None
        self._mishaps = Mishaps(self, config, scenario.seed)
        self.dispatcher.retries.rules = retry_rules(config.limits)
        self.dispatcher.queue.rules = queue_rules(config.limits, self._mishaps.limits_of)
        poison, health = self.dispatcher.poison, config.health
        poison.strikes, poison.hold_s, poison.most = health.poison_strikes, health.poison_s, health.poison_kept
        self._heap: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._number = count()
        self._looks = Looks(
            self.fleet, self.sites, config.probes, random.Random(f"{scenario.seed} looks"), env.now, self.at,
            self.catch_up,
        )  # fmt: skip
        self.timeline = Timeline([worker.id for worker in self.fleet.ordered])
        self.statistics = Statistics(self.fleet.ordered, config.models, scenario.targets, self.timeline)
        self._ended = self.statistics.ended
        self._wishes = _wishes(scenario.targets)
        self._choices, self._on_line = choices, on_line
        self._waiting: dict[Job, Flight] = {}
        self._waiting_area = 0.0
        self._admitting = self._again = False
        self._told_offset_s: int | None = None
        self.decision_us = Sketch()
        self.arrived = self.live = 0
        self._next_at = NEVER

    def tell_rolls(self, on_roll: Callable[[Roll, Decider], None]) -> None:
        """From the first decision on somebody is told the lists of workers, so that decisions can be made again."""
        watch, self._told_offset_s = self.decider.watch, self.env.utc_offset_s()
        watch.run = run_name(self._scenario)
        watch.tell(lambda roll: on_roll(roll, self.decider))

    # The loop

    def play(self, progress: Callable[[int, float], None] | None = None) -> None:
        """Goes through the whole workload, and on until every request has ended."""
        clock, heap, wall = self._clock, self._heap, self._scenario.start_wall
        stop_s = NEVER if self._scenario.stop_after_s is None else self._scenario.stop_after_s
        for fault in self._scenario.faults:
            self.at(fault.at_s, self._mishaps.begin, fault)
        self._looks.look_at_all()
        self.at(SWEEP_S, self._sweep, None)
        for arrival in self._scenario.workload:
            at = arrival.at_s
            if at > stop_s:
                break
            if at > LONGEST_S:
                name = self._scenario.workload.name
                raise ConfigError(f"{name}: a request comes after {at:.3g} s; expected {LONGEST_S:g} s at most")
            self._next_at = at
            while heap[0][0] <= at:
                before = clock[0]
                for _ in repeat(None, _MOST_AT_ONCE + _MOST_OF_ONE * self.live):
                    when, _, act, what = heappop(heap)
                    clock[0], clock[1] = when, wall + when
                    act(what)
                    if heap[0][0] > at:
                        break
                else:
                    self._must_have_moved(before)
            clock[0], clock[1] = at, wall + at
            self._arrive(arrival)
            if not self.arrived % BATCH:
                self.statistics.catch_up()
                if progress is not None:
                    progress(self.arrived, at)
        self._next_at = NEVER
        while self.live:
            before = clock[0]
            for _ in repeat(None, _MOST_AT_ONCE + _MOST_OF_ONE * self.live):
                when, _, act, what = heappop(heap)
                clock[0], clock[1] = when, wall + when
                act(what)
                if not self.live:
                    break
            else:
                self._must_have_moved(before)
        self._close_intervals(clock[0], last=True)
        self.statistics.catch_up()
        if progress is not None:
            progress(self.arrived, clock[0])

    def _must_have_moved(self, before: float) -> None:
        """So much has happened: it cannot all have been at one time, unless something plans itself again and again."""
        if self._clock[0] == before:
            raise RuntimeError(f"the simulation does not get past {before!r} s; next comes {self._heap[0][2:]}")

    @property
    def now(self) -> float:
        return self._clock[0]

    def at(self, when: float, act: Callable[[Any], None], what: Any) -> None:
        heappush(self._heap, (when, next(self._number), act, what))

    def _sweep(self, _: None) -> None:
        """What `wire.listener.Listener._sweep` does."""
        now = self._clock[0]
        if now > self._mishaps.check_at:
            self._mishaps.check(now)
        self.dispatcher.sweep(now)
        if self.dispatcher.waiting:
            self._admit()
        fault = self.dispatcher.fault
        if fault is not None:
            raise fault
        if now >= self.timeline.ends:
            self._close_intervals(now)
        if self._told_offset_s is not None and self._told_offset_s != self.env.utc_offset_s():
            self._told_offset_s = self.env.utc_offset_s()      # the clocks have changed, which rolls tell of
            self.decider.watch.tell_all()
        rest_s = 0.0 if self.live else self._idle_s(now)
        if rest_s:
            self._looks.shift(rest_s)
        self.at(now + SWEEP_S + rest_s, self._sweep, None)

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
        if self._wishes is not None:
            request = msgspec.structs.replace(request, wishes=with_targets(request.wishes, self._wishes))
        if self._models is not None:
            request = self._models.resolved(request)
        if arrival.blocks and self.decider.reads_prompt:
            request = msgspec.structs.replace(request, text=BlockNames(arrival.blocks, self._block_tokens))
        job = Job(request, clock[0], clock[1])
        flight = Flight(job, arrival, self.arrived)
        if self._choices is not None:
            self._choices.append(-1)
        self.live += 1
        self.arrived += 1
        if arrival.leaves_after_s is not None:
            self.at(clock[0] + arrival.leaves_after_s, self._client_leaves, flight)
        if request.timeout_s is not None:
            self._mishaps.check_at = min(self._mishaps.check_at, clock[0] + request.timeout_s)
        dispatcher = self.dispatcher
        if dispatcher.poison.seen and dispatcher.poison.refused(request.id.encode(), clock[0]):
            what = RouterError("poison_request", "two workers have died over this request a short while ago")
            self._perform(flight, dispatcher.refuse(job, what))
            return
        if self.arrived % _TIMED_EVERY:
            effect = dispatcher.on_request(job)
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
            choices = self._choices
            if choices is not None and choices[flight.number] < 0:
                choices[flight.number] = effect.worker.index
            if effect.pause_s:
                flight.send = effect
                self.at(now + effect.pause_s, self._attempt_now, (flight, effect))
            else:
                self._attempt(flight, effect, site)
        elif type(effect) is Wait:
            self._waiting[flight.job] = flight
            self._waiting_area -= self._clock[0]
        else:
            self._close(flight.job)

    def _close(self, job: Job) -> None:
        """The last step of every request, whatever happened."""
        self.live -= 1
        self._ended(job)
        if self._on_line is not None:
            self._on_line(job)

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
        if site.renames or request.asked_model is not None:
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
            flight.send = send
            heappush(self._heap, (self._clock[0] + site.overhead_s, next(self._number), self._arrives, work))
        else:
            self._arrives(work)

    def _arrives(self, work: Work) -> None:
        """The request is in the engine."""
        flight: Flight = work.tag
        site = flight.site
        if site is None or flight.work is not work:            # it has ended on the way
            return
        flight.send = None
        engine = site.engine
        if engine.on_first is None and self.decider.memories.all:
            engine.on_first = self._speaks
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
            self.at(self._clock[0] + self._connect_s, self._not_connected, (flight, send))
            return True
        if trouble.down:
            self.attempt_ended(flight, Outcome(FAILURES["upstream_connect_failed"]))
            return True
        if trouble.refusing and hits(trouble.refusing, self._mishaps.chance):
            self._answered(flight, 503, _FULL_BODY, _RETRY_AFTER_S)
            return True
        flight.stalls = bool(trouble.stalling) and hits(trouble.stalling, self._mishaps.chance)
        return False

    def _not_connected(self, planned: tuple[Flight, Send]) -> None:
        flight, send = planned
        if flight.send is send and flight.site is not None:
            flight.send = None
            self.attempt_ended(flight, Outcome(FAILURES["upstream_connect_failed"]))

    def _answered(self, flight: Flight, status: int, body: bytes, retry_after_s: float | None) -> None:
        """The worker gave an error of its own."""
        assert flight.site is not None, "an answer from nowhere"
        failure = refusals.verdict(flight.site.worker.engine, status, body)
        assert failure is not None, "an error that would be the client's"
        self.attempt_ended(flight, Outcome(failure, status, retry_after_s=retry_after_s, answered=True))

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

    def _speaks(self, work: Work, now: float) -> None:
        """The first token is out, which the client of a stream gets at once. Only memories want to know it then."""
        flight: Flight = work.tag
        job = flight.job
        if job.request.stream and job.first_content is None and flight.work is work:
            job.status = 200
            self.dispatcher.on_content(job, now)

    def _finished(self, work: Work, now: float) -> None:
        """The engine gave its answer to the end."""
        flight: Flight = work.tag
        flight.work = None
        job, arrival = flight.job, flight.arrival
        if flight.stalls:
            half = now if work.first_s is None else (work.first_s + now) / 2
            self._mishaps.stop(flight, work.first_s, half)
            return
        if job.first_content is None:                          # else from the worker that this one went on for
            job.first_content = work.first_s if job.request.stream else now
            if self.decider.memories.all:                      # else `_speaks` has told of it
                job.status = 200
                self.dispatcher.on_content(job, job.first_content)
        job.status = 200
        job.tokens_in, job.tokens_out = arrival.tokens_in - flight.got, arrival.tokens_out + flight.got
        dispatcher, site = self.dispatcher, flight.site
        if site is None or dispatcher.poison.seen:
            self.attempt_ended(flight, _SERVED)
            return
        site.area += now                                       # what attempt_ended does, for nearly all requests
        del site.flights[flight]
        flight.site = None
        dispatcher.on_outcome(job, _SERVED)
        if dispatcher.waiting:
            self._admit()
        self._close(job)

    def attempt_ended(self, flight: Flight, outcome: Outcome) -> None:
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
        flight.site = flight.send = flight.stopped_at = flight.first_s = None
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
        """Lets go those who have a worker now, or have waited too long, as wire.waiting does. It is asked again only
        when one of them has ended at once."""
        self._again = True
        if self._admitting:
            return
        self._admitting = True
        now = self._clock[0]
        while self._again:
            self._again = False
            for job, effect in self.dispatcher.on_tick(now):
                flight = self._waiting.pop(job)
                self._waiting_area += now
                self._perform(flight, effect)
        self._admitting = False

    def _client_leaves(self, flight: Flight) -> None:
        job, dispatcher = flight.job, self.dispatcher
        if flight.site is not None:
            self.catch_up(flight.site)
        if job.finished is not None:
            return
        site = flight.site
        if site is not None:
            self._mishaps.note_first(flight)
            self.stop_work(flight, site)
            self._leave(flight, site)
        elif self._waiting.pop(job, None) is not None:
            self._waiting_area += self._clock[0]
        effect = dispatcher.on_cancel(job)
        if dispatcher.waiting:
            self._admit()
        self._perform(flight, effect)

    def stop_work(self, flight: Flight, site: Site) -> None:
        """The connection to the worker is closed: its engine stops."""
        work, flight.work = flight.work, None
        if work is None or flight.send is not None:            # not in the engine, or not there yet
            return
        site.engine.cancel(work, self._clock[0])
        self.schedule(site)

    def catch_up(self, site: Site) -> None:
        """Brings an engine to the present, so that what it tells is true."""
        now = self._clock[0]
        for work in site.engine.advance(now):
            self._finished(work, now)
        self.schedule(site)

    def schedule(self, site: Site) -> None:
        due = site.engine.next_s
        if due < site.due:
            site.due = due
            self.at(due, self._advance, site)


def _wishes(targets: Targets) -> Wishes | None:
    """What clients say in their headers of how fast they want to be answered; None: nothing."""
    if targets == Targets():
        return None
    seconds = (targets.ttft_s, targets.tpot_s, targets.e2e_s)
    return Wishes(None, None, None, *(None if one is None else one * 1000 for one in seconds))
