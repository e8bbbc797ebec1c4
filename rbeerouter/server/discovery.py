"""Where workers come from: builds the roster, its sources and the store, and runs what watches them.

`server.daemon` owns one `Discovery`, asks it who the workers are, and is told when that changes by `roster.changed`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rbeerouter import tasks
from rbeerouter.config.sections import Config, ConfigError
from rbeerouter.config.workers import read_workers_file
from rbeerouter.control import follow, registered, watched_file
from rbeerouter.control.dns_source import DnsSource, source_name
from rbeerouter.control.follow import Follower
from rbeerouter.control.registered import Registered
from rbeerouter.control.roster import CONFIG, CONTROLLER, Roster, Specs
from rbeerouter.control.store import Kept, StateError, Store
from rbeerouter.control.versions import Versions
from rbeerouter.control.watched_file import WatchedFile
from rbeerouter.core.types import Env
from rbeerouter.dialects.engines import ENGINES

_EXPIRE_S = 1.0
_AGAIN_S = 1.0


class Discovery:
    """All sources of workers.

    Raises:
        ConfigError: registration is on, and the state folder cannot be used.
    """

    def __init__(self, config: Config, env: Env, log: Callable[..., Any]) -> None:
        self._env = env
        self._log = log
        self._config = config
        self.store = Store(config.state_folder, log, lambda: time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
        self.roster = Roster(env.wall, log)
        self.registered = Registered(self.roster, self.store, env.now)
        self._tasks: list[asyncio.Task[Any]] = []
        self._file: WatchedFile | None = None
        self._asked: list[DnsSource | Follower] = []
        self._check_state(config)
        self._kept = self._recall()
        self.drained = set(self._kept.drained)
        self.registered.recall(self._kept.registered)
        self._configure(config)

    def drains(self) -> set[str]:
        """Who is to get nothing new: by an operator's word, here or at the controller, or because the owner of the
        machine is at it."""
        return self.drained | self.registered.yielding() | self._drained_by_controller()

    def _drained_by_controller(self) -> set[str]:
        """Of those that come from there alone: it has no say in others of the same name."""
        drained = {name for source in self._asked if isinstance(source, Follower) for name in source.draining}
        others = [source for source in self.roster.sources.values() if source.kind != CONTROLLER] if drained else []
        return drained - {spec.id for source in others for spec in source.specs}

    def drain(self, worker_id: str, drained: bool) -> Future[None]:
        """Takes an operator's word, which holds until it is taken back.

        Returns:
            Done when it is on disk, and everything before it.
        """
        (self.drained.add if drained else self.drained.discard)(worker_id)
        return self.store.set_drained(worker_id, drained)

    def trial(self, config: Config) -> Specs:
        """The workers as they would be with another configuration. Raises ConfigError."""
        self._check_state(config)
        instead: dict[str, Specs] = {CONFIG: config.workers, watched_file.NAME: ()}
        if config.discovery.workers_file:
            instead[watched_file.NAME] = read_workers_file(
                Path(config.discovery.workers_file), tuple(ENGINES)
            )
        instead |= {name: () for name in self.roster.sources if name not in self._names(config)}
        return self.roster.merged(instead)

    def apply(self, config: Config) -> None:
        """Takes another configuration. Sources that it does not name any more are forgotten."""
        before, self._config = self._config, config
        if config.registration.token is not None and before.registration.token is None:
            self.registered.tell()
        if config.discovery == before.discovery:
            self.roster.put(CONFIG, config.workers, CONFIG)
            if self._file:
                self._file.look()                             # `trial` has read it: what it says now is in use
            self.roster.keep_only(self._names(config))
            return
        running = bool(self._tasks)
        self.stop()
        old, new = before.discovery, config.discovery
        moved = [
            *([follow.NAME] if old.controller != new.controller else []),
            *([watched_file.NAME] if old.workers_file != new.workers_file else []),
        ]
        self.roster.keep_only(self.roster.sources.keys() - moved)
        self._configure(config)
        if running:
            self.start()

    async def first_look(self) -> None:
        """Asks every source once."""
        await asyncio.gather(*(source.look() for source in self._asked))

    def start(self) -> None:
        """Begins to watch."""
        sources = [*self._asked, *([self._file] if self._file else [])]
        self._tasks = [tasks.start(f"watch {type(source).__name__}", self._watch(source)) for source in sources]
        self._tasks.append(tasks.start("expiry of workers", self._expire()))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []

    def close(self) -> None:
        self.stop()
        self.store.close()

    def versions(self, most: int) -> Versions:
        """The scripts that were active, which are kept where all the rest is."""
        return Versions(self.store, self._kept.versions, most)

    def setting(self, name: str) -> str | None:
        """What was set at run time, and kept."""
        return self._kept.settings.get(name)

    def describe(self) -> dict[str, Any]:
        """What the control plane shows."""
        state = {"file": str(self.store.path), "problem": self.store.problem}
        return {"sources": self.roster.describe(), "state": state}

    def _configure(self, config: Config) -> None:
        settings, rng = config.discovery, self._env.rng
        self.roster.keep_only(self._names(config))
        self.roster.put(CONFIG, config.workers, CONFIG)
        self._file, self._asked = None, []
        if settings.workers_file:
            self._file = WatchedFile(Path(settings.workers_file), settings.file_s, self.roster)
            self._file.look()
        if settings.controller:
            follower = Follower(settings, self.roster, self.store, rng)
            follower.recall(self._kept.lists)
            self._asked.append(follower)
        self._asked += [DnsSource(entry, self.roster, rng) for entry in settings.dns]

    @staticmethod
    def _names(config: Config) -> set[str]:
        """The sources that a configuration has."""
        settings = config.discovery
        return {
            CONFIG, *map(source_name, settings.dns),
            *([watched_file.NAME] if settings.workers_file else []),
            *([follow.NAME] if settings.controller else []),
            *([registered.NAME] if config.registration.token else []),
        }  # fmt: skip

    def _check_state(self, config: Config) -> None:
        if config.registration.token is not None:
            try:
                self.store.require()
            except StateError as error:
                raise ConfigError(f"{error}; [registration] needs it") from None

    def _recall(self) -> Kept:
        try:
            return self.store.load()
        except StateError as error:
            self.store.problem = str(error)
            self._log("state_not_kept", file=str(self.store.path), error=str(error))
            return Kept()

    async def _watch(self, source: WatchedFile | DnsSource | Follower) -> None:
        """Runs a source for ever: a defect may cost one look, not all that come after it."""
        while True:
            try:
                await source.run()
            except Exception as error:
                what = f"{type(source).__name__} could not look"
                self._log("unexpected", message=what, error=repr(error))
                await asyncio.sleep(_AGAIN_S)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_S)
            for worker_id in self.registered.expire():
                self._log("worker_expired", worker=worker_id)
