"""The last scripts that were active, with who made them so: what `rollback` can go back to.

`server.daemon` owns one `Versions` and tells it of every script that takes over; the store makes it outlive a restart.
Where the state folder cannot be written, the list is in memory alone, and the store has told so once. It never decides
what is loaded.
"""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import Future

from rbeerouter.control.store import Store, Version

EDITED = "edited"
"""How a text came here that never was active: it stood in the file as another one was put there."""
SHOWN_DIGITS = 12
"""Of a hash; scripts are named by so many everywhere."""
_LEAST_DIGITS = 4
_HASH = re.compile(rf"[0-9a-f]{{{_LEAST_DIGITS},64}}")


class UnknownVersion(Exception):
    """There is no such version, or more than one; the message says what there is."""


class Versions:
    """Each text once, in the order in which it was active last.

    Args:
        kept: what the store had, oldest first.
        most: how many to keep, the active one included.
    """

    def __init__(self, store: Store, kept: tuple[Version, ...], most: int) -> None:
        self._store = store
        self.kept: Future[None] | None = None                 # done when the last change is on the disk
        self._most = most
        self._versions = list(kept)
        self._forget()

    @property
    def problem(self) -> str | None:
        """Why the list would not outlive a restart."""
        return self._store.problem

    def newest_first(self) -> list[Version]:
        return self._versions[::-1]

    def keep(self, most: int) -> None:
        """From here on so many."""
        self._most = most
        self._forget()

    def became_active(self, text: bytes, who: str, how: str, at: float) -> None:
        """Notes a script that took over. One that was the last to do so is not noted again: who did it, did it."""
        hash_ = full_hash(text)
        last = next((one for one in reversed(self._versions) if one.how != EDITED), None)
        if last is None or last.hash != hash_:
            self._put(Version(hash_, at, who, how, text))

    def overwritten(self, text: bytes, who: str, at: float) -> None:
        """Keeps a text that nobody has loaded, before it is gone. One that is known need not be kept again."""
        hash_ = full_hash(text)
        if all(one.hash != hash_ for one in self._versions):
            self._put(Version(hash_, at, who, EDITED, text))

    def find(self, wanted: str) -> Version:
        """The version of a hash, or of its beginning. Raises UnknownVersion."""
        digits = wanted.lower()
        if not _HASH.fullmatch(digits):
            shown = wanted if len(wanted) <= 70 else wanted[:70] + "..."
            raise UnknownVersion(f"{shown!r}: expected {_LEAST_DIGITS} to 64 hex digits, as in the list of versions")
        found = [one for one in self._versions if one.hash.startswith(digits)]
        if len(found) == 1:
            return found[0]
        if found:
            which = ", ".join(one.hash[:SHOWN_DIGITS] for one in found)
            raise UnknownVersion(f"{wanted}: more than one version begins so: {which}")
        raise UnknownVersion(f"{wanted}: no version that is kept begins so")

    def before(self, active: bytes | None) -> Version:
        """The one that was active before this text. Raises UnknownVersion."""
        hash_ = full_hash(active) if active is not None else None
        for one in reversed(self._versions):
            if one.how != EDITED and one.hash != hash_:
                return one
        raise UnknownVersion("there is no earlier version to go back to")

    def _put(self, version: Version) -> None:
        self._versions = [one for one in self._versions if one.hash != version.hash]
        self._versions.append(version)
        self.kept = self._store.keep_version(version)
        self._forget()

    def _forget(self) -> None:
        while len(self._versions) > self._most:
            self._store.forget_version(self._versions.pop(0).hash)


def full_hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
