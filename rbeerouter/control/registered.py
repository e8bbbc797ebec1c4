"""Workers that announced themselves: who they are, until when, and what an operator or their own machine wants of them.

`server.registration` hands in what comes over the network, `server.discovery` lets them expire. Every change goes into
the roster and, as one row, into the store, so that a restart forgets nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import msgspec

from rbeerouter.config.sections import Secret
from rbeerouter.control.roster import REGISTERED, Roster
from rbeerouter.control.store import Store
from rbeerouter.core.types import WorkerSpec

NAME = REGISTERED


class Entry(msgspec.Struct, frozen=True):
    """One worker. expires_at is by the clock of `Registered`, None for one that stays until it is removed; yielding:
    the owner of its machine is at it, and the agent there asks for no new requests."""

    spec: WorkerSpec
    ttl_s: float | None
    expires_at: float | None
    yielding: bool = False


_decode = msgspec.json.Decoder(Entry).decode


class Registered:
    """All of them, by id.

    Args:
        now: seconds that no change of the machine's clock touches: all workers would expire at once.
    """

    def __init__(self, roster: Roster, store: Store, now: Callable[[], float]) -> None:
        self.entries: dict[str, Entry] = {}
        self._roster = roster
        self._store = store
        self._now = now

    def recall(self, kept: dict[str, bytes]) -> None:
        """Takes those of before a restart. Each has its whole time again: while the daemon was away, none could say
        that it is still there."""
        for worker_id, data in kept.items():
            try:
                entry = _decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._store.forget_registered(worker_id)
                continue
            spec = entry.spec
            if spec.api_key is not None:
                spec = msgspec.structs.replace(spec, api_key=Secret(spec.api_key))
            self.entries[worker_id] = msgspec.structs.replace(entry, spec=spec, expires_at=self._end(entry.ttl_s))
        self.tell()

    def register(self, spec: WorkerSpec, ttl_s: float | None) -> Future[None]:
        """A worker is new, has changed, or says that it is still there.

        Returns:
            Done when it is on disk.
        """
        before = self.entries.get(spec.id)
        yielding = before.yielding if before is not None else False
        return self._put(Entry(spec, ttl_s, self._end(ttl_s), yielding))

    def heard_of(self, worker_id: str, yielding: bool | None = None) -> bool:
        """It is still there. Returns False when it is not known (any more): then it must register again."""
        entry = self.entries.get(worker_id)
        if entry is None:
            return False
        wanted = entry.yielding if yielding is None else yielding
        heard = msgspec.structs.replace(entry, expires_at=self._end(entry.ttl_s), yielding=wanted)
        if wanted == entry.yielding:
            self.entries[worker_id] = heard                   # nothing that would have to be on disk
        else:
            self._put(heard)
        return True

    def remove(self, worker_id: str) -> bool:
        if self.entries.pop(worker_id, None) is None:
            return False
        self._store.forget_registered(worker_id)
        self.tell()
        return True

    def expire(self) -> list[str]:
        """Lets those go that were not heard of in time; their ids."""
        now = self._now()
        gone = [name for name, entry in self.entries.items() if entry.expires_at is not None and entry.expires_at < now]
        for worker_id in gone:
            del self.entries[worker_id]
            self._store.forget_registered(worker_id)
        if gone:
            self.tell()
        return gone

    def yielding(self) -> set[str]:
        return {worker_id for worker_id, entry in self.entries.items() if entry.yielding}

    def _end(self, ttl_s: float | None) -> float | None:
        return None if ttl_s is None else self._now() + ttl_s

    def _put(self, entry: Entry) -> Future[None]:
        self.entries[entry.spec.id] = entry
        self.tell()
        spec, key = entry.spec, entry.spec.api_key
        if key is not None:
            entry = msgspec.structs.replace(entry, spec=msgspec.structs.replace(spec, api_key=str(key)))
        return self._store.keep_registered(spec.id, msgspec.json.encode(entry))

    def tell(self) -> None:
        """Hands the list to the roster."""
        self._roster.put(NAME, [entry.spec for entry in self.entries.values()], REGISTERED)
