"""Simulates a case under each contender with the same seeds, and tells the differences."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rbeerouter.config.sections import Config, Control, Health, Limits, Probes, Server
from rbeerouter.sim import outcome
from rbeerouter.sim.paired import Interval, interval
from rbeerouter.sim.setting import quiet_collector
from rbeerouter.sim.types import Scenario
from rbeerouter.sim.world import World

from .cases import BASELINES, CASES, LEAST_REQUEST, RANDOM, Case, Setting
from .measures import MEASURES, Line, Measure, Ran, line_of

SAMPLED_S = 1.0
"""How often the KV caches are looked at."""

BETTER, WORSE, LIKE = "better", "worse", "alike"


class Job(msgspec.Struct, frozen=True):
    """The case of a strategy with one seed; requests: how many."""

    strategy: str
    seed: int
    requests: int
    data: Path | None


class Found(msgspec.Struct, frozen=True):
    """What came of a job. values: {contender: a number for each of the case's measures}. real: of a real trace?"""

    strategy: str
    seed: int
    workload: str
    real: bool
    values: dict[str, tuple[float, ...]]


class Compared(msgspec.Struct, frozen=True):
    """A case over all seeds: values of {contender: [for each seed a number for each measure]}."""

    case: Case
    workload: str
    real: bool
    requests: int
    values: dict[str, list[tuple[float, ...]]]

    def mean(self, contender: str, index: int = 0) -> float:
        rows = self.values[contender]
        return sum(row[index] for row in rows) / len(rows)

    def difference(self, other: str, index: int = 0) -> Interval:
        """Of the strategy to another contender, paired by seed."""
        mine, theirs = self.values[self.case.strategy], self.values[other]
        return interval([one[index] - two[index] for one, two in zip(mine, theirs, strict=True)])

    def verdict(self, other: str = RANDOM, index: int = 0) -> str:
        """Is the strategy BETTER or WORSE than another for certain, or LIKE it as far as the seeds tell?"""
        found, measure = self.difference(other, index), self.measures[index]
        if not found.is_seen:
            return LIKE
        return BETTER if (found.mean < 0) == measure.lower else WORSE

    @property
    def measures(self) -> tuple[Measure, ...]:
        return tuple(MEASURES[name] for name in self.case.measures)


def run(job: Job) -> Found:
    """Simulates all contenders of a case with one seed."""
    case = CASES[job.strategy]
    setting = case.setting(job.data, job.requests, job.seed)
    values = {}
    for name in case.contenders:
        ran = simulate(setting, name, job.seed)
        values[name] = tuple(MEASURES[measure].of(ran) for measure in case.measures)
    return Found(job.strategy, job.seed, setting.workload.name, setting.workload.real, values)


def gathered(jobs: Sequence[Job], found: Sequence[Found]) -> list[Compared]:
    """The results of all jobs, by case."""
    by_strategy: dict[str, Compared] = {}
    for job, one in zip(jobs, found, strict=True):
        compared = by_strategy.setdefault(
            one.strategy,
            Compared(CASES[one.strategy], one.workload, one.real, job.requests, {name: [] for name in one.values}),
        )
        for name, numbers in one.values.items():
            compared.values[name].append(numbers)
    return list(by_strategy.values())


def simulate(setting: Setting, strategy: str, seed: int) -> Ran:
    lines: list[Line] = []
    choices = array("h")
    foreign = BASELINES.get(strategy)
    scenario = Scenario(
        config_of(setting), setting.workers, setting.workload, targets=setting.targets, seed=seed,
        strategy=strategy if foreign is None else LEAST_REQUEST,
    )  # fmt: skip
    world = World(scenario, choices, lambda job: lines.append(line_of(job)))
    if foreign is not None:
        world.decider.panel.strategy = foreign(world.decider.panel.context)
        world.decider.reads_prompt |= foreign.reads_prompt
    kv_usage: list[list[float]] = []
    if setting.sampled:
        _sample(world, kv_usage)
    with quiet_collector():
        world.play()
    asked: dict[str, int] = {}
    for arrival in setting.workload.arrivals:
        user = arrival.request.user_id
        if user is not None:
            asked[user] = asked.get(user, 0) + arrival.tokens_in + arrival.tokens_out
    preempted = sum(site.engine.preempted for site in world.sites)
    return Ran(outcome.result(scenario, world, 0.0), setting.workers, lines, choices, kv_usage, preempted, asked)


def _sample(world: World, into: list[list[float]]) -> None:
    """Looks at the caches again and again, as long as the simulation goes on."""

    def look(_: None) -> None:
        for site in world.sites:
            world.catch_up(site)
        into.append([site.engine.kv_usage for site in world.sites])
        world.at(world.now + SAMPLED_S, look, None)

    world.at(SAMPLED_S, look, None)


def config_of(setting: Setting) -> Config:
    return Config(
        None, Server(), Control(), workers=(), script=None, log=Path("routing.log"), routing=setting.routing,
        limits=Limits(**setting.limits), probes=Probes(), health=Health(),
    )  # fmt: skip
