"""Changing a worker while it runs: GET and POST /_fault on its own port.

Called by worker.py when the command line made the worker. It must not change anything when a part of a wish is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .names import find
from .parts import whole
from .request_reader import Request

if TYPE_CHECKING:
    from .worker import FaultWorker

PATH = "/_fault"
PROBES = ("ok", "refuse", "hang", "503")


def answer(worker: FaultWorker, request: Request) -> bytes:
    """Do what a request to /_fault asks for, and tell what the worker now does and has seen."""
    try:
        wish = request.json() if request.method == "POST" else {}
        if not isinstance(wish, dict):
            raise ValueError("expected an object")
        change(worker, wish)
    except ValueError as error:
        return whole(400, {"error": {"message": str(error), "code": "invalid_fault"}})
    if wish:
        worker.tell("control", **wish)
    return whole(200, state(worker))


def state(worker: FaultWorker) -> dict[str, Any]:
    return {
        "worker": worker.name, "behaviour": as_list(worker.behave), "probe": worker.probe, "models": worker.models,
        "delay_s": worker.delay_s, "idle_close_s": worker.idle_close_s, "requests": len(worker.requests),
        "probes": len(worker.probes), "left": len(worker.closed_by_peer),
        "open_connections": worker.open_connections, "connections_accepted": worker.connections_accepted,
    }  # fmt: skip


def change(worker: FaultWorker, wish: dict[str, Any]) -> None:
    """Take over what a wish says.

    Raises:
        ValueError: for an unknown key or value; then nothing has changed.
    """
    for key, value in wish.items():
        if key not in CHECKS or not CHECKS[key](value):
            raise ValueError(f"{key}: {value!r}; docs/fault-worker.md tells the values of {', '.join(CHECKS)}")
    for key, value in wish.items():
        if key == "behaviour":
            worker.behave = as_list(value)
        elif key == "refuse_s":
            worker.refuse_for(value)
        else:
            setattr(worker, key, value)


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def are_behaviours(value: Any) -> bool:
    return bool(value) and all(isinstance(name, str) and find(name) is not None for name in as_list(value))


def is_probe(value: Any) -> bool:
    return value in PROBES or (isinstance(value, str) and len(value) == 3 and value.isdigit() and value[0] in "12345")


def are_models(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9


def is_duration_or_never(value: Any) -> bool:
    return value is None or is_duration(value)


CHECKS: dict[str, Callable[[Any], bool]] = {
    "behaviour": are_behaviours, "probe": is_probe, "models": are_models, "delay_s": is_duration,
    "idle_close_s": is_duration_or_never, "refuse_s": is_duration,
}  # fmt: skip
