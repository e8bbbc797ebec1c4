"""What strategies remember of traffic: who was sent what, and how it ended.

`Dispatcher` tells each memory of every job in the step in which it happens, whoever chose the worker: the strategy, the
script or a failure before. A strategy asks for its memory by kind and options (`Memories.of`), so two strategies share
one, a reload goes on with it, and what nobody asked for costs nothing. A strategy reads its memory and never writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job
    from rbeerouter.core.errors import Failure
    from rbeerouter.core.types import Worker


class Memory:
    """One thing that is remembered. What it keeps must be bounded by its options, and must not keep alive what a job
    holds beyond its end.

    Args:
        options: its table of the configuration, or None; a memory with other options is another one.
    """

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        self.options = options

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        """A job was given to a worker, which counts it already."""

    def answering(self, job: Job, worker: Worker, now: float) -> None:
        """The client has got the first content of its answer: the prompt is computed. Not told of every job."""

    def released(self, job: Job, worker: Worker, failure: Failure | None, now: float) -> None:
        """That job has left the worker, which counts it no more; exactly one call for each `sent`. What is known of its
        usage stands in `job.tokens_in` and `job.tokens_out`."""

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        """Called about twice a second. workers: all that there are; of others, nothing need be remembered."""


M = TypeVar("M", bound=Memory)
Kind = tuple[type[Memory], msgspec.Struct | None]
"""What tells one memory from another."""


class Memories:
    """All that is remembered.

    Attributes:
        all: to be told of every job.
    """

    def __init__(self) -> None:
        self.all: tuple[Memory, ...] = ()
        self._read: Memories | None = None
        self._by_kind: dict[Kind, Memory] = {}

    def of(self, kind: type[M], options: msgspec.Struct | None = None) -> M:
        """The memory of this kind, begun now if there is none yet. options: hashable."""
        memory = self._by_kind.get((kind, options))
        if memory is None and self._read is not None:
            memory = self._read._by_kind.get((kind, options))
        if memory is None:
            memory = self._by_kind[kind, options] = kind(options)
            self.all = tuple(self._by_kind.values())
        return memory  # type: ignore[return-value]

    def keep(self, asked: Iterable[Kind]) -> None:
        """Forgets all but those that are asked for."""
        self._by_kind = {key: self._by_kind[key] for key in asked if key in self._by_kind}
        self.all = tuple(self._by_kind.values())

    def to_read(self) -> Memories:
        """The same for somebody who decides beside: what is begun there is told of nothing, and nobody here of it."""
        reader = Memories()
        reader._read = self
        return reader
