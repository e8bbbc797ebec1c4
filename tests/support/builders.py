"""Workers, fleets, requests and time for the unit tests, with everything that a test does not name filled in.

Called by tests/core, tests/routing, tests/dialects, test_config and test_record. Unlike the rest of this package it
imports rbeerouter: these tests stand inside of it.
"""

from __future__ import annotations

import functools
import random
from typing import Any

from hypothesis import settings

from rbeerouter.core.chance import Chance
from rbeerouter.core.dispatch import Job
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.health import HealthRules
from rbeerouter.core.types import Env, Report, Request, Worker, WorkerSpec
from rbeerouter.routing.sandbox import Abilities, Limits
from rbeerouter.routing.script import Choice, Script
from rbeerouter.routing.strategies.base import Context

SCRIPT = "routing.lua"
WALL = 1_772_366_405.25
"""2026-03-01 12:00:05.250 UTC, a Sunday."""


FULL_WORKER = WorkerSpec(
    id="gpu-1", url="http://gpu-1.test:8000", engine="vllm", backend="cuda", vram=24.0, models=("a", "b", "c"),
    performance=1.5, cost_per_hour=0.75,
    max_concurrency=8, metadata={"region": "eu", "tier": 2, "spot": True, "price": 0.5}, weight=2.5,
)  # fmt: skip
"""A worker of which the operator has said everything."""

quick = functools.partial(settings, deadline=None, derandomize=True, database=None)
"""Settings of the property tests: the same examples in every run, and no folder for them."""


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.wall_s = WALL
        self.utc_offset_s = 0

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
        self.wall_s += seconds


def env(clock: Clock | None = None, seed: int = 7) -> Env:
    """An Env on a hand-moved clock and a seeded rng."""
    hand = clock or Clock()
    return Env(lambda: hand.now_s, lambda: hand.wall_s, random.Random(seed), lambda: hand.utc_offset_s)


def worker(name: str = "w1", **changes: Any) -> WorkerSpec:
    """What an operator says of a worker: room for four requests, no models named."""
    return WorkerSpec(**{"id": name, "url": f"http://{name}.test:8000", "max_concurrency": 4, **changes})


def fleet(*specs: WorkerSpec | str, up: bool = True, rules: HealthRules | None = None) -> Fleet:
    """A fleet whose workers have answered a probe; w1, w2 and w3 that serve the model m, unless told otherwise."""
    made = Fleet(rules)
    named = specs or ("w1", "w2", "w3")
    made.configure([worker(spec, models=("m",)) if isinstance(spec, str) else spec for spec in named])
    for one in made.ordered if up else ():
        made.apply(Report(one.id, True, None, 0.0))
    return made


def fill(made: Fleet, name: str, jobs: int) -> Worker:
    """Puts that many jobs on a worker."""
    one = made.workers[name]
    for _ in range(jobs):
        made.sent(one, 0.0)
    return one


def down(made: Fleet, name: str) -> Worker:
    """Makes a worker unreachable."""
    for _ in range(made.rules.fall):
        made.apply(Report(name, False, None, 0.0))
    return made.workers[name]


def request(**changes: Any) -> Request:
    """A chat request for the model m."""
    return Request(
        **{
            "id": "r-1", "path": "/v1/chat/completions", "model": "m", "model_size": None, "user_id": None,
            "priority": None, "max_tokens": None, "stream": False, "metadata": {"type": "llm"}, **changes,
        }
    )  # fmt: skip


def job(**changes: Any) -> Job:
    """A job that has just arrived."""
    return Job(request(**changes), arrived=100.0, wall=WALL)


def lua(body: str) -> bytes:
    """A script whose route_request has this body, which begins at line 2."""
    return f"function route_request(request, workers)\n{body}\nend\n".encode()


def context(seed: int = 1, **parts: Any) -> Context:
    """What a strategy is made of."""
    return Context(Chance(seed), parts.pop("now", lambda: 100.0), **parts)


def script(
    source: str | bytes,
    *,
    explain: bool = False,
    limits: Limits | None = None,
    abilities: Abilities | None = None,
    **place: Any,
) -> Script:
    """A loaded script; a text is the body of route_request, bytes are a whole file."""
    whole = source if isinstance(source, bytes) else lua(source)
    return Script(whole, SCRIPT, env(**place), limits, abilities or Abilities(explain=explain))


def ask(source: str | bytes, made: Fleet | None = None, abilities: Abilities | None = None, **changes: Any) -> Choice:
    """What a script answers to one request, named by its fields, on w1, w2 and w3 unless told otherwise."""
    return script(source, abilities=abilities).route(request(**changes), made or fleet())


def shown(
    expression: str, made: Fleet | None = None, before: str = "", abilities: Abilities | None = None, **changes: Any
) -> str:
    """The value of a Lua expression inside route_request as text, or the error that it raised."""
    choice = ask(f"{before} log(tostring({expression}))", made, abilities, **changes)
    if choice.error is not None:
        return choice.error.removeprefix(f"{SCRIPT}: ")
    return choice.log[-1]


def told(choice: Choice) -> str | None:
    """The error of a choice without its hint, which `routing.problem` adds and tests/routing/test_problem.py tests."""
    return None if choice.error is None else choice.error.partition(" (hint: ")[0]


def picked(
    source: str | bytes, made: Fleet | None = None, abilities: Abilities | None = None, **changes: Any
) -> str | None:
    """The id of the worker that a script chose; its error, without the hint, where it failed."""
    choice = ask(source, made, abilities, **changes)
    return choice.worker.id if choice.worker else told(choice)
