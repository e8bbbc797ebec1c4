"""A load whose every length is known, for a real engine behind a real daemon.

Called by tests/sim/test_llama_truth.py and scripts that measure: `asks` draws it from a seed, `send` plays it against a
port in real time. It must not measure: times are taken from the daemon's own log, as a person would.
"""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.support.raw_client import Answer, post

CHAT = "/v1/chat/completions"
LETTERS = string.ascii_letters + " "
PATIENCE_S = 60.0


class Ask(NamedTuple):
    """A request: when it is sent, seconds from the start, and its lengths in tokens (of the tiny model: letters)."""

    at_s: float
    tokens_in: int
    tokens_out: int


def asks(
    seed: int, per_second: float, seconds: float, tokens_in: tuple[int, int] = (20, 200),
    tokens_out: tuple[int, int] = (10, 60),
) -> list[Ask]:
    """Poisson arrivals with lengths drawn evenly between the two ends, the same for a seed."""
    chance, at_s, drawn = random.Random(seed), 0.0, []
    while (at_s := at_s + chance.expovariate(per_second)) < seconds:
        drawn.append(Ask(at_s, chance.randint(*tokens_in), chance.randint(*tokens_out)))
    return drawn


def body(ask: Ask, model: str, chance: random.Random) -> dict[str, Any]:
    """A stream of exactly so many tokens, with nothing of another prompt to be found in the engine's cache."""
    return {
        "model": model, "messages": [{"role": "user", "content": "".join(chance.choices(LETTERS, k=ask.tokens_in))}],
        "max_tokens": ask.tokens_out, "ignore_eos": True, "cache_prompt": False, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


async def send(port: int, load: Iterable[Ask], model: str = "tiny", seed: int = 0) -> list[Answer]:
    """Each at its time, whatever became of those before; ends when the last has its answer."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for ask in load:
            raw = body(ask, model, chance)
            await asyncio.sleep(start + ask.at_s - loop.time())
            tasks.append(group.create_task(post(port, CHAT, raw, timeout_s=PATIENCE_S)))
    return [task.result() for task in tasks]
