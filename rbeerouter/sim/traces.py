"""Traffic that really was: a trace or a routing.log as a workload, sliced, scaled and repeated.

`cli.scenario` makes a `Trace` of the options. The file is gone through once to know its size and that all of it can be
read, and again each time the workload is; nothing is kept but what stands out of order. Two things can be scaled:
*speed* is how many times as fast time goes (all gaps are so many times shorter: bursts become sharper), *scale* how
many times as many requests there are in the same time (requests are left out, or come again a little later: the
bursts keep their shape).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from itertools import count as numbers
from pathlib import Path

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.dialects.model_sizes import model_size
from rbeerouter.sim.trace_formats import FORMATS, Row, format_of
from rbeerouter.sim.types import Arrival
from rbeerouter.sim.workload import Shape, Traffic

AGAIN_WITHIN_S = 10.0
"""A request that comes again because of `scale` does so within this time."""
_AGAIN_BLOCKS = 1 << 58
"""What is added to the blocks of one that comes again: it is another conversation, though just as long."""


class Cut(msgspec.Struct, frozen=True):
    """What is taken of a file, and how it is scaled.

    from_s, to_s: of the file's time since its first request; skip: the first so many of those are left out; requests:
    how many there are in all, for which the rest is gone through again if need be; None: as many as there are.
    """

    from_s: float = 0.0
    to_s: float | None = None
    skip: int = 0
    requests: int | None = None
    speed: float = 1.0
    scale: float = 1.0


class Survey(msgspec.Struct):
    """What a file holds: requests, when the first and the last came, their mean lengths, their models.

    late_s: how long after a request that came later one may stand in the file.
    """

    requests: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    tokens_in: float = 0.0
    tokens_out: float = 0.0
    late_s: float = 0.0
    models: dict[str | None, int] = msgspec.field(default_factory=dict)


class Trace:
    """A workload that a file tells of. See `types.Workload`.

    Args:
        kind: a name in FORMATS; None finds it out.
        traffic: what the file does not tell of its requests: models, tiers, regions, users and so on by their weights.
        models: {model of the file: the one asked for}; "*" stands for all others, which else are asked for as they are.

    Attributes:
        traffic: may be replaced before the workload is gone through.
        start_wall: Unix seconds of time 0, None where the file does not know.

    Raises:
        ConfigError: the file cannot be read, or there is nothing in the cut.
    """

    def __init__(
        self, path: Path, kind: str | None, cut: Cut, traffic: Traffic, models: Mapping[str, str], seed: int
    ) -> None:
        self.kind = format_of(path) if kind is None else kind
        self.format = FORMATS[self.kind]
        self.path, self.cut, self.traffic, self.models, self.seed = path, cut, traffic, dict(models), seed
        self.block_tokens = self.format.block_tokens
        self._late_s, self._first_s = self._lateness()
        self.survey = self._surveyed()
        self.count: int | None = cut.requests
        if self.count is None:
            self.count = self.survey.requests if cut.scale == 1.0 else sum(1 for _ in self._scaled(self._once(0)))
        self.start_wall = self._first_s + cut.from_s if self.format.wall else None
        scaled = f", {cut.speed:g} times as fast" if cut.speed != 1.0 else ""
        scaled += f", {cut.scale:g} times as many" if cut.scale != 1.0 else ""
        self.name = f"{self.format.about} {path.name}{scaled}"

    def __iter__(self) -> Iterator[Arrival]:
        fill = _Filler(self.traffic, self.seed)
        rows = self._passes() if self.cut.requests is not None else self._once(0)
        for number, (at_s, copy, row) in enumerate(islice(self._scaled(rows), self.count), 1):
            yield fill.arrival(number, at_s, row, self._asked(row), copy)

    @property
    def requests_per_s(self) -> float:
        return max(1, self.survey.requests) * self.cut.scale / self._period_s()

    def _period_s(self) -> float:
        """After which the file begins again: its length and one gap, scaled."""
        survey = self.survey
        last_s = survey.last_s - survey.first_s
        gap_s = last_s / (survey.requests - 1) if survey.requests > 1 and last_s > 0 else 1.0
        return (survey.last_s - self._first_s - self.cut.from_s + gap_s) / self.cut.speed

    def _asked(self, row: Row) -> str | None:
        """The model, as `models` says, or as the file does; None where the file names none."""
        return None if row.model is None else self.mapped(row.model)

    def mapped(self, model: str) -> str:
        """What is asked for where the file names this model."""
        return self.models.get(model) or self.models.get("*", model)

    def _lateness(self) -> tuple[float, float]:
        """How far a request may stand behind one that came after it, and when the first one came."""
        if self.format.in_order:
            first = next(self.format.read(self.path), None)
            if first is None:
                raise ConfigError(f"{self.path}: has no requests")
            return 0.0, first.at_s
        newest, late_s, first_s = float("-inf"), 0.0, float("inf")
        for row in self.format.read(self.path):
            newest, first_s = max(newest, row.at_s), min(first_s, row.at_s)
            late_s = max(late_s, newest - row.at_s)
        if first_s == float("inf"):
            raise ConfigError(f"{self.path}: has no requests; expected lines with \"event\":\"request\"")
        return late_s, first_s

    def _surveyed(self) -> Survey:
        """Goes through the file once, up to the last request that is wanted."""
        found = Survey(late_s=self._late_s)
        for row in self._cut_rows():
            if not found.requests:
                found.first_s = row.at_s
            found.requests += 1
            found.last_s = row.at_s
            found.tokens_in += row.tokens_in or 0
            found.tokens_out += row.tokens_out or 0
            found.models[row.model] = found.models.get(row.model, 0) + 1
        if not found.requests:
            until = "" if self.cut.to_s is None else f" to {self.cut.to_s:g} s"
            raise ConfigError(
                f"{self.path}: no requests from {self.cut.from_s:g} s{until} after skipping {self.cut.skip}"
            )
        found.tokens_in, found.tokens_out = found.tokens_in / found.requests, found.tokens_out / found.requests
        return found

    def _rows(self) -> Iterator[Row]:
        """The rows in order of arrival."""
        rows = self.format.read(self.path)
        if self.format.in_order:
            yield from self._checked(rows)
            return
        waiting: list[tuple[float, int, Row]] = []
        for number, row in enumerate(rows):
            heapq.heappush(waiting, (row.at_s, number, row))
            while waiting[0][0] < row.at_s - self._late_s:
                yield heapq.heappop(waiting)[2]
        while waiting:
            yield heapq.heappop(waiting)[2]

    def _checked(self, rows: Iterable[Row]) -> Iterator[Row]:
        before_s = float("-inf")
        for number, row in enumerate(rows, 1):
            if row.at_s < before_s:
                raise ConfigError(
                    f"{self.path}: request {number} came {before_s - row.at_s:g} s before the one above it; expected "
                    "lines in order of time"
                )
            before_s = row.at_s
            yield row

    def _cut_rows(self) -> Iterator[Row]:
        """What `Cut` takes. Requests that failed where they were recorded had no answer, which nobody can simulate."""
        cut, skipped, taken = self.cut, 0, 0
        most = None if cut.requests is None or cut.scale < 1.0 else cut.requests
        for row in self._rows():
            since_s = row.at_s - self._first_s
            if since_s < cut.from_s or row.tokens_out == 0:
                continue
            if (cut.to_s is not None and since_s >= cut.to_s) or taken == most:
                return
            if skipped < cut.skip:
                skipped += 1
                continue
            taken += 1
            yield row

    def _once(self, again: int) -> Iterator[tuple[float, int, Row]]:
        """(seconds since the cut begins, the pass, row) of the file, sped up; a later pass is that much later."""
        start_s, speed, late_s = self._first_s + self.cut.from_s, self.cut.speed, again * self._period_s()
        for row in self._cut_rows():
            yield late_s + (row.at_s - start_s) / speed, again, row

    def _passes(self) -> Iterator[tuple[float, int, Row]]:
        """The file again and again."""
        return chain.from_iterable(map(self._once, numbers()))

    def _scaled(self, rows: Iterator[tuple[float, int, Row]]) -> Iterator[tuple[float, int, Row]]:
        """(seconds, number of the copy over all passes, row), as many times as `scale` says."""
        scale, rng = self.cut.scale, random.Random(f"{self.seed} scale")
        if scale == 1.0:
            yield from rows
            return
        whole, rest = int(scale), scale - int(scale)
        waiting: list[tuple[float, int, int, Row]] = []
        for number, (at_s, again, row) in enumerate(rows):
            while waiting and waiting[0][0] <= at_s:
                came_s, _, copy, came = heapq.heappop(waiting)
                yield came_s, copy, came
            for copy in range(whole + (rng.random() < rest)):
                later_s = rng.random() * AGAIN_WITHIN_S if copy else 0.0
                heapq.heappush(waiting, (at_s + later_s, number, again * (whole + 1) + copy, row))
        while waiting:
            came_s, _, copy, came = heapq.heappop(waiting)
            yield came_s, copy, came


class _Filler:
    """Makes arrivals of rows: what the file does not tell is drawn by the weights of [workload]."""

    def __init__(self, traffic: Traffic, seed: int) -> None:
        self._traffic, self._seed = traffic, seed
        self._any = Shape.alone(traffic, random.Random(f"{seed} requests"))
        self._of_model: dict[str, Shape] = {}
        self._answers, self._answered = 0, 0

    def arrival(self, number: int, at_s: float, row: Row, model: str | None, copy: int) -> Arrival:
        if row.tokens_out is not None:
            self._answers, self._answered = self._answers + row.tokens_out, self._answered + 1
        tokens_in = row.tokens_in if row.tokens_in else 1
        tokens_out = row.tokens_out if row.tokens_out is not None else self._usual_answer(row)
        blocks = row.blocks if not copy else tuple(block + copy * _AGAIN_BLOCKS for block in row.blocks)
        if row.request is not None:
            request = row.request
            name = request.id if not copy else f"{request.id}-{copy}"
            if model is not None and model != request.model:
                request = msgspec.structs.replace(request, model=model, model_size=model_size(model))
            request = msgspec.structs.replace(request, id=name)
            return Arrival(at_s, request, tokens_in, tokens_out, blocks, self._traffic.patience_s)
        session = row.session if not copy or row.session is None else f"{row.session}-{copy}"
        return self._shape(model).told(number, at_s, tokens_in, tokens_out, session, blocks)

    def _shape(self, model: str | None) -> Shape:
        if model is None:
            return self._any
        if model not in self._of_model:
            traffic = msgspec.structs.replace(self._traffic, models={model: 1.0})
            self._of_model[model] = Shape.alone(traffic, random.Random(f"{self._seed} requests {model}"))
        return self._of_model[model]

    def _usual_answer(self, row: Row) -> int:
        """Of a request that failed or was refused: the mean so far, within what it asked for."""
        usual = round(self._answers / self._answered) if self._answered else 200
        most = row.request.max_tokens if row.request is not None else None
        return max(1, usual if most is None else min(usual, most))
