"""A bar for what takes longer than a second, on a terminal alone: in a file or a pipe it would only be noise.

The commands that simulate use it as `with Progress(...) as told: run(..., told)`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

_QUIET_S, _EVERY_S = 1.0, 0.1
_BAR = 24


class Progress:
    """Called with how many requests have come and what time it is in the simulation.

    Args:
        count: how many there will be; None when nobody knows.
        title: what is going on.
        now: a clock in seconds.
    """

    def __init__(
        self, count: int | None, title: str = "simulating", out: TextIO | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count, self._title = count, title
        self._out = out if out is not None else sys.stderr
        self._on = self._out.isatty()
        self._now, self._began = now, now()
        self._next = self._began + _QUIET_S
        self._shown = False

    def __call__(self, arrived: int, at_s: float) -> None:
        if not self._on:
            return
        now = self._now()
        if now < self._next:
            return
        self._next, self._shown = now + _EVERY_S, True
        self._out.write(f"\r\x1b[K{self._text(arrived, at_s, now - self._began)}")
        self._out.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bar away, whatever happened."""
        if self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()

    def _text(self, arrived: int, at_s: float, took_s: float) -> str:
        speed = f"{arrived / took_s:,.0f} requests/s, {_clock(at_s)} simulated" if took_s > 0 else ""
        if not self._count:
            return f"{self._title}: {arrived:,} requests, {speed}"
        share = min(1.0, arrived / self._count)
        full = int(share * _BAR)
        left = f", {_clock((1 - share) / share * took_s)} to go" if share > 0 else ""
        return f"{self._title} [{'#' * full}{'.' * (_BAR - full)}] {share:.0%}, {speed}{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
