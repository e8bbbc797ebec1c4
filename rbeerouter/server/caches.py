"""What engines say of their own KV caches, where the configuration asks for it: listening to it, and reading prompts.

`server.daemon` builds one `Caches`. Where no worker tells, nothing is listened to, no prompt is read, and pyzmq need
not be there.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rbeerouter import tasks
from rbeerouter.config.sections import Config, ConfigError
from rbeerouter.control.kv_events import KvEvents, configured, need_zmq
from rbeerouter.control.tokenizers import Tokenizers
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.exact import Exact

if TYPE_CHECKING:
    from rbeerouter.server.daemon import Daemon


class Caches:
    """Follows the configuration.

    Attributes:
        kv_events, tokenizers: None where no worker tells.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.kv_events: KvEvents | None = None
        self.tokenizers: Tokenizers | None = None
        self._daemon = daemon
        self._running: asyncio.Task[None] | None = None

    def check(self, config: Config) -> None:
        """Raises ConfigError where workers are to be listened to, and nobody can."""
        if configured(config.routing.strategies.kv_events, config.workers):
            need_zmq()

    def apply(self) -> None:
        """Looks at configuration and workers, and listens to those that are to be listened to."""
        daemon = self._daemon
        options = daemon.config.routing.strategies.kv_events
        if not configured(options, daemon.discovery.roster.merged()):
            self.close()
            return
        try:
            need_zmq()                                         # a workers file may ask for it at any time
        except ConfigError as error:
            daemon.log.error("workers_refused", error=str(error))
            return
        exact = daemon.decider.memories.of(Exact)
        if self.kv_events is None or self.tokenizers is None:
            self.kv_events = KvEvents(daemon.fleet, exact, options, daemon.env, daemon.log.info)
            self.tokenizers = Tokenizers(
                self._may_have, exact, options, daemon.prober.sessions, daemon.env.now, self._reads
            )
            self._running = tasks.start("kv events", self.kv_events.run())
        self.kv_events.apply(exact, options)
        self.tokenizers.apply(exact, options)
        self.kv_events.allow = daemon.config.registration.allow
        daemon.listener.reader = self.tokenizers

    def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
        if self.kv_events is not None:
            self.kv_events.close()
        self.kv_events = self.tokenizers = self._running = None
        self._daemon.listener.reader = None

    def describe(self, worker_id: str) -> dict[str, Any] | None:
        """How it goes with a worker's events; None for one that is not listened to."""
        return self.kv_events.describe(worker_id) if self.kv_events is not None else None

    def _may_have(self, request: Request) -> list[Worker]:
        return self._daemon.decider.may_have(request)

    def _reads(self, request: Request) -> bool:
        return self._daemon.decider.goes_by_tokens(request)
