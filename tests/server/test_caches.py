"""Tests of the daemon that listens to its workers' KV caches, as a process of its own with real sockets on all sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.kv_publisher import CLEARED, Publisher, stored


def entry(worker: FaultWorker, publisher: Publisher | None = None) -> dict[str, Any]:
    """A worker that runs vLLM, as a [[workers]] block has it."""
    said = {"id": worker.name, "url": worker.url, "engine": "vllm"}
    return said if publisher is None else {**said, "kv_events": publisher.endpoint, "kv_replay": publisher.replay}


async def told(router: DaemonProcess, name: str, **values: Any) -> dict[str, Any]:
    """What the page says of a worker's events, once it says that."""
    found: dict[str, Any] = {}

    async def says_so() -> bool:
        found.update((await router.workers())[name].get("kv_events") or {})
        return values.items() <= found.items()

    for _ in range(500):
        if await says_so():
            return found
    raise TimeoutError(f"{name}: {found}, not {values}")


@story
async def test_what_a_worker_tells_is_on_the_pages(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, Publisher() as publisher:
        await publisher.publish(stored([1, 2, 3, 4], 2))
        async with daemon(tmp_path, entry(a, publisher), entry(b)) as router:
            found = await told(router, "a", live=True)
            assert found == {
                "endpoint": publisher.endpoint, "live": True, "blocks": 2, "block_size": 2, "messages": 0, "events": 1,
                "gaps": 0, "replayed": 1, "garbage": 0, "lag_s": None,
            }  # fmt: skip
            assert "kv_events" not in (await router.workers())["b"]
            await publisher.publish(CLEARED)
            await told(router, "a", blocks=0)
            values = await router.metrics()
            assert {
                name: value for (name, labels), value in values.items()
                if name.startswith("rbeerouter_kv") and labels == (("worker", "a"),) and "lag" not in name
            } == {
                "rbeerouter_kv_events_total": 2.0, "rbeerouter_kv_gaps_total": 0.0, "rbeerouter_kv_replayed_total": 1.0,
                "rbeerouter_kv_garbage_total": 0.0, "rbeerouter_kv_live": 1.0, "rbeerouter_kv_blocks": 0.0,
            }  # fmt: skip
            assert not [labels for name, labels in values if name.startswith("rbeerouter_kv") and "b" in str(labels)]


@story
async def test_a_reload_begins_and_ends_it(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, Publisher() as publisher, daemon(tmp_path, entry(a)) as router:
        router.write_config(entry(a, publisher))
        assert (await router.reload())["ok"]
        await told(router, "a", live=True)
        router.write_config(entry(a))
        assert (await router.reload())["ok"]
        assert "kv_events" not in (await router.workers())["a"]


@story
async def test_a_template_leads_to_workers_that_say_nothing_themselves(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, Publisher() as publisher:
        table = {"endpoint": publisher.endpoint.replace("127.0.0.1", "{host}")}
        async with daemon(tmp_path, entry(a), **{"routing.strategies.kv_events": table}) as router:
            assert (await told(router, "a", live=True))["endpoint"] == publisher.endpoint


@story
async def test_without_pyzmq_it_does_not_start_and_says_what_to_install(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "zmq.py").write_text("raise ImportError('not installed')")
    worker = {"url": "http://127.0.0.1:9", "kv_events": "tcp://127.0.0.1:9"}
    router = DaemonProcess(tmp_path, (worker,), None, {})
    router.start(environment={"PYTHONPATH": str(hidden)})
    assert await router.ended() == 2
    assert "kv_events: listening to the events of KV caches needs pyzmq: pip install 'rbeerouter[kv-events]'" in (
        router.stderr()
    )
