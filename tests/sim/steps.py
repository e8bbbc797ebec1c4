"""A worker's engine as one would write it down first: every step is gone through, nothing is skipped.

`tests/sim/test_engine.py` holds `engine.Engine` against it. Written after the rules in `sim/engine.py`'s docstring and
`sim/types.py`, with lists and sums in place of counters and heaps, so that the two can only agree by being right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from rbeerouter.sim.types import Arrival, Footprint, Profile


@dataclass(eq=False)
class Sequence:
    arrival: Arrival
    model: str
    done: int = 0
    to_compute: int = 0
    own: int = 0
    blocks: tuple[int, ...] = ()
    cached: int | None = None
    first_s: float | None = None
    finished_s: float | None = None
    cancelled: bool = False

    @property
    def size(self) -> int:
        return max(1, self.arrival.tokens_in)

    @property
    def decodes(self) -> bool:
        return self.to_compute == 0


@dataclass
class Steps:
    """actions: (time, "submit" or "cancel", Sequence), (time, "speed", times), (time, "pause", until), in order."""

    profile: Profile
    block_tokens: int
    actions: list[tuple[float, str, object]]
    footprints: dict[str, Footprint] = field(default_factory=dict)
    running: list[Sequence] = field(default_factory=list)
    queue: list[Sequence] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    leaving: list[Sequence] = field(default_factory=list)
    speed: float = 1.0
    next_speed: float = 1.0
    hold: float = 0.0
    steps: int = 0
    preempted: int = 0
    finished: list[Sequence] = field(default_factory=list)

    def run(self) -> list[Sequence]:
        """All that finish, in order."""
        now = 0.0
        actions = list(self.actions)
        while actions or self.running or self.queue:
            if not self.running and not self.queue:
                now = max(now, actions[0][0])
            while actions and actions[0][0] <= now:
                self.act(*actions.pop(0))
            for sequence in self.leaving:
                if sequence in self.running:
                    self.release(sequence, self.computed(sequence))
            self.leaving.clear()
            self.queue = [sequence for sequence in self.queue if not sequence.cancelled]
            if not self.running and now < self.hold:
                now = min(self.hold, actions[0][0]) if actions else self.hold
                continue
            parts = self.compose()
            if not self.running:
                continue
            end = now + self.duration(parts)
            while actions and actions[0][0] < end:
                at, kind, what = actions.pop(0)
                if kind == "pause":
                    end += max(0.0, what - max(at, self.hold))
                self.act(at, kind, what)
            self.finish_step(parts, end)
            now = end
        return self.finished

    def act(self, at: float, kind: str, what: object) -> None:
        if kind == "submit":
            self.queue.append(what)
            what.to_compute = what.size
        elif kind == "cancel":
            what.cancelled = what.finished_s is None
            self.leaving.append(what)
        elif kind == "speed":
            self.next_speed = what
        elif kind == "pause":
            self.hold = max(self.hold, what)

    @staticmethod
    def computed(sequence: Sequence) -> int:
        return sequence.size if sequence.decodes else sequence.size + sequence.done - sequence.to_compute

    def held(self) -> int:
        pinned = {block for sequence in self.running for block in sequence.blocks}
        return sum(sequence.own for sequence in self.running) + len(pinned) * self.block_tokens

    def trim(self, more: int) -> None:
        """Unpinned blocks go, oldest first, until the running sequences and `more` tokens fit."""
        if not self.profile.prefix_cache:
            return
        pinned = {block for sequence in self.running for block in sequence.blocks}
        idle = [block for block in self.cached if block not in pinned]
        room = max(0, self.profile.kv_tokens - self.held() - more) // self.block_tokens
        for block in idle[: max(0, len(idle) - room)]:
            self.cached.remove(block)

    def release(self, sequence: Sequence, computed: int) -> None:
        self.running.remove(sequence)
        pinned = {block for other in self.running for block in other.blocks}
        for at, block in reversed(list(enumerate(sequence.blocks))):
            if block not in pinned:
                self.cached.remove(block)
                if at < computed // self.block_tokens:
                    self.cached.append(block)
        sequence.blocks = ()
        sequence.own = 0

    def compose(self) -> dict[int, int]:
        """{index of a running sequence: prompt tokens that it gets in this step}."""
        self.speed = self.next_speed
        decoding = [sequence for sequence in self.running if sequence.decodes]
        while len(self.running) > 1 and self.held() + len(decoding) > self.profile.kv_tokens:
            newest = self.running[-1]
            self.release(newest, self.computed(newest))
            newest.to_compute = newest.size + newest.done
            self.queue.insert(0, newest)
            self.preempted += 1
            decoding = [sequence for sequence in self.running if sequence.decodes]
        self.trim(len(decoding))
        budget = self.profile.batch_tokens - len(decoding)
        parts = {}
        for at, sequence in enumerate(self.running):
            if not sequence.decodes and budget > 0:
                parts[at] = min(budget, sequence.to_compute)
                budget -= parts[at]
        while self.queue and budget > 0 and len(self.running) < self.profile.slots:
            sequence = self.queue[0]
            if not self.admit(sequence, len(decoding)):
                break
            self.queue.pop(0)
            parts[len(self.running) - 1] = min(budget, sequence.to_compute)
            budget -= parts[len(self.running) - 1]
        return parts

    def admit(self, sequence: Sequence, decoding: int) -> bool:
        blocks, found = (), 0
        if self.profile.prefix_cache:
            blocks = sequence.arrival.blocks[: sequence.size // self.block_tokens]
            for block in blocks:
                if block not in self.cached:
                    break
                found += self.block_tokens
            found = min(found, sequence.to_compute - 1)
            found -= found % self.profile.block_tokens
        pinned = {block for other in self.running for block in other.blocks}
        new = sequence.to_compute - sum(block in pinned for block in blocks) * self.block_tokens
        if self.running and self.held() + decoding + new > self.profile.kv_tokens:
            return False
        for block in blocks:
            if block not in self.cached:
                self.cached.append(block)
        sequence.blocks = blocks
        sequence.own = sequence.to_compute - len(blocks) * self.block_tokens
        sequence.to_compute -= found
        if sequence.cached is None:
            sequence.cached = found
        self.running.append(sequence)
        self.trim(decoding)
        return True

    def duration(self, parts: dict[int, int]) -> float:
        profile = self.profile
        total = 0.0
        for model in sorted({sequence.model for sequence in self.running} if self.footprints else {""}):
            mine = [at for at, sequence in enumerate(self.running) if model in ("", sequence.model)]
            decoding = [self.running[at] for at in mine if self.running[at].decodes]
            prompt = sum(parts.get(at, 0) for at in mine)
            if not decoding and not prompt:
                continue
            step = profile.step_s + profile.sequence_s * len(decoding) + profile.prefill_s * prompt
            step += profile.context_s * sum(sequence.size + sequence.done for sequence in decoding)
            total += step * self.footprints.get(model, Footprint()).times
        return total * self.speed

    def finish_step(self, parts: dict[int, int], end: float) -> None:
        self.steps += 1
        decoding = [sequence for sequence in self.running if sequence.decodes]
        prompts = [self.running[at] for at in parts]
        for at, tokens in parts.items():
            self.running[at].to_compute -= tokens
        for sequence in decoding:
            sequence.own += 1
        ended = []
        for sequence in decoding + [sequence for sequence in prompts if sequence.decodes]:
            sequence.done += 1
            if sequence.first_s is None:
                sequence.first_s = end
            if sequence.done >= sequence.arrival.tokens_out:
                ended.append(sequence)
        for sequence in ended:
            self.release(sequence, sequence.size)
            if not sequence.cancelled:
                sequence.finished_s = end
                self.finished.append(sequence)
        assert math.isfinite(end)
