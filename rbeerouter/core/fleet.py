"""All that is known of the workers, and the only code that changes it.

`control.probe` reports into it, `Dispatcher` counts in it, `routing` reads it. Every change happens in one
synchronous step, so whoever reads between two awaits sees one consistent fleet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from random import Random

import msgspec

from rbeerouter.core import measure
from rbeerouter.core.errors import Failure
from rbeerouter.core.health import Health, HealthRules
from rbeerouter.core.types import BUSY, DRAINING, OFFLINE, READY, Learned, Machine, Report, Worker, WorkerSpec

next_version = itertools.count().__next__
"""A version that no fleet has had."""
_NEVER = float("inf")
_WAITING_LEAST = 3
"""So many must wait in an engine, and half as many as it works on, until it counts as full."""
_FIRST_WEIGHT = 0.1
"""What a worker that comes back is given of its share at first: enough to show whether it works."""
_MOST_FOREIGN = (1 << 21) - 1
_MOST_OCCUPIED = (1 << 22) - 1
"""More requests than any engine has; a wild number would not fit into what scripts are told (`Script.route`)."""
_LEAST_REST_S = 1.0
"""How long a worker is left alone at least that has refused twice in a row, though it asks for less."""
_MOST_DOUBLINGS = 10
_LOOK_S = 1.0
_ANOTHER_START_S = 1.0
"""Starts that differ by less are one: some engines compute theirs from how long they have been running."""


class Fleet:
    """The workers by id, in configuration order.

    `version`, which no two fleets ever have in common, grows when the set of workers or anything but load, status and
    figures changes; `touched` holds the workers whose load, status or figures changed since its reader last emptied it,
    `altered` those of which more than that may have changed: how they stand. Both are for `seen.Watch`. `ramping` holds
    those in slow start. `looked_at` changes when the ages of reports and the figures of the last minute were brought up
    to date.

    Args:
        rng: spreads the ends of ejections; without it, all last exactly as long as the rules say.
    """

    def __init__(self, rules: HealthRules | None = None, rng: Random | None = None) -> None:
        self.rules = rules or HealthRules()
        self.workers: dict[str, Worker] = {}
        self.ordered: list[Worker] = []
        self.version = next_version()
        self.touched: set[Worker] = set()
        self.altered: set[Worker] = set()
        self.ramping: set[Worker] = set()
        self._ejected: set[Worker] = set()
        self._cooling: set[Worker] = set()
        self._rng = rng
        self.looked_at = -_NEVER

    def configure(self, specs: Iterable[WorkerSpec]) -> None:
        """Takes a new list of workers. What was learned of those that stay is kept; those that go finish their jobs."""
        before = self.workers
        self.workers = {}
        for spec in specs:
            worker = before.get(spec.id)
            if worker is None or worker.url != spec.url:
                worker = Worker(spec)
            elif worker.spec != spec:
                if worker.spec.engine != spec.engine:
                    worker.learned = msgspec.structs.replace(worker.learned, engine=None, speaks=None)
                worker.describe(spec)
                self._fit(worker)
            self.workers[spec.id] = worker
        for worker in before.values():
            if self.workers.get(worker.id) is not worker:
                worker.index = -1
                for group in (self.touched, self.altered, self.ramping, self._ejected, self._cooling):
                    group.discard(worker)
        self.ordered = list(self.workers.values())
        for index, worker in enumerate(self.ordered):
            worker.index = index
        self.version = next_version()

    # What probes show

    def apply(self, report: Report) -> None:
        """Takes what a probe showed. What the operator said of a worker is not overwritten."""
        worker = self.workers.get(report.worker_id)
        if worker is None:
            return
        now = worker.probed_at = report.taken_at
        if _is_another_process(worker, report):
            self._restarted(worker)
        health = worker.health
        if health.probed(report.reachable, self.rules):
            worker.generation += 1
            self._ramp(worker, now)
        elif report.reachable and health.half_open and self._trial_is_over(health, now):
            self._half_open_ends(worker, now)
        if report.reachable:
            self._learn(worker, report)
            _take_figures(worker, report)
        self._refresh(worker, now)

    def _learn(self, worker: Worker, report: Report) -> None:
        """What the operator did not say. If any of it is new, so is the fleet."""
        known = old = worker.learned
        if report.engine is not None and old.engine not in (None, report.engine):
            old = Learned(vram=old.vram)                       # another program was started in its place
        learned = Learned(
            report.engine or old.engine,
            report.speaks or old.speaks,
            old.models if report.models is None else report.models,
            old.loaded if report.loaded is None else report.loaded,
            old.loras if report.loras is None else report.loras,
            old.vram if report.vram is None else report.vram,
            report.slots or old.slots,
            report.most if report.slots else old.most,
        )
        if learned == known:
            return
        seen = (worker.speaks, worker.engine, worker.models, worker.loaded, worker.loras, worker.vram, worker.capacity)
        worker.learned = learned
        worker.describe(worker.spec)
        new = (worker.speaks, worker.engine, worker.models, worker.loaded, worker.loras, worker.vram, worker.capacity)
        if seen != new:
            self.version = next_version()

    def _restarted(self, worker: Worker) -> None:
        worker.restarts += 1
        worker.generation += 1
        measure.forget(worker)
        worker.forget_figures()

    def hear(self, worker_id: str, machine: Machine, now: float) -> None:
        """Takes what a worker's machine measures itself."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return
        worker.machine = machine
        worker.temperature_c = worker.watts = worker.owner_active = None
        if machine.vram is not None and machine.vram != worker.learned.vram:
            worker.learned = msgspec.structs.replace(worker.learned, vram=machine.vram)
            worker.describe(worker.spec)
            self.version = next_version()
        _add_machine(worker, now)
        self._refresh(worker, now)

    # What traffic shows

    def sent(self, worker: Worker, now: float) -> None:
        """A job was given to this worker. Called in the same step as the decision, before anything awaits."""
        worker.in_flight += 1
        if worker.half_open:
            worker.health.trial_at = now
            self._refresh(worker, now)
        else:
            self._fit(worker)

    def finished(
        self,
        worker: Worker,
        failure: Failure | None,
        now: float,
        sent: float = _NEVER,
        ttft_s: float | None = None,
        tokens: int | None = None,
    ) -> None:
        """That job has left the worker again, well or badly. Exactly one call for each `Fleet.sent`.

        Args:
            sent: when it was sent; left out for an answer whose time tells nothing.
            ttft_s: from then until the first content of a stream.
            tokens: how many the answer had.
        """
        worker.in_flight -= 1
        if failure is None:
            worker.served += 1
            if sent <= now:
                measure.observe(worker, now, now - sent, ttft_s, tokens)
            if worker.health.troubled:
                self._recovered(worker, now)
            else:
                self._fit(worker)
            return
        health = worker.health
        if failure.blame:
            worker.failed += 1
            in_a_row = health.failed(failure.code == "upstream_connect_failed", now, self.rules, sent)
            if (in_a_row or self._fails_often(worker)) and self._may_eject(worker):
                self._eject(worker, now)
        if health.trial_at is not None and sent >= health.trial_at:
            health.trial_at = None                           # the trial told nothing, or must not eject: another may go
        self._refresh(worker, now)

    def cool_down(self, worker: Worker, seconds: float, now: float) -> None:
        """The worker itself has asked to be left alone for so long, with a 429 or 503: strategies do so.

        One that refuses again each time that it is asked again is left alone for twice as long each time, and then
        tried with one request: it would else be sent all who wait, whenever its time is over, and nobody be served. As
        with ejections, that needs others who can do its work: of the only one, clients get its own answer.
        """
        health, cap_s = worker.health, self.rules.cool_down_cap_s
        if cap_s <= 0.0:
            return
        if now >= worker.cooling_until:                       # else one more answer of the same time
            health.troubled = True
            health.refusals = health.refusals + 1 if not health.refusals or self._may_eject(worker) else 1
        if health.refusals > 1:
            seconds = max(seconds, _LEAST_REST_S) * 2 ** min(health.refusals - 1, _MOST_DOUBLINGS)
        worker.cooling_until = max(worker.cooling_until, now + max(0.0, min(seconds, cap_s)))
        if worker.index >= 0:
            self._cooling.add(worker)
        self._refresh(worker, now)

    def _fails_often(self, worker: Worker) -> bool:
        bad, answers = worker.window.errors(worker)
        return answers >= self.rules.error_rate_requests and bad >= self.rules.error_rate * answers

    def _may_eject(self, worker: Worker) -> bool:
        """At most a share of all workers and of each model's, and never the last one of a model that can be used. The
        others are used though they fail: a bad prompt must not become an outage."""
        if worker.index < 0:
            return False
        share, others = self.rules.max_ejected, [other for other in self.ordered if other is not worker]
        if len(self._ejected - {worker}) + 1 > share * len(self.ordered):
            return False
        for model in worker.models or (None,):
            pool = [other for other in others if model is None or other.serves(model)]
            out = sum(other in self._ejected for other in pool)
            if out + 1 > share * (len(pool) + 1) or not any(other.standing in (READY, BUSY) for other in pool):
                return False
        return True

    def _eject(self, worker: Worker, now: float) -> None:
        worker.health.eject(now, self.rules, 1.0 if self._rng is None else 0.8 + 0.4 * self._rng.random())
        worker.window.forget()                               # it comes back with a clean record
        worker.window.roll(worker, now)
        self._full_weight(worker)
        self._ejected.add(worker)

    def _recovered(self, worker: Worker, now: float) -> None:
        """A good answer clears what failures had noted."""
        health = worker.health
        was_half_open = health.half_open
        health.answered()
        if was_half_open:
            self._ramp(worker, now)
        self._refresh(worker, now)

    def _trial_is_over(self, health: Health, now: float) -> bool:
        """Nothing is tried, or for so long without a failure that nobody need wait for the end of a long answer. That a
        worker takes requests again which it refused, no probe can show."""
        if health.trial_at is None:
            return health.refusals < 2
        return now - health.trial_at >= self.rules.ejection_s

    def _half_open_ends(self, worker: Worker, now: float) -> None:
        """A probe has found it well after its ejection. The next failure of a request still ejects it at once."""
        worker.health.half_open, worker.health.trial_at, worker.health.refusals = False, None, 0
        self._ramp(worker, now)

    # Slow start

    def _ramp(self, worker: Worker, now: float) -> None:
        """A worker that comes back gets its share little by little: its caches are cold, and it may fail again."""
        if self.rules.slow_start_s > 0:
            worker.ramp_from, worker.weight = now, _FIRST_WEIGHT
            self.ramping.add(worker)

    def _grow(self, worker: Worker, now: float) -> None:
        length_s, begun = self.rules.slow_start_s, now if worker.ramp_from is None else worker.ramp_from
        if now - begun >= length_s:
            self._full_weight(worker)
        else:
            worker.weight = _FIRST_WEIGHT + (1.0 - _FIRST_WEIGHT) * max(0.0, now - begun) / length_s
        self._alter(worker)

    def _full_weight(self, worker: Worker) -> None:
        worker.ramp_from, worker.weight = None, 1.0
        self.ramping.discard(worker)

    # Leaving

    def drain(self, worker_id: str) -> None:
        """The worker gets nothing new and finishes what it has. Raises KeyError."""
        self._set_draining(self.workers[worker_id], True)

    def undrain(self, worker_id: str) -> None:
        """Takes that back. Raises KeyError."""
        self._set_draining(self.workers[worker_id], False)

    def _set_draining(self, worker: Worker, draining: bool) -> None:
        worker.draining = draining
        if worker.standing in (READY, BUSY, DRAINING):
            worker.standing = DRAINING if draining else BUSY if worker.held else READY
            worker.half_open = worker.health.half_open and not draining
        self._alter(worker)

    # Time

    def tick(self, now: float) -> None:
        """Lets ejections, cool-downs and slow starts go on, and what is too old be forgotten. Called about twice a
        second."""
        for worker in [worker for worker in self._ejected if worker.health.ejected_until <= now]:
            self._ejected.discard(worker)
            worker.health.half_open = True
            self._refresh(worker, now)
        for worker in [worker for worker in self._cooling if worker.cooling_until <= now]:
            self._cooling.discard(worker)
            worker.health.half_open = worker.health.half_open or worker.health.refusals > 1
            self._refresh(worker, now)
        for worker in list(self.ramping):
            self._grow(worker, now)
        if not 0.0 <= now - self.looked_at < _LOOK_S:
            self.looked_at = now
            self._look(now)

    def _look(self, now: float) -> None:
        for worker in self.ordered:
            shown = (worker.tokens_per_s, worker.error_rate)
            if measure.look(worker, now):
                self.version = next_version()
            if shown != (worker.tokens_per_s, worker.error_rate):
                self.touched.add(worker)
            if worker.machine is not None and worker.machine.until < now:
                worker.machine = None
                worker.vram_used = worker.temperature_c = worker.watts = worker.owner_active = None
                self._refresh(worker, now)
            if worker.reported_at is None:
                continue
            age_s = max(0.0, now - worker.reported_at)
            if age_s > self.rules.stale_s:
                worker.forget_figures()
                _add_machine(worker, now)
                self._refresh(worker, now)
            elif worker.load_age_s is not None:
                worker.load_age_s = age_s

    # Reading

    def shadow(self) -> Fleet:
        """The same workers for one more reader, which may empty its `touched` and `altered` and change nothing else."""
        other = Fleet(self.rules)
        other.workers, other.ordered, other.version = self.workers, self.ordered, self.version
        other.ramping, other.looked_at = self.ramping, self.looked_at
        return other

    def models(self) -> dict[str, list[str]]:
        """{model name: ids of the workers that list it}, in fleet order; offline workers' models included."""
        found: dict[str, list[str]] = {}
        for worker in self.ordered:
            for model in worker.models:
                found.setdefault(model, []).append(worker.id)
        return found

    # Status and load

    def _refresh(self, worker: Worker, now: float) -> None:
        """Anything may have changed: is the worker usable?"""
        health, rules = worker.health, self.rules
        worker.cooling = worker.cooling_until > now
        worker.held = worker.cooling or (rules.yield_to_owner and worker.owner_active is True)
        if not health.usable(now):
            worker.standing = OFFLINE
        elif worker.draining:
            worker.standing = DRAINING
        else:
            worker.standing = BUSY if worker.held else READY
        worker.half_open = health.half_open and worker.standing in (READY, BUSY)
        if worker.ramp_from is not None and not health.reachable:
            self._full_weight(worker)
        self._alter(worker)

    def _alter(self, worker: Worker) -> None:
        """More of it has changed than how many requests are there."""
        if worker.index >= 0:
            self.altered.add(worker)
        self._fit(worker)

    def _fit(self, worker: Worker) -> None:
        """The number of requests there, or how many fit, has changed."""
        occupied, capacity = worker.in_flight + worker.foreign + worker.shut, worker.capacity
        standing = worker.standing
        worker.status = standing if standing != READY or occupied < capacity else BUSY
        if worker.weight < 1.0:
            occupied = _slowed(occupied, capacity, worker.weight)
        worker.occupied = occupied
        worker.load = occupied / capacity
        if worker.index >= 0:
            self.touched.add(worker)


def _slowed(occupied: int, capacity: int, weight: float) -> int:
    """How many requests a worker in slow start seems to have: more than it has, and never so few that it looks idle. A
    whole number, so that scripts compute the same load."""
    return min(_MOST_OCCUPIED, max(int(occupied / weight), round((1.0 - weight) * capacity)))


def _is_another_process(worker: Worker, report: Report) -> bool:
    """Was the engine restarted since its last report? Its start changed, or a counter went backwards."""
    if report.started_at is not None:
        before, worker.started_at = worker.started_at, report.started_at
        if before is not None and abs(before - report.started_at) >= _ANOTHER_START_S:
            return True
    return any(
        old is not None and new is not None and new < old
        for old, new in (
            (worker.generated_tokens, report.generated_tokens), (worker.prompt_tokens, report.prompt_tokens),
            (worker.cached_tokens, report.cached_tokens),
        )
    )  # fmt: skip


def _add_machine(worker: Worker, now: float) -> None:
    """The machine knows better than the engine: it sees what others use of it."""
    machine = worker.machine
    if machine is not None and now <= machine.until:
        for name in ("vram_used", "temperature_c", "watts", "owner_active"):
            value = getattr(machine, name)
            if value is not None:
                setattr(worker, name, value)


def _take_figures(worker: Worker, report: Report) -> None:
    """What the engine says of itself. What it does not say now is not known: an old value would be taken for a true
    one. Requests of ours that it counts as well are not foreign."""
    before, before_at = worker.generated_tokens, worker.reported_at
    if report.generated_tokens is not None and before is not None and before_at is not None and report.running:
        measure.learn_from_counters(
            worker, report.generated_tokens - before, report.running, report.taken_at - before_at
        )
    worker.running, worker.waiting = report.running, report.waiting
    worker.kv_usage, worker.vram_used = report.kv_usage, report.vram_used
    worker.temperature_c, worker.watts, worker.owner_active = report.temperature_c, report.watts, report.owner_active
    worker.generated_tokens, worker.prompt_tokens = report.generated_tokens, report.prompt_tokens
    worker.cached_tokens = report.cached_tokens
    worker.kv_blocks, worker.block_size = report.kv_blocks, report.block_size
    worker.reported_at = report.taken_at
    _add_machine(worker, report.taken_at)
    worker.shut = _shut(worker, report)
    if report.running is None and report.waiting is None:
        worker.foreign, worker.load_age_s = 0, None
        return
    ours = worker.in_flight if report.in_flight is None else report.in_flight
    worker.foreign = min(_MOST_FOREIGN, max(0, (report.running or 0) + (report.waiting or 0) - ours))
    worker.load_age_s = 0.0


def _shut(worker: Worker, report: Report) -> int:
    """Places that are there by its capacity, but not in truth: an engine in which many wait beside those that it works
    on has no room for more, be it that its KV cache is full. One or two that wait may just have come."""
    running, waiting = report.running, report.waiting
    if not running or not waiting or waiting < _WAITING_LEAST or 2 * waiting < running:
        return 0
    return max(0, worker.capacity - running)
