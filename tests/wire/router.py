"""The router in the test's own event loop: every part that the daemon builds, without its process, signals and probes.

Called by the tests of the data plane: `async with router(tmp_path, worker) as under_test`. Limits are checked fifty
times a second instead of twice, so that tests of them are short. When the block ends, nothing may be in flight, no
connection may be open beyond the idle ones, no task may run, nothing may have failed unheard, and the log must agree
with the metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from rbeerouter import tasks
from rbeerouter.core.types import Report, Worker
from rbeerouter.server import daemon as daemon_module
from rbeerouter.server import metrics
from rbeerouter.server.daemon import Daemon
from rbeerouter.wire import listener as listener_module
from tests.support.daemon import Books, Sections, WorkerLike, config_text, metric_values, read_log, total, until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Answer, Body, Connection, HeaderPairs, get, post

SWEEP_S = 0.02


class Router:
    """A router that listens on `port`, and all that can be asked of it."""

    def __init__(self, daemon: Daemon, port: int, workers: tuple[WorkerLike, ...], log_path: Path) -> None:
        self.daemon = daemon
        self.port = port
        self.books = Books()
        self.unexpected: list[dict[str, Any]] = []
        self._given = [worker for worker in workers if isinstance(worker, FaultWorker)]
        self._log_path = log_path

    # Asking it.

    async def post(self, path: str, body: Body, headers: HeaderPairs = (), *, timeout_s: float = 10.0) -> Answer:
        """One request on a connection of its own, noted for the books."""
        return self.books.note(await post(self.port, path, body, headers, timeout_s=timeout_s))

    async def get(self, path: str, headers: HeaderPairs = ()) -> Answer:
        return await get(self.port, path, headers)

    def connect(self, **options: Any) -> Connection:
        return Connection(self.port, **options)

    # What it says.

    def worker(self, worker: FaultWorker | str) -> Worker:
        return self.daemon.fleet.workers[worker if isinstance(worker, str) else worker.name]

    def metrics(self) -> dict[Any, float]:
        return metric_values(metrics.page(self.daemon).decode())

    def requests(self) -> list[dict[str, Any]]:
        """The lines of the requests that have ended and were written."""
        metrics.page(self.daemon)
        self.daemon.log_file.flush()
        return [line for line in read_log(self._log_path) if line["event"] == "request"]

    async def wait_requests(self, count: int) -> list[dict[str, Any]]:
        """The lines of that many requests, in the order in which they ended."""
        await until(lambda: len(self.requests()) >= count, f"{count} requests in the log")
        lines = self.requests()
        assert len(lines) == count
        return lines

    async def wait_request(self) -> dict[str, Any]:
        """The line of the only request."""
        return (await self.wait_requests(1))[0]

    def idle_connections(self, worker: FaultWorker) -> int:
        return len(self.daemon.listener.pools.of(self.worker(worker)).idle)

    def client_connections(self) -> int:
        return len(self.daemon.listener.connections)

    # The invariant.

    async def check_books(self) -> None:
        await until(
            lambda: not any(worker.in_flight for worker in self.daemon.fleet.ordered), "nothing in flight", 2.0
        )
        await until(lambda: not self.client_connections(), "no client connection left", 2.0)
        for worker in self._given:
            if worker.name in self.daemon.fleet.workers:
                await until(
                    lambda worker=worker: worker.open_connections == self.idle_connections(worker),  # type: ignore[misc]
                    f"no connection to {worker.name} but the {self.idle_connections(worker)} idle ones",
                    2.0,
                )
        await until(lambda: not tasks._running, "no background task", 2.0)
        counted = total(self.metrics(), "rbeerouter_requests_total")
        await until(lambda: len(self.requests()) + self.daemon.log_file.lost >= counted, f"{counted} lines", 2.0)
        self.books.check(self.requests(), self.metrics())
        assert self.unexpected == []


@asynccontextmanager
async def router(
    folder: Path, *workers: WorkerLike, script: str | None = None, offline: Iterable[WorkerLike] = (), **sections: Sections
) -> AsyncIterator[Router]:
    """Run a router until the block ends, then check its books.

    Args:
        folder: for its files.
        script: the text of routing.lua.
        offline: those of the workers that are taken for unreachable.
        sections: tables of the configuration file, such as `limits={"gap_s": 1}`.
    """
    log_path = folder / "routing.log"
    sections["server"] = {"bind": "127.0.0.1:0", **sections.get("server", {})}
    sections["routing"] = {"log": str(log_path), **sections.get("routing", {})}
    if script is not None:
        sections["routing"]["script"] = "routing.lua"
        (folder / "routing.lua").write_text(script)
    path = folder / "config.toml"
    path.write_text(config_text(workers, **sections))

    def read() -> Any:
        return daemon_module.read_config(path, (), None, None)

    sweep_s, listener_module._SWEEP_S = listener_module._SWEEP_S, SWEEP_S
    made = Daemon(read(), read)
    try:
        port = await made.listener.open("127.0.0.1", 0)
        under_test = Router(made, port, workers, log_path)
        asyncio.get_running_loop().set_exception_handler(lambda _, context: under_test.unexpected.append(context))
        see_all(made, workers, offline)
        yield under_test
        await under_test.check_books()
    finally:
        listener_module._SWEEP_S = sweep_s
        made.listener.close()
        if made.listener._server is not None:
            made.listener._server.close()
        made.log_file.close()


def see_all(made: Daemon, workers: Iterable[WorkerLike], offline: Iterable[WorkerLike]) -> None:
    """Report each worker as a probe would, so that none has to run."""
    for worker, given in zip(made.fleet.ordered, workers, strict=True):
        models = tuple(given.models) if isinstance(given, FaultWorker) else None
        for _ in range(made.fleet.rules.fall):
            made.fleet.apply(Report(worker.id, given not in offline, models, made.env.now()))
