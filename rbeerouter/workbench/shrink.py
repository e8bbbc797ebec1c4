"""Makes a failing case small: fewer workers, fewer fields, plainer values, as long as it still fails.

`properties` and `suite` call it with a question that loads the script anew for each try, so the number of tries is
bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from rbeerouter.core.types import OFFLINE, READY
from rbeerouter.workbench.inputs import PROMPT_TOKENS, Case
from rbeerouter.workbench.stage import NOON, Placed

MOST_TRIES = 250

_REQUEST = {
    "path": "/v1/chat/completions", "user_id": None, "session_id": None, "priority": None, "max_tokens": None,
    "stream": False, "headers": {}, "prompt": None, "prompt_tokens": PROMPT_TOKENS, "model_size": None,
}  # fmt: skip
_SPEC = {
    "engine": "openai", "backend": None, "vram": None, "performance": None, "cost_per_hour": None, "role": None,
    "loras": (), "models": (), "max_concurrency": 4,
}  # fmt: skip
_STATE = dict.fromkeys(("waiting", "kv_usage", "vram_used", "latency_ms", "ttft_ms"))
_change = msgspec.structs.replace


def shrink(case: Case, fails: Callable[[Case], bool], most: int = MOST_TRIES) -> Case:
    """A smaller case for which `fails` is true as well; the case itself when there is none."""
    tries = 0
    while True:
        for smaller in _smaller(case):
            tries += 1
            if tries > most:
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
    for request in _plainer(case.request, _REQUEST):
        yield _change(case, request=request)
    if len(case.request.model) > 1:
        yield _rename_model(case, case.request.model, "m")
    plain = tuple(_plain(one) for one in workers)
    if plain != workers:
        yield _change(case, workers=plain)
    for place, one in enumerate(workers):
        for smaller in _smaller_worker(one):
            yield _change(case, workers=(*workers[:place], smaller, *workers[place + 1 :]))


def _smaller_worker(one: Placed) -> Iterator[Placed]:
    plain = _plain(one)
    if plain != one:
        yield plain
    if one.status != READY:
        yield _change(one, status=READY, in_flight=0)
    if one.in_flight and one.status in (READY, OFFLINE):
        yield _change(one, in_flight=0)
    yield from _plainer(one, _STATE)
    for spec in _plainer(one.spec, _SPEC):
        same_room = spec.max_concurrency == one.spec.max_concurrency
        if same_room or (one.status == READY and one.in_flight < spec.max_concurrency):
            yield _change(one, spec=spec)
    if len(one.spec.models) > 1:
        for model in one.spec.models:
            yield _change(one, spec=_change(one.spec, models=(model,)))


def _plain(one: Placed) -> Placed:
    """The worker with nothing but its name, its models and whether it has room."""
    spec = _change(one.spec, metadata={}, **{name: value for name, value in _SPEC.items() if name != "models"})
    return Placed(spec, one.status, {READY: 0, OFFLINE: 0}.get(one.status, spec.max_concurrency))


def _plainer(thing: Any, plain: dict[str, Any]) -> Iterator[Any]:
    """All fields as they are by themselves, then each alone; then metadata with fewer and with plainer entries."""
    differing = {name: value for name, value in plain.items() if getattr(thing, name) != value}
    if len(differing) > 1:
        yield _change(thing, **differing)
    for name, value in differing.items():
        yield _change(thing, **{name: value})
    metadata: dict[str, Any] = getattr(thing, "metadata", {})
    if metadata:
        yield _change(thing, metadata={})
    if len(metadata) > 1:
        for name in metadata:
            yield _change(thing, metadata={key: value for key, value in metadata.items() if key != name})
    for name, value in metadata.items():
        if isinstance(value, str) and len(value) > 1:
            yield _change(thing, metadata={**metadata, name: "a"})
        elif type(value) in (int, float) and value not in (0, 1):
            yield _change(thing, metadata={**metadata, name: 1})


def _rename_model(case: Case, old: str, new: str) -> Case:
    def renamed(one: Placed) -> Placed:
        models = tuple(dict.fromkeys(new if model == old else model for model in one.spec.models))
        return _change(one, spec=_change(one.spec, models=models))

    request = _change(case.request, model=new, model_size=None)
    return _change(case, request=request, workers=tuple(renamed(one) for one in case.workers))
