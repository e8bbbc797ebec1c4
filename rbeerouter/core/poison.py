"""Which requests break workers? One that has ended two attempts on different workers is not tried on a third.

A worker that dies ends everything that it was working on, and only one of those requests can be to blame. So a body is
refused after that many workers only if it was alone on one of them when that died; else one more has to die over it.

Called by whoever performs attempts, with a hash of the body that is computed only when an attempt has failed in a way
that a request can cause. While nothing is suspected, asking costs a request one look at an empty table.
"""

from __future__ import annotations

from collections import OrderedDict

_SAME_DEATH_S = 1.0
"""What ends on a worker within so long of each other has ended for the same reason."""
_NOTHING: tuple[float, frozenset[str], bool] = (float("-inf"), frozenset(), False)


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
        self.seen: OrderedDict[bytes, tuple[float, frozenset[str], bool]] = OrderedDict()
        self._deaths: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.seen)

    def strike(
        self, body_hash: bytes, worker_id: str, now: float, sent: float | None = None, company: bool = False
    ) -> bool:
        """An attempt with this body ended as poison would end it. Returns whether the body is refused from now on.

        Args:
            sent: when the worker got it.
            company: the worker has other requests now. Those that ended just before this one are remembered here.
        """
        if not self.strikes:
            return False
        last, self._deaths[worker_id] = self._deaths.get(worker_id, float("-inf")), now
        alone = not company and (sent is None or last < max(sent, now - _SAME_DEATH_S))
        until, workers, was_alone = self.seen.pop(body_hash, _NOTHING)
        if until <= now:
            workers, was_alone = frozenset(), False
        found = self.seen[body_hash] = (now + self.hold_s, workers | {worker_id}, was_alone or alone)
        while len(self.seen) > self.most:
            self.seen.popitem(last=False)
        return self._is_guilty(found)

    def refused(self, body_hash: bytes, now: float) -> bool:
        """Has this body had its strikes? It may be tried again when the time is over."""
        found = self.seen.get(body_hash, _NOTHING)
        return found[0] > now and self._is_guilty(found)

    def _is_guilty(self, found: tuple[float, frozenset[str], bool]) -> bool:
        _, workers, was_alone = found
        return 0 < self.strikes <= len(workers) - (not was_alone)

    def forgive(self, body_hash: bytes) -> None:
        """A worker has served this body to the end: whatever failed before was not its fault."""
        self.seen.pop(body_hash, None)

    def tick(self, now: float) -> None:
        """Forgets what is over. Called about twice a second."""
        while self.seen:
            body_hash, (until, _, _) = next(iter(self.seen.items()))
            if until > now:
                return
            del self.seen[body_hash]
        self._deaths.clear()
