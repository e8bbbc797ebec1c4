"""Random numbers that can be had again: each decision has its own, whatever was decided before it.

`Decider` counts decisions here; strategies draw from it, and scripts are seeded by it. With the base, which the log
tells its operator and nobody else, and the number of a decision, a replay draws the same numbers (routing/replay.py).
Nothing here is of use for secrets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15
_OF_LOADING = 0x5851F42D4C957F2D


class Chance:
    """SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014), begun anew for each
    decision. Aiming it costs one attribute; numbers that nobody draws cost nothing.

    Attributes:
        base: 64 bits from which all numbers follow.
        n: the decision whose numbers are drawn. To be set by whoever decides.
    """

    __slots__ = ("_at", "_state", "base", "n")

    def __init__(self, base: int) -> None:
        self.begin(base)

    def begin(self, base: int) -> None:
        """From here on as if it had just been made of this base."""
        self.base = base & _MASK
        self.n = self._state = 0
        self._at = -1

    def bits(self) -> int:
        """The next 64 bits of this decision."""
        n = self.n
        if self._at == n:
            z = self._state + _STEP & _MASK
        else:
            # The first number is the state that the others go on from: they would else be those of the next decision.
            self._at, z = n, self.base + n * _STEP & _MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        self._state = z = z ^ z >> 31
        return z

    def random(self) -> float:
        """From 0 to 1, without 1."""
        return (self.bits() >> 11) * 2.0**-53

    def choice(self, items: Sequence[_T]) -> _T:
        """One of the items, all alike."""
        return items[self.bits() * len(items) >> 64]

    def loading(self) -> int:
        """63 bits for what begins before there are decisions: the loading of a script, the first turn of a strategy."""
        return _mixed(self.base ^ _OF_LOADING) >> 1


def _mixed(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31
