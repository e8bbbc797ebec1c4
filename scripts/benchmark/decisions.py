"""What a decision of each strategy costs, at 64 workers and with a prompt of 8,000 tokens, beside `random`.

Called by cli.py for `scripts/bench --decisions`. The core decides as in the daemon; what strategies remember is fed by
the dispatcher, and its cost is told beside. Medians, as single decisions are timed.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import Any

from .machine import on_one_core
from .processes import Failed

WORKERS, SLOTS = 64, 16
PROMPT_BYTES = 32_000
"""Some 8,000 tokens."""
DECISIONS, QUICK_DECISIONS = 3_000, 300
_UNDER_WAY = WORKERS * SLOTS * 6 // 10
_TALKS = 200
"""Conversations that are under way; each request says what the last one of its own said, and some more."""


@dataclass(frozen=True)
class Cost:
    """Microseconds, medians: of a decision, and of what is noted when a request is sent, answers and has ended."""

    name: str
    decide_us: float
    notes_us: float


def run_decisions(decisions: int, pin: bool) -> list[Cost]:
    """Each strategy in turn on one core. Raises Failed."""
    try:
        from rbeerouter.routing.strategies import STRATEGIES
    except ImportError as error:
        raise Failed(f"{error}: run it by the Python that rbeerouter is installed for") from None
    with on_one_core(pin):
        return [_cost(name, decisions) for name in STRATEGIES]


def decisions_text(costs: list[Cost]) -> str:
    base = next((cost.decide_us for cost in costs if cost.name == "random"), costs[0].decide_us)
    rows = [f"{WORKERS} workers, {_UNDER_WAY} requests under way, prompts of {PROMPT_BYTES} bytes; medians:", ""]
    rows.append(f"{'strategy':24}{'decision':>12}{'of random':>11}{'its notes':>12}")
    for cost in costs:
        rows.append(f"{cost.name:24}{cost.decide_us:9.1f} us{cost.decide_us / base:10.1f}x{cost.notes_us:9.1f} us")
    return "\n".join(rows)


def _cost(name: str, decisions: int) -> Cost:
    from rbeerouter.core.dispatch import Dispatcher, Job, Send
    from rbeerouter.core.fleet import Fleet
    from rbeerouter.core.types import Env, Outcome, Report, WorkerSpec
    from rbeerouter.routing.decide import Decider

    clock = [0.0]
    env = Env(lambda: clock[0], lambda: clock[0], random.Random(1))
    fleet = Fleet(None, env.rng)
    fleet.configure(
        WorkerSpec(f"w{number}", f"http://10.0.0.{number}:8000", "vllm", models=("m",), max_concurrency=SLOTS)
        for number in range(WORKERS)
    )
    chance = random.Random(2)
    for worker in fleet.ordered:
        usage = chance.random()
        fleet.apply(
            Report(
                worker.id, True, ("m",), 0.0, kv_usage=usage, running=0, waiting=0, kv_blocks=20_000, block_size=16
            )
        )  # fmt: skip
    decider = Decider(fleet, None, name, env)
    dispatcher = Dispatcher(fleet, decider, env)
    served, under_way = Outcome(None, 200, True, delivered=True), deque[Any]()
    choosing: list[int] = []
    whole: list[int] = []
    decide = decider.decide

    def timed(*arguments: Any) -> Any:
        begun = perf_counter_ns()
        try:
            return decide(*arguments)
        finally:
            choosing.append(perf_counter_ns() - begun)

    decider.decide = timed  # type: ignore[method-assign]
    for request in _requests(decider, decisions + _UNDER_WAY):
        clock[0] += 0.01
        job = Job(request, clock[0], clock[0])
        begun = perf_counter_ns()
        effect = dispatcher.on_request(job)
        spent = perf_counter_ns() - begun
        if not isinstance(effect, Send):
            dispatcher.on_cancel(job)
            continue
        begun = perf_counter_ns()
        dispatcher.on_content(job, clock[0])
        spent += perf_counter_ns() - begun
        under_way.append(job)
        if len(under_way) > _UNDER_WAY:
            done = under_way.popleft()
            done.tokens_in, done.tokens_out = PROMPT_BYTES // 4, 150
            begun = perf_counter_ns()
            dispatcher.on_outcome(done, served)
            whole.append(spent + perf_counter_ns() - begun - choosing[-1])
    return Cost(name, median(choosing[_UNDER_WAY:]) / 1000, median(whole) / 1000)


def _requests(decider: Any, count: int) -> Any:
    """Requests of conversations, each with a prompt of its own that nobody has looked into yet."""
    import msgspec

    from rbeerouter.config.sections import Strategies
    from rbeerouter.core.types import Request, Wishes
    from rbeerouter.dialects.prompts import prompt_of
    from rbeerouter.dialects.surfaces import SURFACES

    surface, options, chance = SURFACES[b"/v1/chat/completions"], Strategies(), random.Random(3)
    words = [f"{chance.getrandbits(40):010x}" for _ in range(5000)]
    starts = [" ".join(chance.choices(words, k=PROMPT_BYTES * 3 // 4 // 11)) for _ in range(_TALKS)]
    for number in range(count):
        talk = chance.randrange(_TALKS)
        said = starts[talk] + " ".join(chance.choices(words, k=PROMPT_BYTES // 4 // 11))
        request = Request(
            f"r-{number}", surface.name, "m", None, f"user-{talk % 50}", None, 200, True, {"type": "llm"},
            f"session-{talk}", PROMPT_BYTES // 4, client=f"10.1.0.{talk}",
            wishes=Wishes(session_key=f"key-{talk}", slo_ttft_ms=1e6, slo_tpot_ms=1e6),
        )  # fmt: skip
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": said}]}).encode()
        if decider.reads_prompt:
            request = msgspec.structs.replace(request, text=prompt_of(options, surface, request, body))
        yield request
