"""Logs of workers whose speed is known, because the simulated engine itself took the times.

Called by the tests of calibration: what went in must come out again. It must not read or fit anything.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import msgspec

from rbeerouter.record import Line, timestamp
from rbeerouter.sim.calibrate import simulated
from rbeerouter.sim.observe import Seen
from rbeerouter.sim.types import Profile

START = 1_767_225_600.0
SLOW = Profile(step_s=0.0025, sequence_s=0.001, prefill_s=0.00075, context_s=5e-6, overhead_s=0.002, slots=4)
"""Like a small model on one core of a CPU."""
FAST = Profile(step_s=0.02, sequence_s=0.0003, prefill_s=0.0001, context_s=1e-7, overhead_s=0.005, slots=64)
"""Like a large model on a large card."""


def seen_of(
    profile: Profile, count: int, per_second: float, noise: float = 0.0, seed: int = 5, usual_in: float = 4.6,
    usual_out: float = 3.4,
) -> list[Seen]:  # fmt: skip
    """Poisson arrivals with lognormal lengths (`usual_in` and `usual_out` are logarithms of medians), answered by an
    engine of that profile. noise: standard deviation of what the times are multiplied by, lognormal as well."""
    chance, at_s, asked = random.Random(seed), 0.0, []
    for _ in range(count):
        at_s += chance.expovariate(per_second)
        lengths = [1 + int(chance.lognormvariate(usual, 0.6)) for usual in (usual_in, usual_out)]
        asked.append(Seen(at_s, 0.0, 0.0, lengths[0], lengths[1], True))
    answered = []
    for one, (first_s, end_s) in zip(asked, simulated(asked, profile), strict=True):
        times = chance.lognormvariate(0, noise)
        answered.append(msgspec.structs.replace(one, first_s=first_s * times, end_s=end_s * times))
    return answered


def line_of(one: Seen, number: int = 0, worker: str = "gpu") -> Line:
    """What the daemon would have written of it."""
    return Line(
        timestamp(START + one.sent_s), "request", f"r{number}", "/v1/chat/completions", "m", "ok", 200,
        stream=one.first_s is not None, worker=worker, attempts=1, queue_ms=0.0,
        ttft_ms=(one.end_s if one.first_s is None else one.first_s) * 1000, total_ms=one.end_s * 1000,
        tokens_in=one.tokens_in, tokens_out=one.tokens_out,
    )  # fmt: skip


def write_log(path: Path, lines: Iterable[Line]) -> Path:
    """In the order in which they ended, as the daemon does."""
    ended = sorted(lines, key=lambda line: (line.time, line.total_ms))
    path.write_bytes(msgspec.json.Encoder().encode_lines(ended))
    return path
