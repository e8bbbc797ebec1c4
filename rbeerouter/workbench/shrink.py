"""Makes a failing case small: fewer workers, fewer fields, plainer values, as long as it still fails.

`properties` and `suite` call it with a question that loads the script anew for each try, so the number of tries and
their time are bounded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from rbeerouter.core.types import BUSY, READY
from rbeerouter.dialects.model_sizes import model_size
from rbeerouter.dialects.surfaces import KINDS_OF_PATHS
from rbeerouter.workbench.fleets import Row
from rbeerouter.workbench.inputs import CAPACITY, PROMPT_TOKENS, Case
from rbeerouter.workbench.stage import NOON

MOST_TRIES = 250
MOST_S = 3.0
"""For scripts that take long; others are through in a fraction of it."""

_REQUEST = {
    "path": "/v1/chat/completions", "user_id": None, "session_id": None, "priority": None, "max_tokens": None,
    "stream": False, "headers": {}, "prompt": None, "prompt_tokens": PROMPT_TOKENS,
}  # fmt: skip
_WORKER = {
    "engine": "openai", "backend": None, "vram": None, "performance": None, "cost_per_hour": None, "role": None,
    "loras": (), "waiting": None, "kv_usage": None, "vram_used": None, "latency_ms": None, "ttft_ms": None,
}  # fmt: skip
_change = msgspec.structs.replace


def shrink(case: Case, fails: Callable[[Case], bool], most: int = MOST_TRIES) -> Case:
    """A smaller case for which `fails` is true as well; the case itself when there is none."""
    tries, ends = 0, time.monotonic() + MOST_S
    while True:
        for smaller in _smaller(case):
            tries += 1
            if tries > most or time.monotonic() > ends:
                return case
            if fails(smaller):
                case = smaller
                break
        else:
            return case


def _smaller(case: Case) -> Iterator[Case]:
    """Cases that are a step simpler, the largest steps first. None of them is simpler than nothing, so this ends."""
    workers = case.workers
    size = len(workers)
    step = size
    while step:
        for start in range(0, size, step):
            yield _change(case, workers=workers[:start] + workers[start + step :])
        step //= 2
    if case.failing:
        yield _change(case, failing=())
        if len(case.failing) > 1:
            for name in case.failing:
                yield _change(case, failing=(name,))
    if case.wall != NOON:
        yield _change(case, wall=NOON)
    least = {"type": KINDS_OF_PATHS.get(case.request.path, "llm")}
    size = model_size(case.request.model)
    for request in _plainer(case.request, {**_REQUEST, "model_size": size}, least):
        yield _change(case, request=request)
    if len(case.request.model) > 1:
        yield _rename_model(case, case.request.model, "m")
    plain = tuple(_plain(one) for one in workers)
    if plain != workers:
        yield _change(case, workers=plain)
    for place, one in enumerate(workers):
        for smaller in _smaller_worker(one):
            yield _change(case, workers=(*workers[:place], smaller, *workers[place + 1 :]))


def _smaller_worker(one: Row) -> Iterator[Row]:
    plain = _plain(one)
    if plain != one:
        yield plain
    if one.status != READY:
        yield _change(one, status=READY, in_flight=0)
    if one.capacity != CAPACITY:
        yield _change(one, capacity=CAPACITY, in_flight=CAPACITY if one.status == BUSY else 0)
    if one.in_flight and one.status != BUSY:
        yield _change(one, in_flight=0)
    if one.models:
        yield _change(one, models=())
    yield from _plainer(one, _WORKER, {})
    if len(one.models) > 1:
        for model in one.models:
            yield _change(one, models=(model,))


def _plain(one: Row) -> Row:
    """The worker with nothing but its name, its models and whether it has room."""
    in_flight = CAPACITY if one.status == BUSY else 0
    return Row(one.id, one.status, in_flight, CAPACITY, models=one.models)


def _plainer(thing: Any, plain: dict[str, Any], least: dict[str, Any]) -> Iterator[Any]:
    """All fields as they are by themselves, then each alone; then metadata with fewer and with plainer entries.

    `least` is the metadata that there always is.
    """
    differing = {name: value for name, value in plain.items() if getattr(thing, name) != value}
    if len(differing) > 1:
        yield _change(thing, **differing)
    for name, value in differing.items():
        yield _change(thing, **{name: value})
    metadata: dict[str, Any] = thing.metadata
    if metadata != least:
        yield _change(thing, metadata=least)
    for name, value in metadata.items():
        others = {key: other for key, other in metadata.items() if key != name}
        if name in least and value != least[name]:
            yield _change(thing, metadata={**others, name: least[name]})
        if name in least:
            continue
        if len(metadata) > len(least) + 1:
            yield _change(thing, metadata=others)
        if isinstance(value, str) and len(value) > 1:
            yield _change(thing, metadata={**metadata, name: "a"})
        elif type(value) in (int, float) and value not in (0, 1):
            yield _change(thing, metadata={**metadata, name: 1})


def _rename_model(case: Case, old: str, new: str) -> Case:
    def renamed(one: Row) -> Row:
        return _change(one, models=tuple(dict.fromkeys(new if model == old else model for model in one.models)))

    request = _change(case.request, model=new)
    return _change(case, request=request, workers=tuple(renamed(one) for one in case.workers))
