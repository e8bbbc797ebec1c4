"""Starting background tasks: the one way to do it.

A task started here is named, kept from garbage collection, and heard of when it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

_running: set[asyncio.Task[Any]] = set()


def start(name: str, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Runs `work` in the background. An exception in it goes to the loop's exception handler, with its name."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": f"the task '{task.get_name()}' failed", "exception": error, "task": task}
        )
