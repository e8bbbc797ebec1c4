"""Which requests break workers? One that has ended two attempts on different workers is not tried on a third.

Called by whoever performs attempts, with a hash of the body that is computed only when an attempt has failed in a way
that a request can cause. While nothing is suspected, asking costs a request one look at an empty table.
"""

from __future__ import annotations

from collections import OrderedDict


class Poison:
    """Strikes by body, the oldest forgotten first.

    Args:
        strikes: on so many different workers until a body is refused; 0 refuses none.
        hold_s: how long a strike counts, and how long a body is refused.
        most: bodies that are remembered at once.

    Attributes:
        seen: empty as long as nothing is suspected, so that nobody needs to hash a body; to be read only.
    """

    def __init__(self, strikes: int = 2, hold_s: float = 60.0, most: int = 1000) -> None:
        self.strikes = strikes
        self.hold_s = hold_s
        self.most = most
        self.seen: OrderedDict[bytes, tuple[float, frozenset[str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.seen)

    def strike(self, body_hash: bytes, worker_id: str, now: float) -> bool:
        """An attempt with this body ended as poison would end it. Returns whether the body is refused from now on."""
        if not self.strikes:
            return False
        until, workers = self.seen.pop(body_hash, (now, frozenset()))
        workers = (workers if until > now else frozenset()) | {worker_id}
        self.seen[body_hash] = (now + self.hold_s, workers)
        while len(self.seen) > self.most:
            self.seen.popitem(last=False)
        return len(workers) >= self.strikes

    def refused(self, body_hash: bytes, now: float) -> bool:
        """Has this body had its strikes? It may be tried again when the time is over."""
        until, workers = self.seen.get(body_hash, (now, frozenset[str]()))
        return until > now and len(workers) >= self.strikes > 0

    def forgive(self, body_hash: bytes) -> None:
        """A worker has served this body to the end: whatever failed before was not its fault."""
        self.seen.pop(body_hash, None)

    def tick(self, now: float) -> None:
        """Forgets what is over. Called about twice a second."""
        while self.seen:
            body_hash, (until, _) = next(iter(self.seen.items()))
            if until > now:
                return
            del self.seen[body_hash]
