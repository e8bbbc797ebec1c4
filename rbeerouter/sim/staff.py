"""The workers of a scenario: the configured ones or a home lab's, how fast each is, and how much they can do together.

`cli.scenario` asks. What hardware can do is known in `hardware`; what a file says of a worker goes before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim import hardware
from rbeerouter.sim.draws import mean_length
from rbeerouter.sim.scenario_file import WorkerTable
from rbeerouter.sim.types import SimWorker
from rbeerouter.sim.workload import Mix, Traffic

SMALL, NEWER, LARGE = "llama-3-8b", "llama-3.1-8b", "llama-3-70b"
HOME_LAB = (
    WorkerSpec(
        "worker-gaming-pc", "http://gaming-pc.simulated:11434", "ollama", backend="cuda", vram=24.0,
        models=(SMALL, NEWER), performance=135.0, max_concurrency=4, cost_per_hour=0.12,
        metadata={"region": "eu", "gpu": "RTX 4090"},
    ),
    WorkerSpec(
        "worker-server", "http://server.simulated:8000", "vllm", backend="cuda", vram=48.0,
        models=(SMALL, LARGE), performance=73.0, max_concurrency=16, cost_per_hour=0.2,
        metadata={"region": "us", "gpu": "2x RTX 3090"},
    ),
    WorkerSpec(
        "worker-macbook", "http://macbook.simulated:11434", "ollama", backend="metal", vram=36.0,
        models=(SMALL, NEWER), performance=51.0, max_concurrency=3, cost_per_hour=0.02,
        metadata={"region": "asia", "gpu": "M3 Max", "canary": True},
    ),
    WorkerSpec(
        "worker-old-pc", "http://old-pc.simulated:11434", "ollama", backend="cuda", vram=12.0,
        models=(SMALL,), performance=48.0, max_concurrency=2, cost_per_hour=0.06,
        metadata={"region": "us", "gpu": "RTX 3060"},
    ),
    WorkerSpec(
        "worker-mini", "http://mini.simulated:8080", "llamacpp", backend="cpu", vram=32.0,
        models=(SMALL,), performance=9.6, max_concurrency=1, cost_per_hour=0.01,
        metadata={"region": "eu", "cpu": "Ryzen 7 7700"},
    ),
)  # fmt: skip
"""What is simulated where nobody names any workers: five machines of a home, of all the kinds that the example scripts
tell apart. cost_per_hour: the electricity. performance: tokens per second of one stream of the small model."""


def sim_workers(specs: Iterable[WorkerSpec], tables: Mapping[str, WorkerTable]) -> tuple[SimWorker, ...]:
    """The workers with the profile of their hardware, or what a file says."""
    made = []
    for spec in specs:
        table = tables.get(spec.id, WorkerTable())
        usual = hardware.profile_for(spec, preset=table.preset)
        costs = {**hardware.footprints_for(spec, table.preset), **table.costs()}
        made.append(SimWorker(spec, table.profile(usual), costs, table.loaded))
    return tuple(made)


def unknown_machines(specs: Iterable[WorkerSpec], tables: Mapping[str, WorkerTable]) -> list[str]:
    """In words, for each worker that names a machine nobody knows and is described by no table."""
    undescribed = (spec for spec in specs if spec.id not in tables)
    return [words for spec in undescribed if (words := hardware.unknown_machine(spec)) is not None]


def usual_models(workers: Iterable[SimWorker]) -> dict[str, float]:
    """{model: weight} for traffic that does not say: each by how many workers have it."""
    found: dict[str, float] = {}
    for worker in workers:
        for model in worker.spec.models:
            found[model] = found.get(model, 0.0) + 1.0
    return found


def most_requests_per_s(workers: tuple[SimWorker, ...], traffic: Traffic) -> float:
    """What the workers could serve at most of this traffic, each doing what others can do least.

    An estimate: how models are best shared among workers is a linear program, for which a plan that serves the rarest
    models first is near enough.
    """
    weights = model_weights(traffic)
    tokens_in, tokens_out = mean_tokens(traffic)
    able = {model: [worker for worker in workers if _has(worker, model)] for model in weights}
    models = sorted((model for model in weights if able[model]), key=lambda model: (len(able[model]), model))
    speeds = {
        (worker.spec.id, model): _speed(worker, model, models, tokens_in, tokens_out)
        for model in models for worker in able[model]
    }  # fmt: skip
    low, high = 0.0, sum(speeds.values()) / max(1e-9, sum(weights[model] for model in models))
    for _ in range(50):
        rate = (low + high) / 2
        low, high = (rate, high) if _can(rate, models, weights, able, speeds) else (low, rate)
    return low if low > 0 else 1.0


def _can(
    rate: float, models: list[str], weights: Mapping[str, float], able: Mapping[str, list[SimWorker]],
    speeds: Mapping[tuple[str, str], float],
) -> bool:  # fmt: skip
    """Does the plan serve so many requests per second? Of each worker, time is given away until none is left."""
    left = {worker.spec.id: 1.0 for workers in able.values() for worker in workers}
    for model in models:
        wanted = rate * weights[model]
        for worker in sorted(able[model], key=lambda one: (len(one.spec.models), one.spec.id)):
            speed = speeds[worker.spec.id, model]
            share = min(left[worker.spec.id], wanted / speed)
            left[worker.spec.id] -= share
            wanted -= share * speed
        if wanted > 1e-9 * rate:
            return False
    return True


def model_weights(traffic: Traffic) -> dict[str, float]:
    """{model: its share of all requests}"""
    found: dict[str, float] = {}
    mixes = traffic.mix or (Mix(),)
    total = sum(mix.weight for mix in mixes)
    for mix in mixes:
        models = mix.models if mix.models is not None else traffic.models
        sum_of_models = sum(models.values())
        for model, weight in models.items():
            found[model] = found.get(model, 0.0) + mix.weight / total * weight / sum_of_models
    return found


def mean_tokens(traffic: Traffic) -> tuple[float, float]:
    """Of prompts and answers, on average; a conversation's prompts are those of its middle turn."""
    mixes = traffic.mix or (Mix(),)
    total, tokens_in, tokens_out = sum(mix.weight for mix in mixes), 0.0, 0.0
    for mix in mixes:
        share = mix.weight / total
        asked, told = mean_length(mix.tokens_in or traffic.tokens_in), mean_length(mix.tokens_out or traffic.tokens_out)
        sessions = mix.sessions or traffic.sessions
        before = 0.0
        if sessions is not None:
            system = sum(sessions.system_tokens) / len(sessions.system_tokens)
            before = min(sessions.most_tokens, system + (sessions.turns - 1.0) * (asked + told))
        tokens_in, tokens_out = tokens_in + share * (asked + before), tokens_out + share * told
    return tokens_in, tokens_out


def _has(worker: SimWorker, model: str) -> bool:
    return not worker.spec.models or model in worker.spec.models


def _speed(worker: SimWorker, model: str, asked: Iterable[str], tokens_in: float, tokens_out: float) -> float:
    """Requests per second of a worker by the formula of `types.Profile`, with as many at once as leave each of them at
    least half the speed that it would have alone: with more it would serve a little more, and nobody would like it.

    asked: all models that are asked for. Where models are batches of their own, whose steps add up, those that the
    worker has share its places, so that each step serves fewer.
    """
    profile = worker.profile
    times = worker.footprints[model].times if model in worker.footprints else 1.0
    room = max(1.0, profile.kv_tokens / (tokens_in + tokens_out))
    context = profile.context_s * (tokens_in + tokens_out / 2)
    at_half_speed = 2.0 + profile.step_s / max(1e-9, profile.sequence_s + context)
    at_once = min(profile.slots, worker.spec.max_concurrency or profile.slots, room, at_half_speed)
    if worker.footprints or profile.memory_gib is not None:
        at_once = max(1.0, at_once / sum(_has(worker, one) for one in asked))
    one_s = tokens_in * profile.prefill_s + tokens_out * (profile.step_s / at_once + profile.sequence_s + context)
    return 1.0 / max(1e-9, times * one_s + profile.overhead_s / at_once)


def with_models(specs: Iterable[WorkerSpec], models: Iterable[str]) -> tuple[WorkerSpec, ...]:
    """The workers, of which those that list no models have these: a probe would have found some."""
    names = tuple(models)
    return tuple(msgspec.structs.replace(spec, models=names) if not spec.models else spec for spec in specs)
