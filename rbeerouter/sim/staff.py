"""The workers of a scenario: the configured ones or a home lab's, how fast each is, and how much they can do together.

`cli.scenario` asks. What hardware can do is known in `hardware`; what a file says of a worker goes before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping

import msgspec

from rbeerouter.core.types import WorkerSpec
from rbeerouter.sim.draws import mean_length
from rbeerouter.sim.scenario_file import WorkerTable
from rbeerouter.sim.types import Profile, SimWorker
from rbeerouter.sim.workload import Mix, Traffic

SMALL, NEWER, LARGE = "llama-3-8b", "llama-3.1-8b", "llama-3-70b"
HOME_LAB = (
    WorkerSpec(
        "worker-gaming-pc", "http://gaming-pc.simulated:8000", "vllm", backend="cuda", vram=24.0,
        models=(SMALL, NEWER), performance=120.0, cost_per_hour=0.12, metadata={"region": "eu", "gpu": "RTX 4090"},
    ),
    WorkerSpec(
        "worker-server", "http://server.simulated:8000", "vllm", backend="cuda", vram=48.0,
        models=(SMALL, LARGE), performance=80.0, cost_per_hour=0.2, metadata={"region": "us", "gpu": "2x RTX 3090"},
    ),
    WorkerSpec(
        "worker-macbook", "http://macbook.simulated:11434", "ollama", backend="metal", vram=36.0,
        models=(SMALL, NEWER), performance=55.0, cost_per_hour=0.02,
        metadata={"region": "asia", "gpu": "M3 Max", "canary": True},
    ),
    WorkerSpec(
        "worker-mini", "http://mini.simulated:8080", "llamacpp", backend="cpu", vram=32.0,
        models=(SMALL,), performance=9.0, cost_per_hour=0.01, metadata={"region": "eu", "cpu": "Ryzen 7 7700"},
    ),
)  # fmt: skip
"""What is simulated where nobody names any workers: four machines of a home, of all the kinds that the example scripts
tell apart. cost_per_hour: the electricity. performance: tokens per second of one stream of the small model."""

_MOST_MODELS = 10
"""Of which all subsets are looked at for what limits the rate: 2 ** 10 of them."""


def sim_workers(specs: Iterable[WorkerSpec], tables: Mapping[str, WorkerTable]) -> tuple[SimWorker, ...]:
    """The workers with the profile of their hardware, or what a file says."""
    made = []
    for spec in specs:
        table = tables.get(spec.id, WorkerTable())
        usual = Profile(step_s=1.0 / (spec.performance or 50.0))
        made.append(SimWorker(spec, table.profile(usual), table.costs(), table.loaded))
    return tuple(made)


def usual_models(workers: Iterable[SimWorker]) -> dict[str, float]:
    """{model: weight} for traffic that does not say: each by how many workers have it."""
    found: dict[str, float] = {}
    for worker in workers:
        for model in worker.spec.models:
            found[model] = found.get(model, 0.0) + 1.0
    return found


def most_requests_per_s(workers: tuple[SimWorker, ...], traffic: Traffic) -> float:
    """What the workers could serve at most of this traffic, all of them full and each doing what it is best for.

    An estimate: requests of any set of models can come no faster than the workers that have one of these models can
    serve them, which for all sets together is also enough (Hall's theorem).
    """
    weights = model_weights(traffic)
    tokens_in, tokens_out = mean_tokens(traffic)
    speeds = {
        worker.spec.id: {
            model: _speed(worker, model, tokens_in, tokens_out) for model in weights if _has(worker, model)
        }
        for worker in workers
    }
    models = sorted(weights, key=lambda model: -weights[model])
    sets = [(model,) for model in models] + [tuple(models)]
    if len(models) <= _MOST_MODELS:
        sets = [chosen for many in range(1, len(models) + 1) for chosen in itertools.combinations(models, many)]
    bounds = []
    for chosen in sets:
        share = sum(weights[model] for model in chosen)
        speed = sum(max((able.get(model, 0.0) for model in chosen), default=0.0) for able in speeds.values())
        if share > 0 and speed > 0:
            bounds.append(speed / share)
    return min(bounds, default=1.0)


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


def _speed(worker: SimWorker, model: str, tokens_in: float, tokens_out: float) -> float:
    """Requests per second of a worker that is full, by the formula of `types.Profile`."""
    profile = worker.profile
    times = worker.footprints[model].times if model in worker.footprints else 1.0
    room = max(1.0, profile.kv_tokens / (tokens_in + tokens_out))
    at_once = min(profile.slots, worker.spec.max_concurrency or profile.slots, room)
    context = profile.context_s * (tokens_in + tokens_out / 2)
    one_s = tokens_in * profile.prefill_s + tokens_out * (profile.step_s / at_once + profile.sequence_s + context)
    return 1.0 / max(1e-9, times * one_s + profile.overhead_s / at_once)


def with_models(specs: Iterable[WorkerSpec], models: Iterable[str]) -> tuple[WorkerSpec, ...]:
    """The workers, of which those that list no models have these: a probe would have found some."""
    names = tuple(models)
    return tuple(msgspec.structs.replace(spec, models=names) if not spec.models else spec for spec in specs)
