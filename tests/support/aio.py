"""Runs the coroutine of an async test to its end, under a time limit.

Called by every async test as `run(story())` or under the decorator `@story`, and by tests whose client blocks, which
keep the servers of the test in a `LoopThread`. It must not grow fixtures or plugins: a test is a plain function.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import uvloop

Result = TypeVar("Result")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def run(
    coroutine: Coroutine[Any, Any, Result], timeout_s: float = 90.0, *, loop_factory: LoopFactory | None = None
) -> Result:
    """Run `coroutine` in a new event loop; raises TimeoutError when it takes longer than `timeout_s`."""

    async def bounded() -> Result:
        async with asyncio.timeout(timeout_s):
            return await coroutine

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())


def story(
    test: Callable[..., Coroutine[Any, Any, None]] | None = None, *, timeout_s: float = 90.0
) -> Callable[..., Any]:
    """Make a plain test function of an async one, run as `run` does, on the loop that the daemon uses."""
    if test is None:
        return functools.partial(story, timeout_s=timeout_s)

    @functools.wraps(test)
    def told(*arguments: Any, **named: Any) -> None:
        run(test(*arguments, **named), timeout_s, loop_factory=uvloop.new_event_loop)

    return told


class LoopThread:
    """An event loop in a thread of its own: `with LoopThread() as loop: loop.run(coroutine)`."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="loop", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def run(self, coroutine: Coroutine[Any, Any, Result], timeout_s: float = 90.0) -> Result:
        """Run `coroutine` there, and block until it has ended."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
