"""The exchanges of the jobs that wait for a worker, and the one place that tells them what becomes of them.

Who waits, in which order and for how long is `core.queue`'s; this finds the exchange of each job and makes it perform
what `Dispatcher.on_tick` says. `wire.exchange` calls it when a job has freed a slot, the listener twice a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from rbeerouter.core.dispatch import Dispatcher, Job

if TYPE_CHECKING:
    from rbeerouter.wire.exchange import Exchange


class Waiters:
    """The waiting exchanges by their jobs."""

    def __init__(self, dispatcher: Dispatcher, now: Callable[[], float]) -> None:
        self._dispatcher = dispatcher
        self._now = now
        self._exchanges: dict[Job, Exchange] = {}
        self._admitting = self._stopped = False

    def add(self, exchange: Exchange) -> None:
        self._exchanges[exchange.job] = exchange

    def remove(self, exchange: Exchange) -> None:
        """An exchange ends by itself; one that does not wait is no fault."""
        self._exchanges.pop(exchange.job, None)

    def admit(self) -> None:
        """Lets go those who have a worker now, or have waited too long.

        What one of them does may free a slot at once (its worker cannot be had after all), and ends up here again:
        that is left to the loop, as calls within calls would go as deep as the queue is long.
        """
        if self._admitting or self._stopped:
            return
        self._admitting = True
        try:
            while effects := self._dispatcher.on_tick(self._now()):
                for job, effect in effects:
                    try:
                        self._exchanges.pop(job).perform(effect)
                    except Exception as error:                # a defect with one must not forget the others
                        report("a request that waited could not go on", error)
        finally:
            self._admitting = False

    def stop(self) -> None:
        """Nobody is let go any more, as the daemon is about to end them all."""
        self._stopped = True

    def tick(self) -> None:
        """Called twice a second: workers come back by themselves, and time passes."""
        dispatcher = self._dispatcher
        if dispatcher.waiting:
            self.admit()
        if dispatcher.fault is not None:
            fault, dispatcher.fault = dispatcher.fault, None
            report("a finished request could not be told to the script", fault)


def report(message: str, error: Exception) -> None:
    """Into the log of what no one caught."""
    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
