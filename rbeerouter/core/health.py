"""May a worker be used? What probes and traffic showed, turned into in or out.

`Fleet` calls this with every probe result and every failed attempt. Three things keep a worker out:

- *unreachable*: `fall` probes in a row failed, or `connect_failures` connects to it did. `rise` good probes in a row
  lift it; the first contact ever needs one.
- *ejected*: it can be reached, but its answers keep failing: `failures` in a row, or `error_rate` of the last
  minute's. An answer that fails at once counts like any other, or a worker that fails fast would draw all traffic by
  its low load. An ejection lasts `ejection_s` times the number of ejections in a row, at most `ejection_cap_s`.
- *on trial*: an ejection has ended, or the rest of a worker that has refused twice in a row, and one request is trying
  whether it may come back. No second one goes there until that one has succeeded, or a probe while it has been going
  well for `ejection_s`. From then until a request succeeds, one failure ejects it again.

How many may be ejected at once is for `Fleet` to say, which sees all of them.
"""

from __future__ import annotations

import msgspec

_NEVER = float("-inf")


class HealthRules(msgspec.Struct, frozen=True):
    """The numbers of [health] and [probes] in the configuration; docs/config.md gives the reason of each."""

    fall: int = 2
    rise: int = 2
    connect_failures: int = 3
    failures: int = 5
    error_rate: float = 0.5
    error_rate_requests: int = 20
    ejection_s: float = 10.0
    ejection_cap_s: float = 300.0
    max_ejected: float = 0.5
    slow_start_s: float = 30.0
    cool_down_cap_s: float = 60.0
    yield_to_owner: bool = True
    stale_s: float = 15.0


class Health:
    """One worker's record. A worker nobody has reached yet is out.

    Attributes:
        troubled: something of it must be cleared when an answer succeeds.
        half_open: its ejection has ended, or its rest after it had refused more than once, and nothing has succeeded
            since.
        refusals: how often in a row it had no room, each time after it had been left alone.
        trial_at: when the one request was sent that tries it, None while there is none.
    """

    __slots__ = (
        "connect_failures", "ejected_until", "ejections", "failed_at", "failed_probes", "failures", "good_probes",
        "half_open", "met", "reachable", "refusals", "trial_at", "troubled",
    )  # fmt: skip

    def __init__(self) -> None:
        self.reachable = False
        self.met = False
        self.failed_probes = 0
        self.good_probes = 0
        self.connect_failures = 0
        self.failures = 0
        self.ejections = 0
        self.ejected_until = 0.0
        self.failed_at = _NEVER
        self.half_open = False
        self.refusals = 0
        self.trial_at: float | None = None
        self.troubled = False

    def probed(self, reachable: bool, rules: HealthRules) -> bool:
        """Takes the result of a probe. Returns whether it has come back after it was unreachable."""
        if not reachable:
            self.good_probes = 0
            self.failed_probes += 1
            if self.failed_probes >= rules.fall:
                self.reachable = False
            return False
        self.failed_probes = self.connect_failures = 0
        if self.reachable:
            return False
        self.good_probes += 1
        if self.met and self.good_probes < rules.rise:
            return False
        back, self.met, self.reachable, self.good_probes = self.met, True, True, 0
        return back

    def answered(self) -> None:
        """The worker served a request to the end."""
        self.failures = self.connect_failures = self.ejections = self.refusals = 0
        self.half_open = self.troubled = False
        self.trial_at = None

    def failed(self, unreachable: bool, now: float, rules: HealthRules, sent: float = float("inf")) -> bool:
        """An attempt, begun at `sent`, ended by the worker's fault; `unreachable` when no connection could be made.

        Attempts that were under way when an earlier one failed are not counted: one crash ends many, but counts once.

        Returns:
            Whether failures in a row say that it should be ejected.
        """
        self.troubled = True
        if unreachable:
            self.connect_failures += 1
            if self.connect_failures >= rules.connect_failures:
                self.reachable, self.good_probes = False, 0
            return self.trial_at is not None and sent >= self.trial_at
        if sent < self.failed_at:
            return False
        self.failed_at = now
        self.failures += 1
        if self.ejections and now >= self.ejected_until:
            return True
        return self.failures >= rules.failures

    def eject(self, now: float, rules: HealthRules, spread: float = 1.0) -> None:
        """Begins an ejection; `spread` keeps workers that failed together from coming back together."""
        self.troubled, self.half_open, self.trial_at = True, False, None
        self.failures = 0
        self.ejections += 1
        self.ejected_until = now + min(rules.ejection_s * self.ejections, rules.ejection_cap_s) * spread

    def usable(self, now: float) -> bool:
        return self.reachable and now >= self.ejected_until and self.trial_at is None
