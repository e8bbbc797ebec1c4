"""How fast a worker is and how often it fails, as its answers show. Arithmetic only.

`Fleet` calls `observe` with every good answer that has told its time: some float operations and no allocation, as this
runs once per request. `look` is called about once a second and makes figures of the last minute from counters that are
kept anyway, so that a window costs a request nothing.
"""

from __future__ import annotations

from collections import deque
from math import exp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbeerouter.core.types import Worker

_NEWEST = 0.2
"""What the newest answer weighs in a moving average: after ten others, a tenth of an old one is left."""
PEAK_DECAY_S = 10.0
"""A worker that gets slow must be known to be so at once, and one slow answer forgotten within some ten seconds."""
BUCKET_S = 10.0
BUCKETS = 6
_ALIKE = 0.05
"""Measured performance is made known when it has changed by more: each time, scripts get their workers anew."""


class Window:
    """What had been counted of a worker ten, twenty, ... sixty seconds ago.

    `oldest` is (time, served, failed, tokens, tokens by the engine's own counter) at the window's beginning.
    """

    __slots__ = ("_marks", "oldest")

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int, int, int, float | None]] = deque(maxlen=BUCKETS)
        self.oldest: tuple[float, int, int, int, float | None] | None = None

    def roll(self, worker: Worker, now: float) -> None:
        """Begins a new bucket, if it is time."""
        marks = self._marks
        if not marks or now - marks[-1][0] >= BUCKET_S:
            marks.append((now, worker.served, worker.failed, worker.tokens, worker.generated_tokens))
            self.oldest = marks[0]

    def forget(self) -> None:
        """What was counted so far says nothing of what comes."""
        self._marks.clear()
        self.oldest = None

    def errors(self, worker: Worker) -> tuple[int, int]:
        """(answers that failed, all answers) in the window."""
        _, served, failed, _, _ = self.oldest or (0.0, 0, 0, 0, None)
        bad = worker.failed - failed
        return bad, bad + worker.served - served


def observe(worker: Worker, now: float, duration_s: float, ttft_s: float | None, tokens: int | None) -> None:
    """Takes the times of a good answer: the whole of it, until its first content, and how many tokens it had."""
    latency_ms, known = duration_s * 1000, worker.latency_ms
    worker.latency_ms = latency_ms if known is None else known + _NEWEST * (latency_ms - known)
    if ttft_s is not None:
        ttft_ms, known = ttft_s * 1000, worker.ttft_ms
        if known is None or ttft_ms >= known:
            worker.ttft_ms = ttft_ms
        else:
            worker.ttft_ms = ttft_ms + (known - ttft_ms) * exp((worker.ttft_at - now) / PEAK_DECAY_S)
        worker.ttft_at = now
    if not tokens or duration_s <= 0.0:
        return
    worker.tokens += tokens
    if ttft_s is not None and tokens > 1 and duration_s > ttft_s:
        gap_ms, known = (duration_s - ttft_s) * 1000 / (tokens - 1), worker.inter_token_ms
        worker.inter_token_ms = gap_ms if known is None else known + _NEWEST * (gap_ms - known)
    if worker.spec.measure_performance:
        learn_speed(worker, tokens / duration_s)


def learn_speed(worker: Worker, speed: float) -> None:
    """Takes the tokens per second that one request got. A worker that is more than half full shows what is left of its
    speed, not what it can do: then an answer may raise the average, but not lower it."""
    known = worker.speed
    if known is None:
        worker.speed = speed
    elif worker.load <= 0.5 or speed > known:
        worker.speed = known + _NEWEST * (speed - known)


def learn_from_counters(worker: Worker, generated: float, running: int, elapsed_s: float) -> None:
    """The same by the engine's own counter of tokens, for a worker whose answers do not say how many they had."""
    if elapsed_s > 0 and running > 0 and generated > 0 and not worker.tokens:
        learn_speed(worker, generated / elapsed_s / running)


def look(worker: Worker, now: float) -> bool:
    """Brings the figures of the last minute up to date. Returns whether its measured performance is a new one."""
    window = worker.window
    window.roll(worker, now)
    oldest = window.oldest
    if oldest is None:
        return False
    since, _, _, tokens, generated = oldest
    bad, answers = window.errors(worker)
    worker.error_rate = bad / answers if answers else None
    elapsed_s = now - since
    if elapsed_s >= 1.0:
        own = worker.tokens - tokens
        counted = worker.generated_tokens
        if counted is not None and generated is not None:
            worker.tokens_per_s = max(0.0, counted - generated) / elapsed_s
        else:
            worker.tokens_per_s = own / elapsed_s if worker.tokens else None
    speed = worker.speed
    if speed is None or not worker.spec.measure_performance:
        return False
    shown = worker.performance
    if shown is not None and abs(speed - shown) <= _ALIKE * shown:
        return False
    worker.performance = round(speed, 2)
    return True


def forget(worker: Worker) -> None:
    """The worker is another process now: what was measured of the one before is not true of it."""
    worker.latency_ms = worker.ttft_ms = worker.inter_token_ms = None
    worker.tokens_per_s = worker.error_rate = worker.speed = None
    worker.window.forget()
