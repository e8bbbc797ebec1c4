"""prefix-cache as AIBrix has it, for `strict = true`: a rule of thresholds over one list of blocks for all workers.

Source: vllm-project/aibrix, pkg/plugins/gateway/algorithms/prefix_cache.go and pkg/utils/prefixcacheindexer/hash.go,
of August 2026, with the values of its manifest as defaults.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.config.sections import Prefix
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Request, Text, Worker
from rbeerouter.routing.strategies.base import Context, best

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job


class StrictIndex(Memory):
    """Who was sent each block, in one list for all workers: the least recently sent go first, and all after a time.

    Nothing is taken back: neither when an attempt fails, nor when a worker is started again.
    """

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self._prefix = options if isinstance(options, Prefix) else Prefix()
        self._held: OrderedDict[tuple[str, int], tuple[float, set[str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def match(self, model: str, blocks: Sequence[int], workers: Iterable[str]) -> dict[str, int]:
        """{worker id: how much of the prompt it has, in whole per cent}; who has nothing is not in it."""
        live, found = set(workers), dict[str, int]()
        for count, block in enumerate(blocks, 1):
            held = self._held.get((model, block))
            if held is None:
                break
            live &= held[1]
            if not live:
                break
            percent = count * 100 // len(blocks)
            for name in live:
                found[name] = percent
        return found

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        text, model, held = job.request.text, job.request.model, self._held
        for block in text.blocks() if text is not None else ():
            _, names = held.get((model, block)) or (now, set[str]())
            names.add(worker.id)
            held[model, block] = now, names
            held.move_to_end((model, block))
        while len(held) > self._prefix.strict_blocks:
            held.popitem(last=False)

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        held = self._held
        while held and next(iter(held.values()))[0] < now - self._prefix.strict_kept_s:
            held.popitem(last=False)


class StrictPrefix:
    """The rule in three steps.

    1. While the workers' requests differ by more than `strict_imbalance`, only those with the fewest are candidates.
    2. Of the candidates that have a part of the prompt, the one with most of it, then with the fewest requests, that
    has no more requests than mean + `strict_deviations` standard deviations of all.
    3. Else the one with the fewest requests.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._prefix = context.options.prefix
        self.index = context.memory(StrictIndex, context.options.prefix)

    def percents(self, request: Request, text: Text, workers: list[Worker]) -> list[float]:
        found = self.index.match(request.model, text.blocks(), [worker.id for worker in workers])
        return [float(found.get(worker.id, 0)) for worker in workers]

    def choose(self, request: Request, workers: list[Worker]) -> Worker:
        chance, counts = self._context.chance, [worker.in_flight for worker in workers]
        candidates = workers
        if max(counts) - min(counts) > self._prefix.strict_imbalance:
            candidates = [worker for worker in workers if worker.in_flight == min(counts)]
        found: dict[str, int] = {}
        if request.text is not None:
            found = self.index.match(request.model, request.text.blocks(), [worker.id for worker in candidates])
        most = fmean(counts) + self._prefix.strict_deviations * (stdev(counts) if len(counts) > 1 else 0.0)
        able = [worker for worker in candidates if worker.id in found and worker.in_flight <= most]
        if able:
            ranks = [(-found[worker.id], worker.in_flight) for worker in able]
            first = min(ranks)
            return chance.choice([worker for worker, rank in zip(able, ranks, strict=True) if rank == first])
        return best(chance, workers, counts)
