"""The traffic of the comparison: slices of real traces, one for each seed, or what the lab makes up in their likeness.

Real traces name no users, conversations or wishes; what a case needs of them is added here, from the seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import msgspec

from rbeerouter.sim import staff
from rbeerouter.sim.draws import Lengths
from rbeerouter.sim.traces import Cut, Trace
from rbeerouter.sim.types import Arrival, SimWorker
from rbeerouter.sim.workload import Generated, Sessions, Traffic, address_of

from .fleets import MODEL

AZURE, MOONCAKE = "azure_llm_inference_2023_conv.csv", "mooncake_conversation.jsonl"
"""Files that are looked for: docs/policy-lab.md tells where to get them."""
TITLES = {AZURE: "Azure's chats", MOONCAKE: "Mooncake's conversations"}
_NO_ONE_ASKED = Traffic(models={MODEL: 1.0}, tiers={}, regions={}, priorities={}, stream=1.0, max_tokens=0.0)


class Kept(msgspec.Struct):
    """A workload whose arrivals are kept, as all who are compared get the same. See `rbeerouter.sim.types.Workload`."""

    name: str
    arrivals: tuple[Arrival, ...]
    block_tokens: int
    real: bool

    @property
    def count(self) -> int | None:
        return len(self.arrivals)

    def __iter__(self) -> Iterator[Arrival]:
        return iter(self.arrivals)

    def changed(self, change: Callable[[Arrival, random.Random], Arrival], seed: int) -> Kept:
        """With each arrival changed, by chance of its own."""
        rng = random.Random(f"{seed} changed")
        made = tuple(change(arrival, rng) for arrival in self.arrivals)
        return msgspec.structs.replace(self, arrivals=made)


def chats(data: Path | None, requests: int, seed: int, users: int = 50) -> Kept:
    """Questions that stand alone, about a thousand tokens in and two hundred out: Azure's."""
    return _slice(data, AZURE, requests, seed, users) or _made_up(
        "chats", requests, seed,
        tokens_in=Lengths(mean=1150.0, sigma=1.0, most=8192), tokens_out=Lengths(mean=210.0, sigma=0.8, most=2048),
        users=users,
    )  # fmt: skip


def conversations(data: Path | None, requests: int, seed: int) -> Kept:
    """Long prompts, of which many go on where an earlier one ended: Mooncake's."""
    found = _slice(data, MOONCAKE, requests, seed, 50)
    if found is not None:
        return with_conversations(found)
    sessions = Sessions(turns=4.0, think_s=30.0, system_tokens=(500, 2000, 4000), most_tokens=32_768)
    return _made_up(
        "conversations", requests, seed, tokens_in=Lengths(mean=1500.0, sigma=1.0, most=16_384),
        tokens_out=Lengths(mean=300.0, sigma=0.8, most=2048), sessions=sessions,
    )  # fmt: skip


def _made_up(name: str, requests: int, seed: int, **given: object) -> Kept:
    traffic = msgspec.structs.replace(_NO_ONE_ASKED, requests=requests, rate=1.0, **given)
    made = Generated(traffic, seed)
    return Kept(f"made-up {name}", tuple(made), made.block_tokens, False)


def _slice(data: Path | None, name: str, requests: int, seed: int, users: int) -> Kept | None:
    """The seed-th part of the file; after the last one, the first again. None where there is no such file."""
    if data is None or not (data / name).is_file():
        return None
    rows, block_tokens = _whole(data / name, users)
    first = seed % max(1, len(rows) // requests) * requests
    part = rows[first : first + requests]
    moved = tuple(msgspec.structs.replace(one, at_s=one.at_s - part[0].at_s) for one in part)
    return Kept(TITLES[name], moved, block_tokens, True)


@lru_cache(maxsize=2)
def _whole(path: Path, users: int) -> tuple[tuple[Arrival, ...], int]:
    trace = Trace(path, None, Cut(), msgspec.structs.replace(_NO_ONE_ASKED, users=users), {}, 1)
    return tuple(trace), trace.block_tokens


def with_conversations(kept: Kept) -> Kept:
    """Names the conversations that a trace does not name: a prompt goes on with the one that had its blocks last.

    The first block is what all prompts begin with, so it tells nothing. Each conversation has one user at one address.
    """
    owners: dict[int, str] = {}
    named, conversations = [], 0
    for arrival in kept.arrivals:
        known = [block for block in arrival.blocks[1:] if block in owners]
        if known:
            session = owners[known[-1]]
        else:
            conversations += 1
            session = f"talk-{conversations}"
        owners |= dict.fromkeys(arrival.blocks[1:], session)
        user = f"user-{session.removeprefix('talk-')}"
        named.append(asked_by(arrival, user, session))
    return msgspec.structs.replace(kept, arrivals=tuple(named))


def asked_by(arrival: Arrival, user: str, session: str | None = None) -> Arrival:
    request = msgspec.structs.replace(
        arrival.request, user_id=user, session_id=session, client=address_of(user), metadata={"type": "llm"}
    )
    return msgspec.structs.replace(arrival, request=request)


def at_load(kept: Kept, workers: tuple[SimWorker, ...], load: float) -> Kept:
    """As fast as asks for this share of what the workers could serve at most, as the lab reckons it."""
    count = len(kept.arrivals)
    tokens_in = sum(one.tokens_in for one in kept.arrivals) / count
    tokens_out = sum(one.tokens_out for one in kept.arrivals) / count
    models: dict[str, float] = {}
    for one in kept.arrivals:
        models[one.request.model] = models.get(one.request.model, 0.0) + 1.0
    like = Traffic(
        models=models, tokens_in=Lengths("constant", mean=max(1.0, tokens_in), most=1 << 31),
        tokens_out=Lengths("constant", mean=max(1.0, tokens_out), most=1 << 31),
    )  # fmt: skip
    lasts_s = count / (load * staff.most_requests_per_s(workers, like))
    times = lasts_s / max(kept.arrivals[-1].at_s, 1e-9)
    moved = tuple(msgspec.structs.replace(one, at_s=one.at_s * times) for one in kept.arrivals)
    return msgspec.structs.replace(kept, arrivals=moved)
