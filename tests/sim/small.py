"""Small scenarios for tests of the lab: traffic and workers that are easy to reckon with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rbeerouter.config.sections import Config, Control, Health, Limits, Probes, Routing, Server
from rbeerouter.core.types import Request, WorkerSpec
from rbeerouter.sim.types import Arrival, Profile, Scenario, SimWorker


class Poisson:
    """Requests at random times, `rate` a second, each of `tokens_out` tokens by chance or as it says."""

    block_tokens = 16

    def __init__(
        self, count: int, rate: float, tokens_out: Callable[[random.Random], int] = lambda rng: 10, seed: int = 7,
        tokens_in: int = 10, stream: bool = True, leaves_after_s: float | None = None, users: int = 4,
    ) -> None:
        self.name = "small"
        self.count: int | None = count
        self._rate, self._seed, self._stream = rate, seed, stream
        self._tokens_in, self._tokens_out = tokens_in, tokens_out
        self._leaves_after_s, self._users = leaves_after_s, users

    def __iter__(self) -> Iterator[Arrival]:
        rng, at = random.Random(self._seed), 0.0
        for number in range(self.count or 0):
            at += rng.expovariate(self._rate)
            user = f"user-{rng.randrange(self._users)}"
            metadata = {"tier": "premium" if rng.random() < 0.2 else "free", "type": "llm"}
            yield Arrival(
                at, request(f"r-{number}", user_id=user, stream=self._stream, metadata=metadata), self._tokens_in,
                self._tokens_out(rng), leaves_after_s=self._leaves_after_s,
            )


class Listed:
    """These arrivals."""

    block_tokens = 16
    name = "listed"

    def __init__(self, *arrivals: Arrival) -> None:
        self._arrivals = arrivals
        self.count: int | None = len(arrivals)

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self._arrivals)


def request(name: str, **fields: Any) -> Request:
    given: dict[str, Any] = {
        "id": name, "path": "/v1/chat/completions", "model": "m", "model_size": None, "user_id": "somebody",
        "priority": None, "max_tokens": 100, "stream": True, "metadata": {}, "prompt_tokens": 10,
    }
    return Request(**(given | fields))


def arrival(at_s: float, name: str = "", tokens_out: int = 10, **fields: Any) -> Arrival:
    leaves_after_s = fields.pop("leaves_after_s", None)
    return Arrival(at_s, request(name or f"at-{at_s}", **fields), 10, tokens_out, leaves_after_s=leaves_after_s)


def worker(name: str, engine: str = "vllm", slots: int = 4, places: int | None = None, **profile: Any) -> SimWorker:
    """A token takes 10 ms, whatever else there is to do."""
    given = {"step_s": 0.01, "prefill_s": 0.0, "slots": slots} | profile
    spec = WorkerSpec(name, f"http://{name}:8000", engine=engine, models=("m",), max_concurrency=places or slots)
    return SimWorker(spec, Profile(**given))


def config(**sections: Any) -> Config:
    """A configuration with some values in place of the defaults: limits={"queue_s": 5.0}."""
    kinds = {"routing": Routing, "limits": Limits, "probes": Probes, "health": Health}
    made = {name: kind(**sections.pop(name, {})) for name, kind in kinds.items()}
    return Config(None, Server(), Control(), workers=(), script=None, log=Path("routing.log"), **made, **sections)


def scenario(workload: Any, *workers: SimWorker, **fields: Any) -> Scenario:
    return Scenario(fields.pop("config", config()), workers, workload, **fields)
