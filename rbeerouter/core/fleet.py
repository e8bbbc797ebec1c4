"""All that is known of the workers, and the only code that changes it.

`control.probe` reports into it, `Dispatcher` counts in it, `routing` reads it. Every change happens in one
synchronous step, so whoever reads between two awaits sees one consistent fleet.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from rbeerouter.core.errors import Failure
from rbeerouter.core.health import HealthRules
from rbeerouter.core.types import BUSY, OFFLINE, READY, Report, Worker, WorkerSpec

_versions = itertools.count()
_NEVER = float("inf")
_NEWEST = 0.2
"""What the newest answer weighs in a moving average: after ten others, a tenth of an old one is left."""


class Fleet:
    """The workers by id, in configuration order.

    `version`, which no two fleets ever have in common, grows when the set of workers or anything but load and status
    changes; `touched` holds the workers whose load or status changed since its reader (the script's mirror of the
    fleet) last emptied it.
    """

    def __init__(self, rules: HealthRules | None = None) -> None:
        self.rules = rules or HealthRules()
        self.workers: dict[str, Worker] = {}
        self.ordered: list[Worker] = []
        self.version = next(_versions)
        self.touched: set[Worker] = set()
        self._ejected: set[Worker] = set()

    def configure(self, specs: Iterable[WorkerSpec]) -> None:
        """Takes a new list of workers. What was learned of those that stay is kept; those that go finish their jobs."""
        before = self.workers
        self.workers = {}
        for spec in specs:
            worker = before.get(spec.id)
            if worker is None or worker.url != spec.url:
                worker = Worker(spec)
            elif worker.spec != spec:
                learned = () if worker.spec.models else worker.listed
                engine, speaks, same = worker.engine, worker.speaks, worker.spec.engine == spec.engine
                worker.describe(spec)
                if same:
                    worker.engine, worker.speaks = engine, speaks
                if not spec.models:
                    worker.learn_models(learned)
                self._fit(worker)
            self.workers[spec.id] = worker
        for worker in before.values():
            if self.workers.get(worker.id) is not worker:
                worker.index = -1
                self.touched.discard(worker)
                self._ejected.discard(worker)
        self.ordered = list(self.workers.values())
        for index, worker in enumerate(self.ordered):
            worker.index = index
        self.version = next(_versions)

    def apply(self, report: Report) -> None:
        """Takes what a probe showed. Models that the operator listed are not overwritten."""
        worker = self.workers.get(report.worker_id)
        if worker is None:
            return
        worker.probed_at = report.taken_at
        # What the engine does not say now is not known: an old value would be taken for a true one.
        worker.waiting, worker.kv_usage, worker.vram_used = report.waiting, report.kv_usage, report.vram_used
        worker.health.probed(report.reachable, self.rules)
        if report.engine is not None and report.engine != worker.engine:
            worker.engine = report.engine
            self.version = next(_versions)
        worker.speaks = report.speaks or worker.speaks
        if report.models is not None and not worker.spec.models and report.models != worker.listed:
            worker.learn_models(report.models)
            self.version = next(_versions)
        self._refresh(worker, report.taken_at)

    def sent(self, worker: Worker, now: float) -> None:
        """A job was given to this worker. Called in the same step as the decision, before anything awaits."""
        worker.in_flight += 1
        self._fit(worker)

    def finished(
        self, worker: Worker, failure: Failure | None, now: float, sent: float = _NEVER, ttft_s: float | None = None
    ) -> None:
        """That job has left the worker again, well or badly. Exactly one call for each `Fleet.sent`.

        Args:
            sent: when it was sent; left out for an answer whose time tells nothing.
            ttft_s: from then until the first content of a stream.
        """
        worker.in_flight -= 1
        if failure is None:
            worker.served += 1
            if sent <= now:
                latency_ms, known = (now - sent) * 1000, worker.latency_ms
                worker.latency_ms = latency_ms if known is None else known + _NEWEST * (latency_ms - known)
                if ttft_s is not None:
                    ttft_ms, known = ttft_s * 1000, worker.ttft_ms
                    worker.ttft_ms = ttft_ms if known is None else known + _NEWEST * (ttft_ms - known)
            health = worker.health
            if health.failures or health.ejections:
                health.answered()
            self._fit(worker)
            return
        if failure.blame:
            worker.failed += 1
            worker.health.failed(failure.code == "upstream_connect_failed", now, self.rules, sent)
            if worker.health.ejected_until > now:
                self._ejected.add(worker)
        self._refresh(worker, now)

    def tick(self, now: float) -> None:
        """Lets ejections end. Called about twice a second."""
        if self._ejected:
            for worker in [worker for worker in self._ejected if worker.health.ejected_until <= now]:
                self._ejected.discard(worker)
                self._refresh(worker, now)

    def shadow(self) -> Fleet:
        """The same workers for one more reader, which may empty `touched` and must change nothing else."""
        other = Fleet(self.rules)
        other.workers, other.ordered, other.version = self.workers, self.ordered, self.version
        return other

    def models(self) -> dict[str, list[str]]:
        """{model name: ids of the workers that list it}, in fleet order; offline workers' models included."""
        found: dict[str, list[str]] = {}
        for worker in self.ordered:
            for model in worker.models:
                found.setdefault(model, []).append(worker.id)
        return found

    def _refresh(self, worker: Worker, now: float) -> None:
        """Health may have changed: is the worker usable?"""
        worker.status = READY if worker.health.usable(now) else OFFLINE
        self._fit(worker)

    def _fit(self, worker: Worker) -> None:
        """The number in flight, or how many fit, has changed."""
        in_flight, capacity = worker.in_flight, worker.capacity
        worker.load = in_flight / capacity
        if worker.status != OFFLINE:
            worker.status = READY if in_flight < capacity else BUSY
        if worker.index >= 0:
            self.touched.add(worker)
