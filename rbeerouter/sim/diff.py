"""Script A against script B on the same traffic: which requests move, and what that does to every number.

`routing diff` makes the scenarios and prints. Both sides are simulated with the same seeds, and differences are taken
seed by seed (`paired`). A request has moved when the worker that it was sent to first is another one. Of each request
only two numbers of two bytes are kept.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import msgspec

from rbeerouter.core.dispatch import Job
from rbeerouter.sim import world
from rbeerouter.sim.jobs import each
from rbeerouter.sim.metrics import HIGHER, LOWER, metric_of, metrics
from rbeerouter.sim.paired import Interval, interval
from rbeerouter.sim.types import Arrival, Result, Scenario, Workload

BETTER, WORSE, OTHER, SAME, UNSURE = "better", "worse", "different", "no difference", "no difference seen"
"""What became of a number. OTHER: which way is better depends on what one wants. SAME: the very same for every seed."""
NOWHERE = "(no worker)"
"""In place of a worker, of requests that were sent to none."""
_OTHERS = "(other reasons)"
_MOST_REASONS = 500
_MOST_MOVES_LINES = 5
_NAMES_OF_PARTS = ("tier[", "model[", "worker[")
"""The parts whose numbers are compared. Users may be too many."""
_PART_METRICS = ("requests", "rejected", "failed", "p95_ttft_s", "p95_e2e_s", "goodput", "busy")


class Line(msgspec.Struct, frozen=True):
    """Who decided, and why, on each side, of some requests."""

    before: str
    after: str
    requests: int


class Move(msgspec.Struct, frozen=True):
    """Requests that one side sends to one worker and the other side to another; of all seeds together.

    lines: the most frequent reasons of the two decisions.
    """

    before: str
    after: str
    requests: int
    lines: tuple[Line, ...]


class Change(msgspec.Struct, frozen=True):
    """What became of one number of the result: the means over the seeds, and their difference, after less before.

    low, high: between these the true difference lies 95 times in 100; None with fewer than three seeds. seeds: how many
    had the number on both sides. effect: BETTER, WORSE, OTHER, SAME or UNSURE.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    seeds: int
    effect: str


class Diff(msgspec.Struct, frozen=True):
    """The comparison. requests: of all seeds together; moved: of these; first: both results of the first seed.

    same_traffic: all seeds had the same requests, as those of a log are.
    """

    before: str
    after: str
    workload: str
    seeds: tuple[int, ...]
    requests: int
    moved: int
    moves: tuple[Move, ...]
    changes: tuple[Change, ...]
    first: tuple[Result, Result]
    same_traffic: bool = False

    @property
    def moved_share(self) -> float:
        return self.moved / self.requests if self.requests else 0.0

    def told(self) -> dict[str, object]:
        """What --json prints: all but the whole results."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "first"}
        return fields | {"moved_share": self.moved_share}

    def values(self) -> dict[str, float | None]:
        """What --assert may name: B's means, A's behind `before.`, `moved`, how many numbers are better and worse."""
        counted = Counter(change.effect for change in self.changes if "[" not in change.name)
        found: dict[str, float | None] = {change.name: change.after for change in self.changes}
        found |= {f"before.{change.name}": change.before for change in self.changes}
        return found | {"moved": self.moved_share, "better": counted[BETTER], "worse": counted[WORSE]}


ASSERTED, ASSERTED_BEFORE = ("moved", "better", "worse"), ("before",)
"""What --assert may name beside the numbers of a result, and put before one."""


class _Seed(msgspec.Struct):
    """What came of one seed. moves: {(worker before, after, reason before, after): requests}."""

    before: dict[str, float | None]
    after: dict[str, float | None]
    requests: int
    moves: dict[tuple[int, int, str, str], int]
    results: tuple[Result, Result] | None


def diff(
    make: Callable[[int], tuple[Scenario, Scenario]],
    seeds: Sequence[int],
    names: tuple[str, str],
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Diff:
    """Simulates both sides with each seed and compares.

    Args:
        make: both scenarios of a seed; they differ in who decides, and in nothing else.
        names: what the two sides are called.
        jobs: how many seeds are simulated at once.
        progress: told how many seeds are done.

    Raises:
        ConfigError, ScriptError: from the simulation.
    """
    found: list[_Seed] = []
    first = seeds[0]
    for one in each(lambda seed: _one_seed(*make(seed), keep=seed == first), seeds, jobs):
        found.append(one)
        if progress is not None:
            progress(len(found))
    results = found[0].results
    assert results is not None
    workers = [worker.id for worker in results[0].workers]
    moves = _moves(found, workers)
    return Diff(
        *names, results[0].workload, tuple(seeds), sum(one.requests for one in found),
        sum(move.requests for move in moves), moves, _changes(found), results,
        len({(one.requests, one.before.get("tokens_in")) for one in found}) == 1 < len(seeds),
    )  # fmt: skip


class Noted:
    """A workload that remembers of each request why it went where it went, by two bytes.

    numbers: {request id: its number}, of those that are not over yet.
    """

    def __init__(self, whole: Workload, reasons: list[str]) -> None:
        self.name, self.count, self.block_tokens = whole.name, whole.count, whole.block_tokens
        self.why = array("H")
        self._whole = whole
        self._reasons = reasons
        self._known = {reason: index for index, reason in enumerate(reasons)}
        self._numbers: dict[str, int] = {}

    def __iter__(self) -> Iterator[Arrival]:
        numbers, why = self._numbers, self.why
        for number, arrival in enumerate(self._whole):
            numbers[arrival.request.id] = number
            why.append(0)
            yield arrival

    def ended(self, job: Job) -> None:
        """Takes a job that is over, as `world.run` tells it."""
        number = self._numbers.pop(job.request.id, None)
        if number is None:
            return                                             # an id that came twice
        decision = job.decision
        reason = f"{decision.by}: {decision.reason}" if decision is not None else NOWHERE
        index = self._known.get(reason)
        if index is None:
            index = 0
            if len(self._reasons) < _MOST_REASONS:
                index = self._known[reason] = len(self._reasons)
                self._reasons.append(reason)
        self.why[number] = index


def _one_seed(before: Scenario, after: Scenario, keep: bool) -> _Seed:
    """Both sides with one seed."""
    reasons = [_OTHERS]
    sides = []
    for scenario in (before, after):
        noted, choices = Noted(scenario.workload, reasons), array("h")
        given = msgspec.structs.replace(scenario, workload=noted)
        sides.append((world.run(given, choices=choices, on_line=noted.ended), choices, noted.why))
    (result, went, why), (other, goes, why_now) = sides
    moved = Counter(key for key in zip(went, goes, why, why_now, strict=False) if key[0] != key[1])
    moves = {(a, b, reasons[x], reasons[y]): count for (a, b, x, y), count in moved.items()}
    return _Seed(_compared(result), _compared(other), len(went), moves, (result, other) if keep else None)


def _compared(result: Result) -> dict[str, float | None]:
    """The numbers that are compared."""
    return {
        name: value
        for name, value in metrics(result).items()
        if "[" not in name or name.startswith(("share[", "error["))
        or (name.startswith(_NAMES_OF_PARTS) and name.rpartition(".")[2] in _PART_METRICS)
    }  # fmt: skip


def _moves(found: list[_Seed], workers: list[str]) -> tuple[Move, ...]:
    """The moves of all seeds, the most frequent first."""
    lines: dict[tuple[int, int], Counter[tuple[str, str]]] = {}
    for one in found:
        for (before, after, why, why_now), count in one.moves.items():
            lines.setdefault((before, after), Counter())[why, why_now] += count
    moves = []
    for (before, after), counts in lines.items():
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_MOVES_LINES]
        told = tuple(Line(*reasons, count) for reasons, count in ordered)
        moves.append(Move(_named(before, workers), _named(after, workers), counts.total(), told))
    return tuple(sorted(moves, key=lambda move: (-move.requests, move.before, move.after)))


def _named(index: int, workers: list[str]) -> str:
    return NOWHERE if index < 0 else workers[index]


def _changes(found: list[_Seed]) -> tuple[Change, ...]:
    names = dict.fromkeys(name for one in found for side in (one.before, one.after) for name in side)
    pairs = {name: [(_value(one.before, name), _value(one.after, name)) for one in found] for name in names}
    return tuple(_change(name, values) for name, values in pairs.items())


def _value(side: dict[str, float | None], name: str) -> float | None:
    return side.get(name, 0 if name.startswith("error[") else None)


def _change(name: str, pairs: Sequence[tuple[float | None, float | None]]) -> Change:
    metric = metric_of(name)
    assert metric is not None
    known = [(before, after) for before, after in pairs if before is not None and after is not None]
    if not known:
        before, after = (_mean([pair[side] for pair in pairs]) for side in (0, 1))
        return Change(name, metric.unit, before, after, None, None, None, 0, UNSURE)
    before, after = _mean([pair[0] for pair in known]), _mean([pair[1] for pair in known])
    judged = interval([after - before for before, after in known])
    same = all(before == after for before, after in known)
    effect = SAME if same else judge(judged, metric.better)
    return Change(name, metric.unit, before, after, judged.mean, judged.low, judged.high, len(known), effect)


def judge(judged: Interval, better: str) -> str:
    """What a difference means, where less or more is better."""
    if not judged.is_seen:
        return UNSURE
    if better not in (LOWER, HIGHER):
        return OTHER
    return BETTER if (judged.mean > 0) == (better == HIGHER) else WORSE


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
