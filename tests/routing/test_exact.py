"""Tests of what is known of engines' own caches: blocks are found by their tokens, and only where they are.

Run by pytest. The events are made by tests/support/kv_publisher.py and read by the dialect, as they are in use.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from rbeerouter.config.sections import Strategies
from rbeerouter.core.dispatch import Job
from rbeerouter.core.kv_events import PromptTokens
from rbeerouter.core.memory import Memories
from rbeerouter.core.types import Request
from rbeerouter.dialects.kv_events import read_batch
from rbeerouter.routing.strategies.exact import Exact, Holding
from rbeerouter.routing.strategies.prefix import LMetric, PrefixCache
from tests.support.builders import context, fleet, request, worker
from tests.support.kv_publisher import CLEARED, as_array, engine_hash, removed, stored

BLOCK = 4
PROMPT = list(range(100, 116))
"""Four blocks."""


class Asked:
    """A prompt whose tokens somebody has read."""

    block_tokens = 64

    def __init__(self, ids: Sequence[int] | None, salt: str | None = None) -> None:
        self._ids = PromptTokens(ids, salt) if ids is not None else None

    def blocks(self) -> Sequence[int]:
        return ()

    def token_ids(self) -> Sequence[int] | None:
        return self._ids


def asking(ids: Sequence[int] | None, salt: str | None = None, **fields: Any) -> Request:
    return msgspec.structs.replace(request(**fields), text=Asked(ids, salt))


def tell(holding: Holding, *events: Any, rank: int = 0) -> None:
    """As an engine tells."""
    batch = read_batch(msgspec.msgpack.encode([1.0, list(events), rank]))
    assert batch.strange == 0
    for event in batch.events:
        holding.apply(event, rank)


class Scene:
    """Three workers, of which the first two tell."""

    def __init__(self) -> None:
        self.fleet = fleet("w1", "w2", "w3")
        self.memories = Memories()
        self.exact = self.memories.of(Exact)
        self.w1, self.w2 = self.exact.listen_to("w1"), self.exact.listen_to("w2")
        self.w1.live = self.w2.live = True

    def cached(self, asked: Request | None = None) -> dict[str, int]:
        return self.exact.cached_tokens(asked or asking(PROMPT), self.fleet.ordered)

    def send(self, name: str, now: float, asked: Request | None = None) -> None:
        self.exact.sent(Job(asked or asking(PROMPT), now, now), self.fleet.workers[name], now)


def test_a_worker_has_what_it_stored_up_to_the_first_block_that_it_has_not() -> None:
    scene = Scene()
    tell(scene.w1, stored(PROMPT, BLOCK))
    tell(scene.w2, stored([*PROMPT[:8], 1, 2, 3, 4, *PROMPT[12:]], BLOCK))

    assert scene.cached() == {"w1": 16, "w2": 8}
    assert scene.cached(asking(PROMPT[:15])) == {"w1": 12, "w2": 8}
    assert scene.cached(asking([*PROMPT, 1, 2, 3, 4])) == {"w1": 16, "w2": 8}
    assert scene.cached(asking([1, *PROMPT[1:]])) == {"w1": 0, "w2": 0}


def test_every_block_of_an_event_follows_its_own_predecessor() -> None:
    """Whoever hangs all of them on the event's parent finds the first one only."""
    scene = Scene()
    first = stored(PROMPT[:8], BLOCK)
    tell(scene.w1, first, stored(PROMPT[8:], BLOCK, parent=first["block_hashes"][-1]))

    assert scene.cached()["w1"] == 16


def test_a_removal_is_one_workers_own() -> None:
    scene = Scene()
    event = stored(PROMPT, BLOCK)
    tell(scene.w1, event)
    tell(scene.w2, event)

    tell(scene.w1, removed(event["block_hashes"][2:]))
    assert scene.cached() == {"w1": 8, "w2": 16}

    tell(scene.w2, CLEARED)
    assert scene.cached() == {"w1": 8, "w2": 0}


def test_without_an_early_block_a_later_one_is_no_hit() -> None:
    scene = Scene()
    event = stored(PROMPT, BLOCK)
    tell(scene.w1, event, removed(event["block_hashes"][1:2]))

    assert scene.cached()["w1"] == 4


def test_what_follows_a_block_that_nobody_heard_of_can_be_compared_with_nothing() -> None:
    scene = Scene()
    tell(scene.w1, stored(PROMPT, BLOCK, parent=99), removed([99]))

    assert (scene.cached()["w1"], scene.w1.orphans, len(scene.w1)) == (0, 4, 0)


def test_engines_with_other_hashes_and_block_sizes_are_compared_by_tokens() -> None:
    scene = Scene()
    tell(scene.w1, as_array(stored(PROMPT, 8, seed=1)))
    tell(scene.w2, {**stored(PROMPT, 2, seed=2), "block_hashes": [bytes([at]) * 32 for at in range(8)]})

    assert scene.cached(asking(PROMPT[:14])) == {"w1": 8, "w2": 14}


def test_adapters_and_salts_have_caches_of_their_own() -> None:
    specs = [worker("w1", models=("m", "law"), loras=("law",)), worker("w2", models=("m",))]
    exact, workers = Exact(), fleet(*specs).ordered
    holding = exact.listen_to("w1")
    holding.live = True
    tell(holding, {**stored(PROMPT, BLOCK), "lora_id": 1, "lora_name": "law", "extra_keys": [["law"]] * 4})
    salted = {**stored(PROMPT, BLOCK, seed=1), "extra_keys": [["s"], None, None, None]}
    tell(holding, salted)

    def cached(asked: Request) -> dict[str, int]:
        return exact.cached_tokens(asked, workers)

    assert cached(asking(PROMPT, model="law")) == {"w1": 16}
    assert cached(asking(PROMPT, model="m")) == {"w1": 0}
    assert cached(asking(PROMPT, "s", model="m")) == {"w1": 16}
    assert cached(asking(PROMPT, "s", model="law")) == {"w1": 0}


def test_a_block_stays_as_long_as_one_medium_or_one_engine_has_it() -> None:
    scene = Scene()
    event = stored(PROMPT, BLOCK)
    tell(scene.w1, event, {**event, "medium": "CPU"}, removed(event["block_hashes"]))
    assert scene.cached()["w1"] == 16

    tell(scene.w1, event, rank=1)
    tell(scene.w1, {"type": "BlockRemoved", "block_hashes": event["block_hashes"]})
    assert scene.cached()["w1"] == 16

    tell(scene.w1, CLEARED, rank=1)
    assert (scene.cached()["w1"], len(scene.w1)) == (0, 0)


def test_who_does_not_tell_or_whose_prompt_nobody_read_is_left_to_a_guess() -> None:
    scene = Scene()
    tell(scene.w1, stored(PROMPT, BLOCK))
    scene.w2.live = False

    assert scene.cached() == {"w1": 16}
    assert scene.cached(asking(None)) == {}
    assert scene.cached(request()) == {}
    assert [scene.exact.tells(one) for one in scene.fleet.ordered] == [True, False, False]


def test_a_prompt_that_was_sent_is_expected_for_a_while() -> None:
    scene = Scene()
    tell(scene.w1, stored([1, 2, 3, 4], BLOCK))
    scene.send("w1", now=10.0)
    assert scene.cached() == {"w1": 16, "w2": 0}

    scene.exact.tick(11.9, scene.fleet.ordered)
    assert scene.cached()["w1"] == 16
    scene.exact.tick(12.0, scene.fleet.ordered)
    assert scene.cached()["w1"] == 0


def test_what_was_expected_and_is_told_stays() -> None:
    scene = Scene()
    tell(scene.w1, stored([1, 2, 3, 4], BLOCK))
    scene.send("w1", now=10.0)
    tell(scene.w1, stored(PROMPT[:8], BLOCK))

    scene.exact.tick(20.0, scene.fleet.ordered)
    assert scene.cached()["w1"] == 8


def test_a_worker_that_is_gone_is_forgotten() -> None:
    scene = Scene()
    tell(scene.w1, stored(PROMPT, BLOCK))

    scene.exact.tick(1.0, [one for one in scene.fleet.ordered if one.id != "w1"])

    assert (sorted(scene.exact.holdings), scene.cached()) == (["w2"], {"w2": 0})


def test_memory_has_an_end_whatever_an_engine_tells() -> None:
    scene = Scene()
    scene.w1.most_blocks = 100
    for at in range(1000):
        tell(scene.w1, stored([at, at + 1], 2, seed=at))
    for rank in range(100):
        tell(scene.w2, stored([rank, 7], 2, seed=rank), rank=rank)
    scene.send("w1", 1.0, asking(range(500)))

    assert (len(scene.w1), len(scene.w2)) == (100, 64)
    assert scene.cached(asking([999, 1000]))["w1"] == 2


def test_whatever_happens_it_agrees_with_a_set_of_prefixes() -> None:
    """A plain model of one engine: a set of prefixes. Blocks come and go at random, two ranks and both media."""
    for seed in range(30):
        dice, scene = random.Random(seed), Scene()
        names: dict[int, tuple[int, ...]] = {}                 # by the engine's hash
        have: dict[tuple[int, int], set[str]] = {}             # (rank, engine's hash) -> media
        for _ in range(120):
            rank, medium = dice.randrange(2), dice.choice(["GPU", "CPU"])
            prompt = tuple(dice.randrange(2) for _ in range(6))
            own = [name for name in names if (rank, name) in have]
            if dice.random() < 0.6 or not own:
                event = {**stored(list(prompt), 2), "medium": medium}
                for at, name in enumerate(event["block_hashes"]):
                    names[name] = prompt[: 2 * at + 2]
                    have.setdefault((rank, name), set()).add(medium)
                tell(scene.w1, event, rank=rank)
            elif dice.random() < 0.05:
                have = {key: media for key, media in have.items() if key[0] != rank}
                tell(scene.w1, CLEARED, rank=rank)
            else:
                name = dice.choice(own)
                have[rank, name].discard(medium)
                if not have[rank, name]:
                    del have[rank, name]
                tell(scene.w1, removed([name], medium=medium), rank=rank)
            held = {names[name] for _, name in have}
            asked = tuple(dice.randrange(2) for _ in range(6))
            expected = next((size for size in (0, 2, 4) if asked[: size + 2] not in held), 6)
            assert scene.cached(asking(asked))["w1"] == (expected if scene.w1.block_size else 0), f"seed {seed}"
            assert len(scene.w1) == len(held), f"seed {seed}"


def test_the_engines_hashes_of_the_tests_are_chained() -> None:
    assert stored([1, 2, 3, 4], 2)["block_hashes"] == [
        engine_hash(None, [1, 2]), engine_hash(engine_hash(None, [1, 2]), [3, 4]),
    ]  # fmt: skip


# What strategies make of it


class Bytes(Asked):
    """A prompt of eight blocks of bytes, which is read as 16 tokens."""

    block_tokens = 3

    def blocks(self) -> Sequence[int]:
        return range(1, 9)


def strategy(kind: type[LMetric] | type[PrefixCache], scene: Scene, **options: Any) -> Any:
    made = context(memories=scene.memories, options=Strategies(**options))
    return kind(made)


def test_who_tells_and_who_is_guessed_are_compared_in_tokens() -> None:
    scene = Scene()
    tell(scene.w1, stored(PROMPT[:4], BLOCK))
    asked = msgspec.structs.replace(request(), text=Bytes(PROMPT))
    chooser = strategy(LMetric, scene)
    chooser.index.blocks.stored("w2", range(1, 9))             # what w2 was sent does not count: it tells
    chooser.index.blocks.stored("w3", range(1, 5))             # half of the prompt

    assert chooser.scores(asked, scene.fleet.ordered) == [12, 16, 8]
    assert strategy(PrefixCache, scene).scores(asked, scene.fleet.ordered) == [25.0, 0.0, 50.0]
    assert strategy(PrefixCache, scene).choose(asked, scene.fleet.ordered).id == "w3"
    assert chooser.note(asked) == "; by tokens"


def test_without_tokens_all_are_guessed_and_the_reason_says_so() -> None:
    scene = Scene()
    tell(scene.w1, stored(PROMPT, BLOCK))
    asked = msgspec.structs.replace(request(), text=Bytes(None))
    chooser = strategy(LMetric, scene)
    chooser.index.blocks.stored("w2", range(1, 9))

    assert chooser.scores(asked, scene.fleet.ordered) == [24, 0, 24]
    assert chooser.note(asked) == "; by bytes, as its tokens are not known"


def test_where_nobody_tells_nothing_is_said_of_it() -> None:
    chooser = LMetric(context())

    assert chooser.note(asking(None)) == ""
    assert (chooser.reads_tokens, strategy(PrefixCache, Scene(), strict=True).reads_tokens) == (True, False)
