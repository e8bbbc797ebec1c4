"""What goes wrong with workers: the kinds of faults, and when each begins and ends.

`world` asks what is wrong with a worker (`Trouble`) whenever it sends a request there or looks at it, and performs what
the beginning or end of a fault does at once. Faults of a worker may overlap. Nothing here has a clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim.types import Fault

CRASH, SLOW, REFUSE, STALL, LIE, CUT = "crash", "slow", "refuse", "stall", "lie", "cut"
KINDS = {
    CRASH: "it dies with all that it works on; connections are refused until it has started again, with empty caches",
    SLOW: "each step takes `amount` times as long",
    REFUSE: "it answers the share `amount` of requests with 503 at once",
    STALL: "answers to the share `amount` of requests stop in their middle, and nothing more comes",
    LIE: "its metrics show it idle",
    CUT: "what is under way is lost without a word, and no connection can be made",
}
"""{name: what it does to a worker}."""
_SHARES = (REFUSE, STALL)


class Trouble:
    """What is wrong with one worker now.

    Attributes:
        down: faults and cold starts that keep it from being there; cut: network cuts; lying: faults in its metrics.
        slow: how many times slower each fault makes it; refusing, stalling: the shares of requests that are hit.
        any: does a request that is sent to it need a closer look?
    """

    __slots__ = ("any", "cut", "down", "lying", "refusing", "slow", "stalling")

    def __init__(self) -> None:
        self.any = False
        self.down = self.cut = self.lying = 0
        self.slow: list[float] = []
        self.refusing: list[float] = []
        self.stalling: list[float] = []

    def begin(self, fault: Fault) -> None:
        self._change(fault, True)

    def end(self, fault: Fault) -> None:
        self._change(fault, False)

    def _change(self, fault: Fault, begins: bool) -> None:
        kind, step = fault.kind, 1 if begins else -1
        if kind == CRASH:
            self.down += step
        elif kind == CUT:
            self.cut += step
        elif kind == LIE:
            self.lying += step
        else:
            amounts = {SLOW: self.slow, REFUSE: self.refusing, STALL: self.stalling}[kind]
            if begins:
                amounts.append(fault.amount)
            else:
                amounts.remove(fault.amount)
        self.any = bool(self.down or self.cut or self.refusing or self.stalling)

    @property
    def times(self) -> float:
        """How many times slower it is, by all faults together."""
        times = 1.0
        for one in self.slow:
            times *= one
        return times


def hits(amounts: list[float], rng: random.Random) -> bool:
    """Does a request meet one of the faults, which hit such shares of all?"""
    return any(share >= 1.0 or rng.random() < share for share in amounts)


def check_faults(faults: Iterable[Fault], workers: Iterable[str]) -> None:
    """Raises ConfigError for a fault that cannot happen."""
    known = tuple(workers)
    for fault in faults:
        what = f"fault {fault.kind!r} of {fault.worker!r}"
        if fault.kind not in KINDS:
            raise ConfigError(f"{what}: kind = {fault.kind!r}: expected one of {', '.join(KINDS)}")
        if fault.worker not in known:
            raise ConfigError(f"{what}: worker = {fault.worker!r}: expected one of {', '.join(known)}")
        if fault.at_s < 0 or fault.for_s <= 0:
            raise ConfigError(f"{what}: at_s = {fault.at_s:g}, for_s = {fault.for_s:g}: expected 0 or more, above 0")
        if fault.kind in _SHARES and not 0 < fault.amount <= 1:
            raise ConfigError(f"{what}: amount = {fault.amount:g}: expected a share above 0 and up to 1")
        if fault.kind == SLOW and not 1 <= fault.amount <= 1e6:
            raise ConfigError(f"{what}: amount = {fault.amount:g}: expected how many times slower, 1 to 1000000")


def random_faults(
    rng: random.Random, workers: Sequence[str], per_hour: float, until_s: float, kinds: Sequence[str] = tuple(KINDS),
    mean_s: float = 60.0,
) -> tuple[Fault, ...]:  # fmt: skip
    """Faults at random, the same for the same generator: on average so many an hour over all workers together, each of
    any of the kinds, for an exponentially distributed time of `mean_s` on average and at least a second."""
    faults: list[Fault] = []
    at_s = 0.0
    while per_hour > 0 and workers and kinds:
        at_s += rng.expovariate(per_hour / 3600)
        if at_s >= until_s:
            break
        kind, worker = rng.choice(kinds), rng.choice(workers)
        for_s = max(1.0, rng.expovariate(1 / mean_s))
        amount = {SLOW: rng.uniform(2, 10), REFUSE: rng.uniform(0.5, 1), STALL: rng.uniform(0.1, 1)}.get(kind, 1.0)
        faults.append(Fault(worker, kind, round(at_s, 3), round(for_s, 3), round(amount, 3)))
    return tuple(faults)
