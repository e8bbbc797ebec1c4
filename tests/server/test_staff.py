"""Tests of how workers come and go: looked at first, changed in one step, with pools that outlive what stays the same."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from rbeerouter.config.sections import Limits, Probes
from rbeerouter.control.probe import Prober
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Env, WorkerSpec
from rbeerouter.server.staff import Staff
from rbeerouter.wire.upstream import Pools
from tests.support.aio import story
from tests.support.fault_worker import FaultWorker


class Case:
    def __init__(self) -> None:
        self.fleet, self.pools, self.drained = Fleet(), Pools({}), set[str]()
        self.prober = Prober(self.fleet, Probes(), Env(time.monotonic, time.time, random.Random(1)))
        self.staff = Staff(self.fleet, self.pools, self.prober, lambda: self.drained)

    async def change(self, *specs: WorkerSpec, **fields: Any) -> tuple[list[str], list[str]]:
        pools = self.staff.pools(specs, Limits(), (), **fields)
        return self.staff.take(await self.staff.look(specs, pools))


@story
async def test_new_workers_are_looked_at_before_they_are_used_and_others_are_left_alone() -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b:
        case = Case()
        first, second = WorkerSpec("a", a.url), WorkerSpec("b", b.url)
        assert await case.change(first) == (["a"], [])
        assert case.fleet.workers["a"].status == "ready"
        asked, kept = len(a.requests), case.pools.of(case.fleet.workers["a"])
        assert case.staff.differs((first, second)) and not case.staff.differs((first,))
        assert await case.change(first, second) == (["b"], [])
        assert [worker.status for worker in case.fleet.ordered] == ["ready", "ready"]
        assert (len(a.requests), case.pools.of(case.fleet.workers["a"]) is kept) == (asked, True)
        old = case.fleet.workers["a"]
        assert await case.change(second) == ([], ["a"])
        assert case.pools.of(old) is None
        await case.prober.close()


@story
async def test_a_changed_worker_has_a_new_pool_and_a_reload_gives_all_new_ones() -> None:
    async with FaultWorker(name="a") as a:
        case = Case()
        await case.change(WorkerSpec("a", a.url))
        pool = case.pools.of(case.fleet.workers["a"])
        assert pool is not None
        await case.change(WorkerSpec("a", a.url, api_key="other"))
        other = case.pools.of(case.fleet.workers["a"])
        assert other is not pool
        await case.change(WorkerSpec("a", a.url, api_key="other"), keep=False)
        assert case.pools.of(case.fleet.workers["a"]) is not other
        connection = await pool.connect()
        connection.keep_alive = True
        pool.give_back(connection, asyncio.get_running_loop().time())
        assert pool.idle == [], "a pool that was replaced keeps nothing"
        await case.prober.close()


@story
async def test_a_worker_that_comes_back_is_still_drained() -> None:
    async with FaultWorker(name="a") as a:
        case = Case()
        case.drained.add("a")
        await case.change(WorkerSpec("a", a.url))
        assert case.fleet.workers["a"].status == "draining"
        await case.change()
        await case.change(WorkerSpec("a", a.url))
        assert case.fleet.workers["a"].status == "draining"
        case.drained.clear()
        case.staff.apply_drains()
        assert case.fleet.workers["a"].status == "ready"
        await case.prober.close()
