"""Runs the coroutine of an async test to its end, under a time limit.

Called by every async test as `run(story())`. It must not grow fixtures or plugins: a test is a plain function.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

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
