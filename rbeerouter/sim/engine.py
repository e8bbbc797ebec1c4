"""One simulated worker's inference engine: continuous batching under a clock of numbers. `world` drives it.

The law is `types.Profile`. In full, for one step that begins at a step boundary:

1. Sequences that were cancelled go. While the next token of all decoding sequences does not fit into the KV cache, the
   newest running sequence is preempted: it goes back to the head of the queue and begins again by computing its prompt
   and what it has generated, as in vLLM V1 (vllm/v1/core/sched/scheduler.py). A sequence that is alone is let run.
2. The step has room for `batch_tokens` tokens: one for each decoding sequence, the rest for chunks of prompts in order
   of admission. While there is room left, a slot free and the whole prompt fits into the KV cache, the request at the
   head of the queue is admitted; nobody overtakes it.
3. At the step's end each sequence that was decoding has one more token, and a prompt that was finished its first one.
   Whoever has all tokens leaves.

A request that arrives during a step joins at its end; an idle engine begins at once. "Tokens in context" are the
prompts and answers so far of the sequences that decode. Where models have footprints or memory is limited, each model
is a batch of its own and the steps of all add up; its `times` multiplies its part.

Steps are exact, but never looped over: between changes of the batch all are alike, so a *run* of them is one jump. With
`context_s` each step of a run is longer than the one before by the same amount, and the jump is a sum of a series.

It decides nothing about routing, and adds no `overhead_s`: that lies before `submit`. Speed is the point of how it is
written: one to three calls of `_turn` for each request, plain attributes, a heap of the steps at which sequences end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized
from heapq import heapify, heappop, heappush
from itertools import islice
from math import inf, sqrt
from typing import Any

from rbeerouter.sim.model_memory import NOTHING, ModelMemory
from rbeerouter.sim.prefix_cache import PrefixCache
from rbeerouter.sim.types import Arrival, Profile, SimWorker

WAITING, PREFILL, DECODING, LEAVING, ENDED = range(5)
"""Where a request is: in the queue, its prompt being computed, its answer; cancelled, until the step's end; gone."""

_MANY = 1 << 60
_ROUNDED = 1.0 - 1e-9
"""By what a time that must not be too late is made less, as sums of floats differ by their order."""
UNLIMITED_TOKENS = 1 << 40
"""A KV cache of so many tokens or more is never full, and nobody counts."""


class Work:
    """A request inside of an engine.

    first_s, finished_s: when its first and its last token were out. cached_tokens: prompt tokens found in the cache
    when it was admitted. tag: whatever the owner wants to find again.

    Inside: `size` prompt tokens, `total` tokens to generate, `kept` of them when it does not decode, `base` the step at
    which it had none; `left` tokens to compute before it decodes (all but the cached ones of `size` and `kept`), `take`
    of them in each step of the run; `blocks` pinned in the prefix cache; `number` of its admission; `held`: its model
    may not go.
    """

    __slots__ = (
        "arrival", "base", "blocks", "cached_tokens", "engine", "finished_s", "first_s", "held", "kept", "left",
        "model", "number", "size", "state", "tag", "take", "times", "total",
    )  # fmt: skip

    def __init__(self, arrival: Arrival, model: str, tag: Any = None) -> None:
        self.arrival = arrival
        self.model = model
        self.tag = tag
        self.first_s: float | None = None
        self.finished_s: float | None = None
        self.size = arrival.tokens_in or 1
        self.total = arrival.tokens_out
        self.cached_tokens = self.kept = self.number = 0
        self.blocks: tuple[int, ...] = ()
        self.times = 1.0
        self.held = False
        self.state = WAITING

    @property
    def done_tokens(self) -> int:
        """Tokens generated until the engine was last told the time."""
        if self.state == DECODING:
            return self.engine.step - self.base
        return self.kept


class Engine:
    """What happens in a worker. All attributes tell the state at the time of the last call.

    next_s: when to call `advance` again: never later than the next request ends, sometimes earlier, and inf when
    nothing happens by itself. running: admitted sequences. prompt_tokens, cached_tokens: of the requests admitted so
    far. preempted: sequences that had to make room, each time counted. Times given to the methods never go backwards.
    on_first: called with each request whose first token is out, and the time, in `advance` at that time or in whatever
    method comes before it; None: nobody is told, and there is less to do.
    """

    __slots__ = (
        "_batch_tokens", "_block", "_busy_s", "_busy_since", "_cache", "_cold_start_s", "_context", "_context_s",
        "_count", "_decoding", "_end", "_finished", "_footprints", "_generated", "_growth", "_hold", "_idle", "_kv",
        "_lanes", "_leaving", "_length", "_memory", "_now", "_number", "_pending", "_prefill_s", "_profile", "_prompts",
        "_sequence_s", "_slots", "_special", "_start", "_step", "_step_s", "_taking", "_tokens", "_unit", "_waiting",
        "_weight", "cached_tokens", "next_s", "on_first", "preempted", "prompt_tokens", "running",
    )  # fmt: skip

    def __init__(self, worker: SimWorker, block_tokens: int) -> None:
        profile: Profile = worker.profile
        self._profile = profile
        self._slots = profile.slots
        self._batch_tokens = profile.batch_tokens
        self._cold_start_s = profile.cold_start_s
        self._block = block_tokens
        self._unit = max(1, profile.block_tokens)
        self._kv: int | None = profile.kv_tokens if profile.kv_tokens < UNLIMITED_TOKENS else None
        self._cache = PrefixCache() if profile.prefix_cache else None
        self._idle: Sized = ()
        if self._cache is not None:
            self._kv = profile.kv_tokens
            self._idle = self._cache.idle
        self._footprints = worker.footprints
        self._memory: ModelMemory | None = None
        if profile.memory_gib is not None:
            self._memory = ModelMemory(profile, worker.footprints, worker.spec.models, worker.loaded)
        self._lanes: dict[str, int] | None = {} if worker.footprints or self._memory is not None else None
        self._special = self._memory is not None
        self._pending: list[Work] = []
        self._waiting: deque[Work] = deque()
        self._prompts: deque[Work] = deque()
        self._decoding: list[tuple[int, int, Work]] = []
        self._leaving: list[Work] = []
        self._finished: list[Work] = []
        self._step = self._number = self._tokens = self._generated = self._count = self._taking = 0
        self._weight = self._context = self._length = self._growth = self._start = self._now = 0.0
        self._busy_s = self._hold = 0.0
        self._end = self.next_s = self._busy_since = inf
        self.running = self.prompt_tokens = self.cached_tokens = self.preempted = 0
        self.on_first: Callable[[Work, float], None] | None = None
        self._pace(1.0)

    # what the world calls

    def submit(self, work: Work, now: float) -> None:
        """A request comes in."""
        if self._end <= now:
            while self._end <= now:
                self._turn()
            self.next_s = now if self._finished else self._soonest() if self._taking else self._end
        self._now = now
        work.engine = self
        if self._lanes is not None:
            work.times = self._footprints.get(work.model, NOTHING).times
        waiting = self._waiting
        waiting.append(work)
        least = (self._step_s + self._sequence_s + self._context_s * work.size) * work.times
        if not self._count:
            self._compose(now)
        elif self.running < self._slots or self._memory is not None:
            if len(waiting) == 1:                              # else the one before has cut it
                self._cut(now)
            if not self._taking:
                least = self._length
        else:
            return
        soonest = self._end if self.on_first is not None else self._end + (work.total - 1) * least
        if soonest < self.next_s:
            self.next_s = soonest

    def advance(self, now: float) -> list[Work]:
        """Everything until now happens. Those that have ended since the last call, in order of their ends."""
        while self._end <= now:
            self._turn()
        self._now = now
        self.next_s = self._soonest() if self._taking else self._end
        done = self._finished
        if done:
            self._finished = []
        return done

    def cancel(self, work: Work, now: float) -> None:
        """The client has left: what waits goes at once, what runs at the end of the step. What has ended stays so."""
        self._catch_up(now)
        if work.state == WAITING:
            if work in self._pending:
                self._pending.remove(work)
            else:
                self._waiting.remove(work)
            self._let_model_go(work, now)
            work.state = ENDED
        elif work.state in (PREFILL, DECODING):
            work.kept = work.done_tokens
            work.state = LEAVING
            self._leaving.append(work)
            self._special = True
        else:
            return
        self._cut(now)
        self.next_s = now if self._finished else self._end

    def crash(self, now: float) -> list[Work]:
        """All is lost: the requests that were there are given back, oldest first; it is back after `cold_start_s`."""
        self._catch_up(now)
        self._settle(self._steps_by(now))
        running = [*self._prompts, *(work for _, _, work in self._decoding)]
        running.sort(key=lambda work: work.number)
        lost = [work for work in (*running, *self._pending, *self._waiting) if work.state != LEAVING]
        for work in lost:
            work.kept = work.done_tokens
        for work in (*running, *lost):
            work.state = ENDED
        self._busy_s = self.busy_s
        self._busy_since = inf
        for queue in (self._prompts, self._decoding, self._pending, self._waiting, self._leaving):
            queue.clear()
        for gone in (self._cache, self._memory, self._lanes):
            if gone is not None:
                gone.clear()
        self.running = self._tokens = self._count = self._taking = 0
        self._weight = self._context = 0.0
        self._end = inf
        self._hold = now + self._cold_start_s
        self._special = True
        self.next_s = now if self._finished else inf
        return lost

    def set_speed(self, times: float, now: float) -> None:
        """From the next step on, everything takes so many times as long as the profile says."""
        self._catch_up(now)
        self._pace(times)
        self._cut(now)
        self.next_s = now if self._finished else self._end

    def pause(self, until_s: float, now: float) -> None:
        """Nothing makes progress until then; the step under way ends so much later. Loading goes on."""
        self._catch_up(now)
        longer = until_s - max(now, self._hold)
        if longer <= 0.0:
            return
        self._hold = until_s
        self._special = True
        if self._count:
            self._settle(self._steps_by(now))
            self._start += longer
            self._end = self._boundary(self._count)
        self.next_s = now if self._finished else self._end

    # what can be read

    @property
    def step(self) -> int:
        """Steps done since the start of the engine."""
        return self._step + self._steps_by(self._now)

    @property
    def waiting(self) -> int:
        """Requests that are not admitted, those for models that load included."""
        return len(self._waiting) + len(self._pending)

    @property
    def kv_usage(self) -> float:
        """The share of the KV cache that running sequences hold, as vLLM tells it; blocks that may go are not in it."""
        if self._kv is None:
            return 0.0
        return min(1.0, (self._tokens + len(self._decoding) * self._steps_by(self._now)) / self._kv)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The models in memory, where memory is limited; else none are told."""
        return () if self._memory is None else self._memory.loaded(self._now)

    @property
    def loads(self) -> int:
        """Models brought into memory since the start."""
        return 0 if self._memory is None else self._memory.loads

    @property
    def generated_tokens(self) -> int:
        """Tokens generated since the start, those that were lost later included."""
        return self._generated + len(self._decoding) * self._steps_by(self._now)

    @property
    def busy_s(self) -> float:
        """Seconds during which a sequence was running, stalled ones included."""
        return self._busy_s + (self._now - self._busy_since if self.running else 0.0)

    # the clock within a run

    def _pace(self, times: float) -> None:
        profile = self._profile
        self._step_s = profile.step_s * times
        self._sequence_s = profile.sequence_s * times
        self._prefill_s = profile.prefill_s * times
        self._context_s = profile.context_s * times

    def _boundary(self, steps: int) -> float:
        """When the first `steps` steps of the run are over."""
        return self._start + steps * (self._length + self._growth * ((steps - 1) * 0.5))

    def _steps_by(self, now: float) -> int:
        """How many steps of the run are over at that time: the largest number whose boundary is not later."""
        passed = now - self._start
        if passed <= 0.0 or not self._count:
            return 0
        growth = self._growth
        linear = self._length - growth * 0.5
        below = linear + sqrt(linear * linear + 2.0 * growth * passed) if growth else linear + linear
        if below <= 0.0:
            return self._count
        exact = 2.0 * passed / below
        steps = int(exact)
        if steps >= self._count:
            return self._count if self._boundary(self._count) <= now else self._count - 1
        if 1e-6 < exact - steps < 1.0 - 1e-6:
            return steps
        while steps and self._boundary(steps) > now:
            steps -= 1
        while self._boundary(steps + 1) <= now:
            steps += 1
        return steps

    def _cut(self, now: float) -> None:
        """The run ends with the step under way at that time: something changes."""
        if self._count > 1:
            steps = self._steps_by(now) + 1
            if steps < self._count:
                self._count = steps
                self._end = self._start + steps * (self._length + self._growth * ((steps - 1) * 0.5))

    def _soonest(self) -> float:
        """No request ends before that time, though the run under way, in which prompts are computed, ends earlier."""
        if self.on_first is not None or self._special or self._lanes is not None or self._waiting:
            return self._end
        if len(self._prompts) > self._taking:
            return self._end
        decoding, prompts = self._decoding, self._prompts
        steps = min([work.total - work.kept for work in prompts]) - 1 if self._taking > 1 else (
            prompts[0].total - prompts[0].kept - 1
        )
        if decoding:
            left = decoding[0][0] - self._step - self._count
            if left < steps:
                steps = left
        if steps <= 0:
            return self._end
        least = self._step_s + self._sequence_s * self._weight + self._context_s * self._context
        return self._end + steps * least * _ROUNDED

    def _catch_up(self, now: float) -> None:
        """Goes through all that ends until now. Who is done by then is given out by `advance`, which is due now."""
        while self._end <= now:
            self._turn()
        self._now = now
        self.next_s = now if self._finished else self._end

    def _settle(self, steps: int) -> None:
        """Takes the first `steps` steps of the run as done, so that the rest of it can be moved."""
        if steps:
            self._start = self._boundary(steps)
            self._length += steps * self._growth
            self._count -= steps
            self._account(steps)
            for work in islice(self._prompts, self._taking):
                work.left -= work.take * steps

    def _account(self, steps: int) -> None:
        grown = len(self._decoding) * steps
        self._step += steps
        self._generated += grown
        self._context += self._weight * steps
        if self._kv is not None:
            self._tokens += grown

    # one run after the other

    def _turn(self) -> None:
        """The run is over: who has its tokens leaves, whose prompt is done decodes, and the next run begins."""
        end = self._end
        count = self._count
        decoding = self._decoding
        if decoding:
            grown = len(decoding) * count                      # `_account`, in place
            self._step += count
            self._generated += grown
            self._context += self._weight * count
            if self._kv is not None:
                self._tokens += grown
            if self._idle:
                self._cache.shrink((self._kv - self._tokens) // self._block)
            step = self._step
            while decoding and decoding[0][0] <= step:
                work = heappop(decoding)[2]
                self._weight -= work.times
                self._context -= work.times * (work.size + work.total)
                if self._lanes is not None:
                    self._lanes[work.model] -= 1
                self._end_work(work, work.total, end)
            if not decoding:
                self._weight = self._context = 0.0
        else:
            self._step += count
        if self._taking:
            self._turn_prompts(end, count)
        self._compose(end)

    def _turn_prompts(self, end: float, count: int) -> None:
        """Prompts go on by what they took; those that are done have a token more, and decode."""
        prompts = self._prompts
        step = self._step
        for _ in range(self._taking):
            work = prompts[0]
            work.left -= work.take * count
            if work.left:
                break
            prompts.popleft()
            total = work.total
            work.kept = done = work.kept + 1
            if total:
                self._generated += 1
            if work.first_s is None:
                work.first_s = end
                if self.on_first is not None:
                    self.on_first(work, end)
            if done >= total or work.state == LEAVING:
                self._end_work(work, done, end)
                continue
            work.state = DECODING
            work.base = step - done
            heappush(self._decoding, (work.base + total, work.number, work))
            self._weight += work.times
            self._context += work.times * (work.size + done)
            if self._lanes is not None:
                self._lanes[work.model] = self._lanes.get(work.model, 0) + 1

    def _end_work(self, work: Work, done: int, now: float) -> None:
        """A sequence ends with `done` tokens; it is told of, unless its client has left."""
        self.running -= 1
        if self._kv is not None:
            self._free(work, done, work.size)
        if self._memory is not None:
            self._let_model_go(work, now)
        if work.state != LEAVING:
            work.kept = work.total
            work.finished_s = now
            self._finished.append(work)
        work.state = ENDED

    def _free(self, work: Work, done: int, computed: int) -> None:
        """The KV cache of a sequence with `done` tokens, the one being made included."""
        self._tokens -= work.size + done - 1
        if work.blocks:
            freed = self._cache.unpin(work.blocks, computed // self._block)
            self._tokens += (len(work.blocks) - freed) * self._block
            work.blocks = ()

    def _let_model_go(self, work: Work, now: float) -> None:
        if work.held:
            self._memory.give_back(work.model, now)
            work.held = False

    def _withdraw(self, work: Work) -> None:
        """Takes a running sequence out of the batch, between two runs."""
        self.running -= 1
        if work.left:
            self._prompts.remove(work)
            done, computed = work.kept + 1, work.size + work.kept - work.left
        else:
            done, computed = self._step - work.base, work.size
            work.kept = done
            self._decoding.remove((work.base + work.total, work.number, work))
            heapify(self._decoding)
            self._weight -= work.times
            self._context -= work.times * (work.size + done)
            if not self._decoding:
                self._weight = self._context = 0.0
            if self._lanes is not None:
                self._lanes[work.model] -= 1
        if self._kv is not None:
            self._free(work, done, computed)

    def _drop_leaving(self, now: float) -> None:
        for work in self._leaving:
            if work.state == LEAVING:
                kept = work.kept
                self._withdraw(work)
                self._let_model_go(work, now)
                work.kept = kept
                work.state = ENDED
        self._leaving.clear()

    def _make_room(self) -> None:
        """The newest running sequences go back to the head of the queue until the next tokens of the others fit, and
        cached blocks that nobody uses go as far as their room is needed."""
        while self.running > 1 and self._tokens + len(self._decoding) > self._kv:
            newest = max((*(entry[2] for entry in self._decoding), *self._prompts), key=lambda work: work.number)
            self._withdraw(newest)
            newest.state = WAITING
            self._waiting.appendleft(newest)
            self.preempted += 1
        if self._cache is not None:
            self._cache.shrink((self._kv - self._tokens - len(self._decoding)) // self._block)

    def _prepare(self, now: float) -> None:
        """What seldom is to be done before a run: cancelled sequences go, and a model may have been loaded."""
        if self._leaving:
            self._drop_leaving(now)
        if self._memory is not None and self._memory.ready_s <= now:
            self._memory.settle()
            self._waiting.extendleft(reversed(self._pending))
            self._pending.clear()
        self._special = self._memory is not None or now < self._hold

    def _compose(self, now: float) -> None:
        """Begins the next run at a step boundary, or rests."""
        if self._special:
            self._prepare(now)
            if now < self._hold and not self.running:
                self._rest(now)
                return
        decoding = self._decoding
        kv = self._kv
        if kv is not None and self._tokens + len(decoding) + len(self._idle) * self._block > kv:
            self._make_room()
        self._taking = 0
        chunk = self._fill(now, len(decoding)) if self._waiting or self._prompts else 0
        if decoding:
            count = decoding[0][0] - self._step
            if kv is not None and self._tokens + count * len(decoding) > kv and self.running > 1:
                count = (kv - self._tokens) // len(decoding)
        elif chunk:
            count = _MANY
        else:
            self._rest(now)
            return
        if chunk:
            first = self._prompts[0]
            same = (first.left - 1) // first.take if self._taking == 1 else 1
            if same < count:
                count = same or 1
        if self._lanes is None:
            length = self._step_s + self._prefill_s * chunk
        else:
            length = self._lanes_length()
        self._growth = growth = self._context_s * self._weight
        self._length = length = length + self._sequence_s * self._weight + self._context_s * self._context
        self._count = count
        self._start = now
        self._end = now + count * (length + growth * ((count - 1) * 0.5))
        if self._memory is not None and self._memory.ready_s < self._end:
            self._cut(self._memory.ready_s)

    def _lanes_length(self) -> float:
        """What the models at work take for a step and for its prompts, each in its own time."""
        active = {model: self._footprints.get(model, NOTHING).times for model, used in self._lanes.items() if used}
        tokens = 0.0
        for work in islice(self._prompts, self._taking):
            active[work.model] = work.times
            tokens += work.times * work.take
        return self._step_s * sum(active.values()) + self._prefill_s * tokens

    def _rest(self, now: float) -> None:
        """Nothing can run. If something will be able to later, an empty run leads there."""
        if self._busy_since < inf:
            self._busy_s += now - self._busy_since
            self._busy_since = inf
        self._count = self._taking = 0
        self._start = now
        self._end = inf
        if now < self._hold:
            if self._waiting or self._pending:
                self._end = self._hold
        elif self._memory is not None:
            self._end = self._memory.ready_s

    def _fill(self, now: float, decoding: int) -> int:
        """Gives the prompts their parts of a step, and admits whom there is room for; the tokens of all parts."""
        budget = room = self._batch_tokens - decoding
        taking = 0
        prompts = self._prompts
        for work in prompts:
            if budget <= 0:
                break
            work.take = take = work.left if work.left < budget else budget
            budget -= take
            taking += 1
        waiting = self._waiting
        while waiting:
            work = waiting[0]
            if self._memory is not None and not self._memory.has(work.model, now):
                if not self._send_for_model(work, now):
                    break
                continue
            if budget <= 0 or self.running >= self._slots:
                break
            if self._kv is None:
                left = work.left = work.size
            elif self._reserve(work, decoding):
                left = work.left
            else:
                break
            prompts.append(waiting.popleft())
            self._admit(work, now)
            work.take = take = left if left < budget else budget
            budget -= take
            taking += 1
        self._taking = taking
        return room - budget if taking else 0

    def _admit(self, work: Work, now: float) -> None:
        if not work.number:
            self.prompt_tokens += work.size
            self.cached_tokens += work.cached_tokens
        self._number = work.number = self._number + 1
        work.state = PREFILL
        if not self.running and self._busy_since == inf:
            self._busy_since = now
        self.running += 1
        if self._memory is not None and not work.held:
            self._memory.take(work.model)
            work.held = True

    def _send_for_model(self, work: Work, now: float) -> bool:
        """The request at the head of the queue needs a model that is not there. Can it wait for it beside the queue?"""
        if self._memory.loading != work.model and not self._memory.load(work.model, now):
            return False
        if not work.held:
            self._memory.take(work.model)
            work.held = True
        self._pending.append(self._waiting.popleft())
        return True

    def _reserve(self, work: Work, decoding: int) -> bool:
        """Takes KV cache for the whole prompt, if it fits, or if nobody else is there; finds what is cached of it."""
        cache = self._cache
        prompt = work.size + work.kept
        if cache is None:
            if self.running and self._tokens + decoding + prompt > self._kv:
                return False
            work.left = prompt
            self._tokens += prompt
            return True
        blocks = work.arrival.blocks
        if blocks:
            blocks = blocks[: work.size // self._block]
        hits, pinned = cache.look(blocks) if blocks else (0, 0)
        need = prompt - pinned * self._block
        if self.running and self._tokens + decoding + need > self._kv:
            return False
        if blocks:
            cache.pin(blocks)
        work.blocks = blocks
        found = min(hits * self._block, prompt - 1)
        found -= found % self._unit
        work.left = prompt - found
        if not work.number:
            work.cached_tokens = found
        self._tokens += need
        if self._idle:
            cache.shrink((self._kv - self._tokens - decoding) // self._block)
        return True
