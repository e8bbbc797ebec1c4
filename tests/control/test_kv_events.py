"""Tests of listening to KV events over real sockets: what is missed is had again, and what cannot be is not believed.

Run by pytest, with listener and publisher in the test's loop. What blocks mean is tested in tests/routing/test_exact.py.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rbeerouter.config.sections import ConfigError, KvEventOptions
from rbeerouter.control import kv_events
from rbeerouter.control.kv_events import KvEvents, Place, configured, need_zmq, place_of
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Env, WorkerSpec
from rbeerouter.routing.strategies.exact import Exact
from tests.routing.test_exact import asking
from tests.support.aio import story
from tests.support.builders import fleet, worker
from tests.support.daemon import free_port, until
from tests.support.kv_publisher import CLEARED, Publisher, removed, stored

A, B, C = [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]
"""One block each."""


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who breaks off is tried again at once."""
    monkeypatch.setattr(kv_events, "_FIRST_PAUSE_S", 0.02)


class Ear:
    """A listener to one worker, and what it knows."""

    def __init__(self, made: Fleet, **options: Any) -> None:
        self.fleet, self.exact = made, Exact()
        self.lines: list[tuple[str, dict[str, Any]]] = []
        env = Env(time.monotonic, lambda: 2.5, random.Random(1))
        settings = KvEventOptions(replay_s=0.3, **options)
        self.kv_events = KvEvents(made, self.exact, settings, env, lambda name, **more: self.lines.append((name, more)))

    def cached(self, *tokens: int) -> int | None:
        return self.exact.cached_tokens(asking(tokens), self.fleet.ordered).get("w")

    def told(self) -> dict[str, Any]:
        told = self.kv_events.describe("w")
        assert told is not None
        return told

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            await until(condition, what, 5.0)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.told()}") from None

    async def until_told(self, **values: Any) -> None:
        await self.until(lambda: values.items() <= self.told().items(), str(values))


@asynccontextmanager
async def listening(publisher: Publisher, replay: bool = True, ranks: int = 1) -> AsyncIterator[Ear]:
    ear = Ear(fleet(spec_for(publisher, replay, ranks)))
    ear.kv_events.sync()
    try:
        await publisher.until_heard()
        await ear.until_told(live=True)
        yield ear
    finally:
        ear.kv_events.close()
        await asyncio.sleep(0)


def spec_for(publisher: Publisher, replay: bool = True, ranks: int = 1) -> WorkerSpec:
    return worker(
        "w", models=("m",), kv_events=publisher.endpoint, kv_replay=publisher.replay if replay else None, kv_ranks=ranks
    )


async def one_that_knows_a(publisher: Publisher) -> Ear:
    """Somebody who listens and has heard of A."""
    ear = Ear(fleet(spec_for(publisher)))
    ear.kv_events.sync()
    await publisher.until_heard()
    await ear.until_told(live=True)
    await publisher.publish(stored(A, 4))
    await ear.until_told(blocks=1)
    return ear


@story
async def test_what_an_engine_tells_is_known() -> None:
    async with Publisher() as publisher, listening(publisher) as ear:
        event = stored([*A, *B], 4)
        await publisher.publish(event, ts=2.0)
        await ear.until_told(blocks=2)
        assert ear.cached(*A, *B, *C) == 8

        await publisher.publish(removed(event["block_hashes"][1:]))
        await ear.until_told(blocks=1)
        await publisher.publish(CLEARED)
        await ear.until_told(blocks=0)
        assert ear.told() == {
            "endpoint": publisher.endpoint, "live": True, "blocks": 0, "block_size": 4, "orphans": 0, "messages": 3, "events": 3,
            "gaps": 0, "replayed": 0, "garbage": 0, "lag_s": 1.5,
        }  # fmt: skip
        assert ear.lines == [("kv_events_live", {"worker": "w", "blocks": 0})]


@story
async def test_what_was_told_before_anybody_listened_is_had_again() -> None:
    for old in (False, True):
        async with Publisher(old=old) as publisher:
            await publisher.publish(stored(A, 4))
            await publisher.publish(stored([*A, *B], 4))
            async with listening(publisher) as ear:
                assert (ear.cached(*A, *B), publisher.asked) == (8, [0])
                await publisher.publish(stored([*A, *B, *C], 4))
                await ear.until_told(blocks=3, messages=1, replayed=2, gaps=0)


@story
async def test_a_gap_is_filled_by_a_replay_that_begins_with_the_last_message_known() -> None:
    async with Publisher() as publisher, listening(publisher) as ear:
        await publisher.publish(stored(A, 4))
        await ear.until_told(blocks=1)
        await publisher.publish(stored([*A, *B], 4), lost=True)
        await publisher.publish(stored([*A, *B, *C], 4))

        await ear.until_told(blocks=3, gaps=1, replayed=2)
        assert (ear.cached(*A, *B, *C), publisher.asked) == (12, [0, 0])

        await publisher.publish(CLEARED)
        await ear.until_told(blocks=0, gaps=1, messages=2)


@story
async def test_a_gap_that_cannot_be_filled_clears_what_was_known() -> None:
    async with Publisher(steps=1) as publisher, listening(publisher) as ear:
        await publisher.publish(stored(A, 4))
        await ear.until_told(blocks=1)
        for _ in range(3):
            await publisher.publish(stored(B, 4), lost=True)
        await publisher.publish(stored(C, 4))

        await ear.until_told(blocks=1, gaps=1)
        assert (ear.cached(*A), ear.cached(*C)) == (0, 4)


@story
async def test_without_a_replay_a_gap_clears_as_well() -> None:
    for answers in (False, True):
        async with Publisher() as publisher, listening(publisher, replay=not answers) as ear:
            publisher.answers = answers
            await publisher.publish(stored(A, 4))
            await ear.until_told(blocks=1)
            await publisher.publish(stored(B, 4), lost=True)
            await publisher.publish(stored(C, 4))

            await ear.until_told(gaps=1)
            await ear.until(lambda ear=ear: ear.cached(*C) == 4, "the third is known")
            assert (ear.cached(*A), ear.cached(*B)) == (0, 0)


@story
async def test_an_engine_that_begins_again_is_empty() -> None:
    async with Publisher() as publisher, listening(publisher) as ear:
        for _ in range(3):
            await publisher.publish(stored(A, 4))
        await ear.until_told(messages=3)
        publisher.begin_again()
        await publisher.publish(stored(B, 4))

        await ear.until(lambda: ear.cached(*B) == 4, "what it says now is known")
        assert ear.cached(*A) == 0


@story
async def test_a_restarted_engine_is_found_out_though_it_has_told_more_than_before() -> None:
    port = free_port()
    async with Publisher(port=port) as publisher:
        ear = await one_that_knows_a(publisher)
    await ear.until_told(live=False)
    assert ear.cached(*A) is None
    async with Publisher(port=port) as publisher:
        for _ in range(5):
            await publisher.publish(stored(B, 4), ts=9.0)
        await ear.until_told(live=True)
        assert (ear.cached(*A), ear.cached(*B)) == (0, 4)
        ear.kv_events.close()


@story
async def test_the_same_engine_after_a_lost_connection_keeps_what_it_had() -> None:
    port = free_port()
    async with Publisher(port=port) as publisher:
        ear = await one_that_knows_a(publisher)
        said = list(publisher.replays)
    await ear.until_told(live=False)
    async with Publisher(port=port) as publisher:              # its process goes on; only the socket was another one
        publisher.replays.extend(said)
        publisher.next = 1
        await publisher.publish(stored([*A, *B], 4), lost=True)
        await ear.until_told(live=True)
        assert (ear.cached(*A, *B), publisher.asked) == (8, [0])
        assert ear.told()["replayed"] == 1
        ear.kv_events.close()


@story
async def test_nonsense_is_counted_and_ends_nothing() -> None:
    async with Publisher() as publisher, listening(publisher) as ear:
        await publisher.send_frames(b"topic")
        await publisher.send_frames(b"topic", b"short", b"")
        await publisher.send_frames(b"topic", b"\xff" * 8, b"")
        await publisher.send_frames(b"topic", *[b""] * 50)
        await publisher.publish(stored(A, 4), 5, ["Unknown"])
        await ear.until_told(garbage=6, blocks=1)

        await publisher.send(b"\xc1 no msgpack")                # what it was to tell is missing
        await ear.until_told(garbage=7, blocks=0)
        await publisher.publish(stored(B, 4))
        await ear.until_told(blocks=1, live=True)


@story
async def test_each_rank_has_its_ports_and_all_must_be_heard() -> None:
    port = free_port()
    async with Publisher(port=port) as first:
        # A rank's ports follow those of the one before: here, its events are where the first has its replays.
        ear = Ear(fleet(worker("w", models=("m",), kv_events=first.endpoint, kv_ranks=2)))
        ear.kv_events.sync()
        await first.until_heard()
        await first.publish(stored(A, 4), rank=0)
        await ear.until_told(blocks=1)
        assert (ear.told()["live"], ear.cached(*A)) == (False, None)
        ear.kv_events.close()


@story
async def test_a_worker_that_may_be_another_process_begins_anew() -> None:
    async with Publisher() as publisher, listening(publisher, replay=False) as ear:
        await publisher.publish(stored(A, 4))
        await ear.until_told(blocks=1)
        ear.fleet.workers["w"].generation += 1
        ear.kv_events.sync()
        await publisher.until_heard()
        await ear.until_told(live=True, blocks=0, messages=1)


@story
async def test_workers_come_and_go() -> None:
    async with Publisher() as publisher, listening(publisher) as ear:
        ear.fleet.configure([])
        ear.kv_events.sync()
        assert (ear.exact.holdings, ear.kv_events.describe("w"), ear.kv_events.counts) == ({}, None, {})

        ear.fleet.configure([spec_for(publisher)])
        ear.kv_events.sync()
        await publisher.until_heard()
        await ear.until_told(live=True)


@story
async def test_nobody_there_is_told_and_tried_again() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    ear = Ear(fleet(worker("w", kv_events=endpoint)))
    ear.kv_events.sync()
    await ear.until_told(live=False, problem=f"{endpoint}: the connection was closed or refused")
    async with Publisher(port=int(endpoint.rpartition(":")[2])):
        await ear.until_told(live=True)
    ear.kv_events.close()


@story
async def test_a_registered_worker_is_not_followed_to_where_it_may_not_be() -> None:
    ear = Ear(fleet(worker("w", url="http://127.0.0.1:1", engine="vllm", source="registered")), endpoint="tcp://{host}:1")
    ear.kv_events.sync()
    await ear.until_told(live=False, problem="127.0.0.1 is in no network of [registration] allow")
    ear.kv_events.close()


def test_a_template_is_for_engines_that_tell() -> None:
    options = KvEventOptions(endpoint="tcp://{host}:5557", replay="tcp://{host}:5558")

    def place(**fields: Any) -> Place | None:
        return place_of(fleet(worker("w", **fields)).workers["w"], options)

    assert place(engine="vllm") == Place("tcp://w.test:5557", "tcp://w.test:5558")
    assert place(engine="sglang", url="http://[::1]:80") == Place("tcp://[::1]:5557", "tcp://[::1]:5558")
    assert place(engine="llamacpp") is None
    assert place(engine="vllm", kv_events="tcp://h:1") == Place("tcp://h:1")
    assert place_of(fleet(worker("w", engine="vllm")).workers["w"], KvEventOptions()) is None


def test_it_is_on_where_somebody_tells() -> None:
    assert not configured(KvEventOptions(), [worker()])
    assert configured(KvEventOptions(), [worker(kv_events="tcp://h:1")])
    assert configured(KvEventOptions(endpoint="tcp://{host}:1"), [])


def test_without_pyzmq_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    need_zmq()
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(ConfigError, match=r"pip install 'rbeerouter\[kv-events\]'"):
        need_zmq()
