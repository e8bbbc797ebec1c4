"""The prefix strategies in the lab: on one traffic and one fleet, ours against the rules of SGLang and AIBrix."""

from __future__ import annotations

from functools import cache

import pytest

from rbeerouter.config.sections import Prefix, Strategies
from rbeerouter.routing.strategies.base import Strategy
from rbeerouter.sim import world
from rbeerouter.sim.draws import Lengths
from rbeerouter.sim.types import Profile, Result, SimWorker
from rbeerouter.sim.workload import Generated, Sessions, Traffic
from tests.sim.small import config, scenario, worker
from tests.support.baselines import AibrixPrefixCache, SglangCacheAware

TALKS = Traffic(
    models={"m": 1.0}, requests=700, rate=18.0, stream=1.0, tiers={}, regions={}, priorities={}, users=50,
    tokens_in=Lengths(mean=900.0, sigma=1.0, most=8192), tokens_out=Lengths(mean=150.0, sigma=0.8, most=1024),
    sessions=Sessions(turns=4.0, think_s=6.0, system_tokens=(500, 2000, 4000), most_tokens=16_384),
)  # fmt: skip
"""Conversations of four turns behind one of three system prompts."""
CARD = Profile(
    step_s=0.010, sequence_s=1.1e-4, prefill_s=1.1e-4, context_s=8e-8, slots=256, batch_tokens=8192, kv_tokens=100_000,
    block_tokens=16, prefix_cache=True,
)  # fmt: skip
"""About an A100 with a model of 8B."""


def card(name: str, times: float = 1.0) -> SimWorker:
    """times: how many times slower than an A100."""
    given = {key: getattr(CARD, key) for key in CARD.__struct_fields__}
    for key in ("step_s", "sequence_s", "prefill_s", "context_s"):
        given[key] *= times
    return worker(name, places=256, **given)


ALIKE, UNEQUAL = "alike", "unequal"
FLEETS = {
    ALIKE: tuple(card(f"w{number}") for number in range(8)),
    UNEQUAL: tuple(card(f"w{number}", times) for number, times in enumerate((0.4, 0.4, 1.0, 1.0, 1.0, 1.0, 2.5, 2.5))),
}
OTHERS: dict[str, type[Strategy]] = {one.name: one for one in (SglangCacheAware, AibrixPrefixCache)}


SEEDS = (1, 2)


@cache
def ran(strategy: str, workers: str = ALIKE, seed: int = 1) -> Result:
    foreign = OTHERS.get(strategy)
    given = scenario(Generated(TALKS, seed), *FLEETS[workers], seed=seed, strategy="random" if foreign else strategy)
    run = world.World(given)
    if foreign is not None:
        run.decider.panel.strategy = foreign(run.decider.panel.context)
        run.decider.reads_prompt = True
    run.play()
    return world.outcome.result(given, run, 0.0)


@pytest.mark.parametrize("other", ["sglang-cache-aware", "aibrix-prefix-cache", "lmetric", "least-request"])
def test_prefix_cache_has_more_hits_and_an_earlier_first_token(other: str) -> None:
    """Over all seeds together, as one alone has its chances."""
    ours, theirs = ([ran(name, seed=seed) for seed in SEEDS] for name in ("prefix-cache", other))
    assert all(one.all.ok == TALKS.requests for one in (*ours, *theirs))
    assert sum(one.kv_hit_rate or 0.0 for one in ours) > sum(one.kv_hit_rate or 0.0 for one in theirs)
    assert sum(one.all.ttft_s.p90 or 0.0 for one in ours) < sum(one.all.ttft_s.p90 or 0.0 for one in theirs)


@pytest.mark.parametrize("name", ["prefix-cache-preble", "lmetric", "sglang-cache-aware", "aibrix-prefix-cache"])
def test_all_of_them_find_far_more_than_chance(name: str) -> None:
    found, by_chance = ran(name).kv_hit_rate, ran("random").kv_hit_rate
    assert found is not None and by_chance is not None and found > 1.2 * by_chance


def test_unequal_machines_are_told_apart_by_their_pace() -> None:
    blind = Strategies(prefix=Prefix(speed_power=0.0))
    given = scenario(
        Generated(TALKS, 1), *FLEETS[UNEQUAL], seed=1, strategy="prefix-cache", config=config(routing={"strategies": blind})
    )
    ours, theirs = ran("prefix-cache", UNEQUAL), world.run(given)
    assert ours.all.ttft_s.mean < 0.9 * theirs.all.ttft_s.mean  # type: ignore[operator]
    assert ours.all.ttft_s.p99 < 0.7 * theirs.all.ttft_s.p99  # type: ignore[operator]
    shares = {one.id: one.share for one in ours.workers}
    assert min(shares["w0"], shares["w1"]) > max(shares["w6"], shares["w7"])


def test_strictly_prefix_cache_is_the_rule_of_aibrix() -> None:
    """The same choices, by the same numbers drawn."""
    strict = config(routing={"strategies": Strategies(strict=True)})
    given = scenario(Generated(TALKS, 1), *FLEETS[ALIKE], seed=1, strategy="prefix-cache", config=strict)
    result, theirs = world.run(given), ran("aibrix-prefix-cache")
    assert (result.kv_hit_rate, result.all.ttft_s) == (theirs.kv_hit_rate, theirs.all.ttft_s)


def test_the_same_scenario_gives_the_same_result_again() -> None:
    for name in ("prefix-cache", "prefix-cache-preble"):
        first = world.run(scenario(Generated(TALKS, 1), *FLEETS[ALIKE], seed=1, strategy=name))
        assert (first.all, first.workers) == (ran(name).all, ran(name).workers)
