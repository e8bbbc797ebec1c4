"""Who got how much service, interval by interval, and how evenly that is shared.

Whoever wants to know hands `Service.ended` to `world.run` as `on_line`. Tokens are counted when they are worked on, not
when the answer ends: those of the prompt at the first content, those of the answer evenly from there to its end.
"""

from __future__ import annotations

from collections.abc import Iterable

from rbeerouter.core.dispatch import DONE, Job
from rbeerouter.sim.statistics import jain


class Service:
    """Weighted tokens of each user in each interval of `every_s` seconds. The weights are those of the OSDI 2024 paper
    on fairness in serving, where they stand for what a token costs: output is dearer."""

    def __init__(self, every_s: float = 30.0, input_weight: float = 1.0, output_weight: float = 2.0) -> None:
        self.every_s = every_s
        self._weights = input_weight, output_weight
        self._tokens: dict[tuple[str | None, int], float] = {}

    def ended(self, job: Job) -> None:
        """Takes a job that has ended; what failed is no service."""
        first, last = job.first_content, job.finished
        if job.state != DONE or first is None or last is None:
            return
        user = job.request.user_id
        self._add(user, first, self._weights[0] * (job.tokens_in or 0))
        output, every_s = self._weights[1] * (job.tokens_out or 0), self.every_s
        if last <= first:
            self._add(user, last, output)
            return
        begun = first
        while begun < last:
            end = min(last, (begun // every_s + 1) * every_s)
            self._add(user, begun, output * (end - begun) / (last - first))
            begun = end

    def of(self, user: str | None, number: int) -> float:
        """Of a user in the interval of this number, from 0 on."""
        return self._tokens.get((user, number), 0.0)

    def jain(self, users: Iterable[str], numbers: Iterable[int]) -> list[float]:
        """Jain's index of these users in each of these intervals, of those in which there was any service."""
        named = list(users)
        found = [jain(self.of(user, number) for user in named) for number in numbers]
        return [one for one in found if one is not None]

    def _add(self, user: str | None, at: float, tokens: float) -> None:
        key = user, int(at // self.every_s)
        self._tokens[key] = self._tokens.get(key, 0.0) + tokens
