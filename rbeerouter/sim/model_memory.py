"""Which models a simulated worker has in memory, and when the next one is there. `engine.Engine` asks it.

As Ollama's scheduler does (ollama/server/sched.go): one model loads at a time, the model that was idle longest makes
room, one with requests stays, and whoever needs a model that cannot be loaded yet is waited for by all behind him. It
knows no requests but by their number; times are seconds of simulated time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rbeerouter.sim.types import Footprint, Profile

NOTHING = Footprint()


class ModelMemory:
    """loads: how many were brought into memory since the start. loading: the model under way, there at `ready_s`.

    users: {model in memory: requests on it}; used_s: {model: when it was last used}.
    """

    __slots__ = ("_footprints", "_profile", "_room_gib", "loading", "loads", "ready_s", "used_s", "users")

    def __init__(
        self, profile: Profile, footprints: dict[str, Footprint], models: Iterable[str], loaded: Iterable[str] | None
    ) -> None:
        self._profile = profile
        self._room_gib = math.inf if profile.memory_gib is None else profile.memory_gib
        self._footprints = footprints
        self.users: dict[str, int] = {}
        self.used_s: dict[str, float] = {}
        self.loading: str | None = None
        self.ready_s = math.inf
        self.loads = 0
        for model in models if loaded is None else loaded:
            if loaded is not None or self._taken() + self._size(model) <= self._room_gib:
                self.users[model] = 0
                self.used_s[model] = 0.0

    def _size(self, model: str) -> float:
        return self._footprints.get(model, NOTHING).gib

    def _taken(self) -> float:
        return sum(self._size(model) for model in self.users)

    def has(self, model: str, now: float) -> bool:
        """Is it in memory, loading left out? One that was idle for too long has gone."""
        if model not in self.users or model == self.loading:
            return False
        return model in self.loaded(now)

    def loaded(self, now: float) -> tuple[str, ...]:
        """Those in memory, without one that loads. Those that were idle for `keep_alive_s` have gone by now."""
        keep = self._profile.keep_alive_s
        if keep is not None:
            idle = [model for model, users in self.users.items() if not users and model != self.loading]
            for model in idle:
                if self.used_s[model] + keep <= now:
                    self._unload(model)
        return tuple(model for model in self.users if model != self.loading)

    def _unload(self, model: str) -> None:
        del self.users[model], self.used_s[model]

    def load(self, model: str, now: float) -> bool:
        """Begins to load it, if none is loading and idle models can make room. One that is too large for the machine is
        loaded when it has all of it."""
        if self.loading is not None:
            return False
        self.loaded(now)
        idle = sorted((self.used_s[other], other) for other, users in self.users.items() if not users)
        busy = sum(self._size(other) for other, users in self.users.items() if users)
        if busy + self._size(model) > self._room_gib and len(idle) < len(self.users):
            return False
        for _, other in idle:
            if self._taken() + self._size(model) <= self._room_gib:
                break
            self._unload(other)
        self.users[model] = 0
        self.used_s[model] = now
        self.loading = model
        self.ready_s = now + self._profile.load_s + self._size(model) / self._profile.load_gib_per_s
        self.loads += 1
        return True

    def settle(self) -> None:
        """The model that was loading is there."""
        if self.loading is not None:
            self.used_s[self.loading] = self.ready_s
        self.loading = None
        self.ready_s = math.inf

    def take(self, model: str) -> None:
        """A request uses it, and keeps it in memory."""
        self.users[model] += 1

    def give_back(self, model: str, now: float) -> None:
        """A request that used it has ended."""
        self.users[model] -= 1
        self.used_s[model] = now

    def clear(self) -> None:
        """The machine crashed: nothing is in memory."""
        self.users.clear()
        self.used_s.clear()
        self.loading = None
        self.ready_s = math.inf
