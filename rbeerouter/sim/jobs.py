"""Many simulations at once: one process for each core, the results in the order in which they were asked for.

`diff` and `tune` run hundreds of independent simulations. What comes back does not depend on how many processes there
are, or on who was quicker. Nothing here knows what is simulated.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")

_work: Callable[[Any], Any] | None = None


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Callable[[Item], Found], items: Sequence[Item], jobs: int) -> Iterator[Found]:
    """`work(item)` of each item, in their order, `jobs` of them at a time.

    The processes are forks of this one, so `work` may be any function, and what it holds need not be picklable; items
    and what is found must be. What `work` raises is raised here.
    """
    jobs = min(jobs, len(items))
    if jobs <= 1:
        for item in items:
            yield work(item)
        return
    context = multiprocessing.get_context("fork")
    with context.Pool(jobs, _remember, (work,)) as pool:
        yield from pool.imap(_do, items)


def _remember(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work


def _do(item: Any) -> Any:
    assert _work is not None
    return _work(item)
