"""The one way by which workers come and go: new ones are looked at first, then fleet and pools change in one step.

`server.daemon` uses it for a reload and whenever a source of workers has another list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from rbeerouter.config.sections import Limits
from rbeerouter.control.probe import Prober
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Report, WorkerSpec
from rbeerouter.wire.upstream import Pool, Pools


class Change(NamedTuple):
    """A list of workers, ready to be used."""

    specs: tuple[WorkerSpec, ...]
    pools: dict[str, Pool]
    reports: list[Report]


class Staff:
    """Changes who works.

    Args:
        drained: ids of the workers that are to get nothing new.
    """

    def __init__(self, fleet: Fleet, pools: Pools, prober: Prober, drained: Callable[[], set[str]]) -> None:
        self._fleet = fleet
        self._pools = pools
        self._prober = prober
        self._drained = drained

    def differs(self, specs: tuple[WorkerSpec, ...]) -> bool:
        return specs != tuple(worker.spec for worker in self._fleet.ordered)

    def pools(
        self, specs: tuple[WorkerSpec, ...], limits: Limits, allow: Iterable[str], keep: bool = True
    ) -> dict[str, Pool]:
        """The pools for these workers; those of workers that stay as they are are kept, if that is wanted. Raises
        ConfigError."""
        return Pools.prepare(specs, limits, allow, self._pools if keep else None)

    async def look(self, specs: tuple[WorkerSpec, ...], pools: dict[str, Pool]) -> Change:
        """Probes those that are new or have moved."""
        known = {worker.id: worker.url for worker in self._fleet.ordered}
        reports = await self._prober.look(spec for spec in specs if known.get(spec.id) != spec.url)
        return Change(specs, pools, reports)

    def take(self, change: Change) -> tuple[list[str], list[str]]:
        """One synchronous step: a request sees all of the old or all of the new. Who goes finishes what it has.

        Returns:
            The ids of those that came, and of those that went.
        """
        before = set(self._fleet.workers)
        self._fleet.configure(change.specs)
        for report in change.reports:
            self._fleet.apply(report)
        self._pools.swap(change.pools)
        self.apply_drains()
        now = self._fleet.workers
        return [worker_id for worker_id in now if worker_id not in before], sorted(before - now.keys())

    def apply_drains(self) -> None:
        """Brings every worker's standing in line with who is to be drained."""
        drained = self._drained()
        for worker in self._fleet.ordered:
            if (worker.id in drained) != worker.draining:
                change = self._fleet.drain if worker.id in drained else self._fleet.undrain
                change(worker.id)
