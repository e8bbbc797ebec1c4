"""Other values for a script's param()s: what each does to what one cares about, and which are worth choosing between.

`routing tune` calls `tune` and prints. All points are simulated with the first seed; those that nothing else beats are
simulated again with more seeds, as luck would win every comparison of many. What the points are is for `spans` to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.sim import world
from rbeerouter.sim.asserts import Assertion, judge_all, unknown
from rbeerouter.sim.jobs import each
from rbeerouter.sim.metrics import HIGHER, metric_of, metrics
from rbeerouter.sim.paste import with_defaults
from rbeerouter.sim.spans import Point
from rbeerouter.sim.types import Result, Scenario

MOST_SEEDS = 8
"""Beyond these the recommended values hardly change any more."""
_FIRST_SHARE = 0.7
"""Of the runs that try new points; the rest goes into more seeds for those that look good."""


class Objective(msgspec.Struct, frozen=True):
    """A number of the result that should be small, or large."""

    name: str
    largest: bool = False

    def loss(self, value: float) -> float:
        """The smaller, the better."""
        return -value if self.largest else value


class Tried(msgspec.Struct):
    """A point that was simulated.

    values: {objective: its mean over the seeds}, None where a run has no such number. broken: assertions that failed.
    front: no other point is better in one objective and as good in all.
    """

    params: Point
    seeds: int
    values: dict[str, float | None]
    broken: tuple[str, ...] = ()
    front: bool = False


class Tuned(msgspec.Struct, frozen=True):
    """What came of a sweep. now, knee: places in `tried`; knee, the recommended point, is None when nothing can be.

    ends: {objective: the point of the front where it is best}. result: of how things are, with the first seed.
    """

    objectives: tuple[Objective, ...]
    tried: tuple[Tried, ...]
    runs: int
    workload: str
    now: int
    knee: int | None
    ends: dict[str, int]
    result: Result

    def told(self) -> dict[str, object]:
        """What --json prints: all but the whole result."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name != "result"}


def read_objectives(smallest: str, largest: str = "") -> tuple[Objective, ...]:
    """Of `--minimise a,b --maximise c`. Raises ConfigError."""
    found = []
    for option, text, large in (("--minimise", smallest, False), ("--maximise", largest, True)):
        for name in filter(None, (part.strip() for part in text.split(","))):
            metric = metric_of(name)
            if metric is None:
                raise ConfigError(f"{option} {name}: {unknown(name)}")
            if not large and metric.better == HIGHER:
                raise ConfigError(f"--minimise {name}: it is better when it is higher; --maximise {name}")
            found.append(Objective(name, large))
    if not found:
        raise ConfigError("--minimise: expected names of numbers, as in p95_ttft_s,cost")
    return tuple({objective.name: objective for objective in found}.values())


def tune(
    make: Callable[[int], Scenario],
    points: Sequence[Point],
    objectives: tuple[Objective, ...],
    runs: int,
    *,
    first_seed: int = 1,
    assertions: Sequence[Assertion] = (),
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Tuned:
    """Simulates the points, the first of which is how things are, and finds those worth choosing between.

    Args:
        make: the scenario of a seed, without the params.
        runs: simulations in all, at least as many as points.
        assertions: points that break one are out.
        jobs: how many simulations run at once; the result does not depend on it.
        progress: told how many simulations are done.

    Raises:
        ConfigError, ScriptError: from the simulation.
    """
    results: list[list[_Numbers]] = [[] for _ in points]
    first: list[Result] = []
    done = 0

    def simulate(plan: list[tuple[int, int]]) -> None:
        nonlocal done
        for (place, _), (numbers, result) in zip(plan, each(one, plan, jobs), strict=True):
            results[place].append(numbers)
            if result is not None:
                first.append(result)
            done += 1
            if progress is not None:
                progress(done)

    def one(item: tuple[int, int]) -> tuple[_Numbers, Result | None]:
        place, seed = item
        scenario = make(seed)
        result = world.run(with_values(scenario, points[place]))
        values = metrics(result)
        broken = tuple(verdict.expression for verdict in judge_all(list(assertions), values) if not verdict.ok)
        kept = {objective.name: values.get(objective.name) for objective in objectives}
        return (kept, broken), result if (place, seed) == (0, first_seed) else None

    simulate([(place, first_seed) for place in range(len(points))])
    tried = _tried(points, results, objectives)
    candidates = [place for place, point in enumerate(tried) if point.front or place == 0]
    seeds = 1 + min(MOST_SEEDS - 1, max(0, runs - done) // len(candidates))
    simulate([(place, first_seed + extra) for extra in range(1, seeds) for place in candidates])
    tried = _tried(points, results, objectives)
    front = [place for place, point in enumerate(tried) if point.front]
    ends = {objective.name: _best(tried, front, objective) for objective in objectives} if front else {}
    return Tuned(
        objectives, tuple(tried), done, first[0].workload, 0, knee(tried, front, objectives), ends, first[0]
    )  # fmt: skip


def with_values(scenario: Scenario, point: Point) -> Scenario:
    """The scenario with these values written into its script, as they will be pasted, and set for what has no place to
    be written."""
    source = with_defaults(scenario.script, point) if scenario.script is not None else None
    return msgspec.structs.replace(scenario, script=source, params={**scenario.params, **point})


_Numbers = tuple[dict[str, float | None], tuple[str, ...]]
"""What is kept of a run: its objectives and what it broke."""


def points_within(runs: int) -> int:
    """How many points may be tried, so that there are runs left for more seeds."""
    return max(1, math.ceil(runs * _FIRST_SHARE))


def _tried(points: Sequence[Point], results: list[list[_Numbers]], objectives: tuple[Objective, ...]) -> list[Tried]:
    """The points with their means. Only those that were simulated with most seeds may be on the front."""
    most = max(len(runs) for runs in results)
    tried = []
    for point, runs in zip(points, results, strict=True):
        broken = tuple(dict.fromkeys(name for _, names in runs for name in names))
        values = {objective.name: _mean([numbers[objective.name] for numbers, _ in runs]) for objective in objectives}
        tried.append(Tried(point, len(runs), values, broken))
    able = [one for one in tried if one.seeds == most and not one.broken and None not in one.values.values()]
    for place in front_of([_losses(one, objectives) for one in able]):
        able[place].front = True
    return tried


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def _losses(point: Tried, objectives: tuple[Objective, ...]) -> tuple[float, ...]:
    values = [(objective, point.values[objective.name]) for objective in objectives]
    return tuple(objective.loss(value) for objective, value in values if value is not None)


def front_of(losses: Sequence[tuple[float, ...]]) -> list[int]:
    """The places of those that no other one beats (Pareto): nowhere worse and somewhere better. Of equal ones, the
    first."""
    front = []
    for place, mine in enumerate(losses):
        beaten = any(
            all(one <= own for one, own in zip(other, mine, strict=True)) and (other != mine or index < place)
            for index, other in enumerate(losses)
            if index != place
        )
        if not beaten:
            front.append(place)
    return front


def knee(tried: Sequence[Tried], front: Sequence[int], objectives: tuple[Objective, ...]) -> int | None:
    """The point of the front nearest to the best of everything, each objective measured by its span on the front."""
    if not front:
        return None
    losses = {place: _losses(tried[place], objectives) for place in front}
    lows = [min(values) for values in zip(*losses.values(), strict=True)]
    widths = [max(values) - low or 1.0 for values, low in zip(zip(*losses.values(), strict=True), lows, strict=True)]
    scaled = {
        place: [(value - low) / width for value, low, width in zip(values, lows, widths, strict=True)]
        for place, values in losses.items()
    }
    return min(front, key=lambda place: (math.hypot(*scaled[place]), place))


def _best(tried: Sequence[Tried], front: Sequence[int], objective: Objective) -> int:
    return min(front, key=lambda place: (objective.loss(tried[place].values[objective.name] or 0.0), place))
