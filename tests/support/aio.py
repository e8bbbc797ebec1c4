"""Runs the coroutine of an async test to its end, under a time limit.

Called by every async test as `run(story())` or under the decorator `@story`. It must not grow fixtures or plugins: a
test is a plain function.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

Result = TypeVar("Result")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run(
    coroutine: Coroutine[Any, Any, Result], timeout_s: float = 30.0, *, loop_factory: LoopFactory | None = None
) -> Result:
    """Run `coroutine` in a new event loop; raises TimeoutError when it takes longer than `timeout_s`."""

    async def bounded() -> Result:
        async with asyncio.timeout(timeout_s):
            return await coroutine

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())


def story(
    test: Callable[..., Coroutine[Any, Any, None]] | None = None, *, timeout_s: float = 30.0
) -> Callable[..., Any]:
    """Make a plain test function of an async one, run as `run` does, on the loop that the daemon uses."""
    if test is None:
        return functools.partial(story, timeout_s=timeout_s)

    @functools.wraps(test)
    def told(*arguments: Any, **named: Any) -> None:
        run(test(*arguments, **named), timeout_s, loop_factory=uvloop.new_event_loop)

    return told
