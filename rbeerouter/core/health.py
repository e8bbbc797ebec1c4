"""May a worker be used? What probes and traffic showed, turned into online or offline.

`Fleet` calls this with every probe result and every outcome. Two independent reasons keep a worker offline:

- *unreachable*: `fall` probes in a row failed, or a connect to it was refused (its process is gone: no need to wait
  for the next probe to learn that). One good probe lifts it.
- *ejected*: it can be reached but its last `HealthRules.failures` answers in a row were failures. An answer that
  fails at once counts like any other, or a worker that fails fast would draw all traffic by its low load. Ejection
  lasts 10 s times the number of ejections in a row, at most 300 s, and ends by itself.
"""

from __future__ import annotations

import msgspec


class HealthRules(msgspec.Struct, frozen=True):
    """fall: failed probes in a row until offline. failures: failed answers in a row until ejected."""

    fall: int = 2
    failures: int = 5
    ejection_s: float = 10.0
    ejection_cap_s: float = 300.0


class Health:
    """One worker's record. A worker nobody has reached yet is offline."""

    __slots__ = ("ejected_until", "ejections", "failed_at", "failed_probes", "failures", "reachable")

    def __init__(self) -> None:
        self.reachable = False
        self.failed_probes = 0
        self.failures = 0
        self.ejections = 0
        self.ejected_until = 0.0
        self.failed_at = float("-inf")

    def probed(self, reachable: bool, rules: HealthRules) -> None:
        if reachable:
            self.reachable, self.failed_probes = True, 0
            return
        self.failed_probes += 1
        if self.failed_probes >= rules.fall:
            self.reachable = False

    def answered(self) -> None:
        """The worker served a request to the end."""
        self.failures = self.ejections = 0

    def failed(self, unreachable: bool, now: float, rules: HealthRules, sent: float = float("inf")) -> None:
        """An attempt, begun at `sent`, ended by the worker's fault; `unreachable` when no connection could be made.

        Attempts that were under way when an earlier one failed are not counted: one crash ends many, but counts once.
        """
        if unreachable:
            self.reachable = False
            return
        if sent < self.failed_at:
            return
        self.failed_at = now
        self.failures += 1
        if self.failures >= rules.failures:
            self.failures = 0
            self.ejections += 1
            self.ejected_until = now + min(rules.ejection_s * self.ejections, rules.ejection_cap_s)

    def usable(self, now: float) -> bool:
        return self.reachable and now >= self.ejected_until
