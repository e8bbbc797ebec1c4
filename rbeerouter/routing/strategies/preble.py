"""prefix-cache-preble: a prompt of which most is known goes where that is, any other where the cost is least.

A sketch of Preble (Srivatsa et al., ICLR 2025) as AIBrix has it (pkg/plugins/gateway/algorithms/prefix_cache_preble.go)
with its defects mended: the cost of a part of a prompt is shared by all workers that have it, parts that prompts share
count as well as their ends, and what one worker is charged follows from what was found in its cache in truth.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from rbeerouter.config.sections import Preble
from rbeerouter.core.memory import Memory
from rbeerouter.core.types import Request, Worker
from rbeerouter.routing.strategies.base import Context, Scored, best

if TYPE_CHECKING:
    from rbeerouter.core.dispatch import Job


class _Node(msgspec.Struct, eq=False):
    """A part of prompts: from where one of them parts from all others to where the next does, or to the end.

    label: its blocks. depth: blocks from the beginning to its end. workers: {id: when it was last sent there}.
    visits: of the window; ends: those of them that end here. asked, found: tokens up to its end that they had, and that
    were in a cache. cost_us: what each of its workers is charged for it now, in whole
    microseconds, so that sums are exact.
    """

    parent: _Node | None
    label: tuple[int, ...]
    depth: int
    block_tokens: int
    workers: dict[str, float]
    children: dict[int, _Node] = msgspec.field(default_factory=dict)
    visits: int = 0
    ends: int = 0
    asked: int = 0
    found: int = 0
    cost_us: int = 0

    @property
    def context(self) -> int:
        """Tokens from the beginning of the prompt to its end."""
        return self.depth * self.block_tokens

    def path(self) -> Iterator[_Node]:
        """It and all before it, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent


class _Visit(msgspec.Struct, gc=False):
    """A prompt of the window. end: its last part. found: tokens of it that were in the worker's cache."""

    at: float
    end: _Node
    found: int


class PrebleTree(Memory):
    """The prompts of the last minutes as a tree, and what each worker is charged for those of the window.

    Memory: about 700 bytes for each part, 45 for each of its blocks, and 80 for each prompt of the window. Under
    so many requests that this would be too much, the window gets shorter.

    Attributes:
        cost_us, visits: {worker id: sums over all parts that it has}, microseconds and prompts.
    """

    def __init__(self, options: msgspec.Struct | None = None) -> None:
        super().__init__(options)
        self._options = options if isinstance(options, Preble) else Preble()
        self._root = _Node(None, (), 0, 1, {})
        self._blocks = 0                                       # of all parts
        self._nodes: OrderedDict[_Node, float] = OrderedDict()  # the least recently sent first, ends before beginnings
        self._window: deque[_Visit] = deque()
        self._generations: dict[str, int] = {}
        self.cost_us: dict[str, int] = {}
        self.visits: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def match(self, blocks: Sequence[int]) -> tuple[list[_Node], int]:
        """(the parts that a prompt begins with, the first one first, how many of its blocks they have together). Of
        the last part, the prompt may have a beginning only."""
        node, count, parts = self._root, 0, list[_Node]()
        while count < len(blocks):
            child = node.children.get(blocks[count])
            if child is None:
                break
            parts.append(child)
            count += _common(child.label, blocks, count)
            if count < child.depth:
                break
            node = child
        return parts, count

    # What the dispatcher tells

    def sent(self, job: Job, worker: Worker, now: float) -> None:
        text = job.request.text
        if text is None or not (blocks := text.blocks()):
            return
        if self._generations.setdefault(worker.id, worker.generation) != worker.generation:
            self._leave(worker.id)
            self._generations[worker.id] = worker.generation
        end, found = self._insert(blocks, worker.id, text.block_tokens)
        visit = _Visit(now, end, found * text.block_tokens)
        self._window.append(visit)
        for node in end.path():
            self._nodes[node] = now
            self._nodes.move_to_end(node)
            self._charge(node, visit, 1, worker.id)
        most_prompts, most_blocks = self._options.most_prompts, self._options.most_blocks
        while len(self._nodes) > most_prompts or self._blocks > most_blocks:
            self._drop()
        if len(self._window) > most_prompts:
            self._expire()

    def tick(self, now: float, workers: Iterable[Worker]) -> None:
        there = {worker.id: worker.generation for worker in workers}
        for name, generation in list(self._generations.items()):
            if there.get(name) != generation:
                self._leave(name)
                del self._generations[name]
        window, nodes, options = self._window, self._nodes, self._options
        while window and window[0].at < now - options.window_s:
            self._expire()
        while nodes and next(iter(nodes.values())) < now - options.kept_s:
            self._drop()

    # The tree

    def _insert(self, blocks: Sequence[int], name: str, block_tokens: int) -> tuple[_Node, int]:
        """(the last part of a prompt, how many of its blocks this worker has been sent before)."""
        parts, count = self.match(blocks)
        if parts and parts[-1].depth > count:
            parts[-1] = self._split(parts[-1], count)
        found = max((node.depth for node in parts if name in node.workers), default=0)
        end = parts[-1] if parts else self._root
        if count < len(blocks):
            child = _Node(end, tuple(blocks[count:]), len(blocks), block_tokens, {})
            self._blocks += len(child.label)
            end.children[blocks[count]] = child
            end = child
        return end, found

    def _split(self, node: _Node, depth: int) -> _Node:
        """Its first part, which is a part of its own from now on; all that went through the one went through both."""
        parent = node.parent
        assert parent is not None, "the root has no blocks"
        self._count(node, -1)
        cut = depth - parent.depth
        upper = _Node(parent, node.label[:cut], depth, node.block_tokens, dict(node.workers), visits=node.visits)
        upper.asked = upper.visits * upper.context
        upper.found = min(upper.asked, node.found)
        parent.children[upper.label[0]] = upper
        node.parent, node.label = upper, node.label[cut:]
        upper.children[node.label[0]] = node
        self._nodes[upper] = self._nodes[node]
        self._count(node, 1)
        self._count(upper, 1)
        return upper

    def _charge(self, node: _Node, visit: _Visit, sign: int, name: str | None = None) -> None:
        """Counts a visit of a part, or takes it back. name: who has the part from now on."""
        self._count(node, -1)
        if name is not None:
            since = visit.at - self._options.kept_s
            for gone in [worker for worker, at in node.workers.items() if at < since]:
                del node.workers[gone]
            node.workers[name] = visit.at
        node.visits += sign
        node.ends += sign if node is visit.end else 0
        node.asked += sign * node.context
        node.found += sign * min(visit.found, node.context)
        if not node.visits:                                    # of what was split, `found` is only about right
            node.asked = node.found = 0
        self._count(node, 1)

    def _count(self, node: _Node, sign: int) -> None:
        """Takes a part out of the sums of its workers, before it is changed, or adds it as it is now."""
        if sign > 0:
            node.cost_us = self._cost_us(node)
        for name in node.workers:
            self.cost_us[name] = self.cost_us.get(name, 0) + sign * node.cost_us
            self.visits[name] = self.visits.get(name, 0) + sign * node.visits

    def _cost_us(self, node: _Node) -> int:
        if not node.visits or not node.workers:
            return 0
        options = self._options
        missed = max(0.0, 1.0 - node.found / node.asked)
        step_ms = prefill_ms(len(node.label) * node.block_tokens, node.context, options.slowness)
        seconds = missed * node.visits * step_ms / 1000 + node.ends * options.decode_tokens * options.token_s
        return int(seconds * 1e6 / len(node.workers))

    def _drop(self) -> None:
        """Forgets the part that was not sent for longest; it has no children, as they would be older."""
        node, _ = self._nodes.popitem(last=False)
        self._count(node, -1)
        assert node.parent is not None and not node.children, "a part is forgotten before its ends"
        del node.parent.children[node.label[0]]
        self._blocks -= len(node.label)
        node.label = ()                                        # the window may have it for longer

    def _expire(self) -> None:
        """The oldest prompt of the window counts no more."""
        visit = self._window.popleft()
        for node in visit.end.path():
            if node in self._nodes:
                self._charge(node, visit, -1)

    def _leave(self, name: str) -> None:
        """A worker has nothing any more."""
        for node in self._nodes:
            if name in node.workers:
                self._count(node, -1)
                del node.workers[name]
                self._count(node, 1)
        self.cost_us.pop(name, None)
        self.visits.pop(name, None)


class PrefixCachePreble(Scored):
    """More than `reuse_share` of the prompt is known: of the workers that have most of it, the one with the fewest
    visits in the window. Else the one with the least cost. While requests differ by more than `imbalance`, only the
    workers with the fewest are asked.

    In a weighted list its score is the cost.
    """

    name = "prefix-cache-preble"
    by_load = True
    reads_prompt = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._options = context.options.preble
        self.tree = context.memory(PrebleTree, context.options.preble)

    def scores(self, request: Request, workers: list[Worker]) -> Sequence[float | None] | None:
        if request.text is None:
            return None
        cost_us = self.tree.cost_us
        return [cost_us.get(worker.id, 0) for worker in workers]

    def choose(self, request: Request, workers: list[Worker]) -> Worker | None:
        text, tree, chance = request.text, self.tree, self.context.chance
        if text is None:
            return None
        least = min(worker.in_flight for worker in workers)
        if max(worker.in_flight for worker in workers) - least > self._options.imbalance:
            workers = [worker for worker in workers if worker.in_flight == least]
        blocks = text.blocks()
        parts, count = tree.match(blocks)
        for node in reversed(parts) if count > self._options.reuse_share * len(blocks) else ():
            holders = [worker for worker in workers if worker.id in node.workers]
            if holders:
                return best(chance, holders, [tree.visits.get(worker.id, 0) for worker in holders])
        return best(chance, workers, [tree.cost_us.get(worker.id, 0) for worker in workers])


def prefill_ms(own: int, context: int, slowness: float) -> float:
    """How long a step takes for so many tokens of a part that ends so many tokens behind the beginning. Measured for
    Preble with Mistral 7B on an A6000 (AIBrix has a V100 for 2.5 times as slow); 0.9 is the part of a step that it is.
    """
    if own >= 384:
        linear = 0.10842571 * own + 4.209777
    elif own >= 192:
        linear = -118.0 + 1.25 * own - 0.00256 * own * own
    else:
        linear = 22.0
    attention = 0.32
    if context > 1024:
        attention = (1.86e-4 * context + 0.159) / (2 if own <= 1024 else 1)
    quadratic = -7.37 + 3.86e-3 * own + 2.16e-6 * own * own if own >= 4096 else 0.0
    return slowness * (linear + attention + quadratic) / 0.9


def _common(label: tuple[int, ...], blocks: Sequence[int], start: int) -> int:
    """How many blocks of a label the prompt goes on with."""
    most = min(len(label), len(blocks) - start)
    for place in range(most):
        if label[place] != blocks[start + place]:
            return place
    return most
