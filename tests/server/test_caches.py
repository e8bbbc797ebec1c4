"""Tests of the daemon that listens to its workers' KV caches, as a process of its own with real sockets on all sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.kv_publisher import CLEARED, Publisher, removed, stored
from tests.support.raw_client import Connection as Client
from tests.support.tokenizing_worker import TokenizingWorker, templated, tokens_of
from tests.wire.answers import CHAT

PREFIX = {"strategy": "prefix-cache"}


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
                "endpoint": publisher.endpoint, "live": True, "blocks": 2, "block_size": 2, "orphans": 0, "messages": 0, "events": 1,
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


def prompt(text: str) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": text}]}


LONG = "Once upon a time there was a bee that knew the way to each flower. " * 10
"""More than forty blocks of 16 tokens, each of them a byte."""
SHORTEST_BLOCK = 16


def held(text: str, share: float = 1.0) -> dict[str, Any]:
    """A BlockStored of the beginning of this prompt, as the engine reads it."""
    ids = tokens_of(templated(prompt(text)["messages"]))
    return stored(ids[: int(len(ids) * share)], SHORTEST_BLOCK)


@story
async def test_a_request_goes_to_the_worker_whose_events_say_that_it_holds_its_prompt(tmp_path: Path) -> None:
    """Though it was sent nothing like it. The tokenizer is asked once."""
    async with (
        TokenizingWorker(name="a") as a, TokenizingWorker(name="b") as b, FaultWorker(name="c") as c,
        Publisher() as of_a, Publisher() as of_b,
    ):  # fmt: skip
        await of_a.publish(held("something else"))
        async with daemon(tmp_path, entry(a, of_a), entry(b, of_b), entry(c), routing=PREFIX) as router:
            await told(router, "a", live=True)
            await told(router, "b", live=True)
            event = held(LONG)
            await of_b.publish(event)
            await told(router, "b", blocks=len(event["block_hashes"]))
            for _ in range(3):
                answer = await router.post(CHAT, prompt(LONG))
                assert answer.headers["x-rbee-worker"] == "b"
            assert len(a.tokenized) + len(b.tokenized) == 1
            lines = await router.wait_requests(3)
            assert {line["reason"] for line in lines} == {"prefix-cache; by tokens"}
            values = await router.metrics()
            assert values["rbeerouter_prompts_read_total", (("result", "read"),)] == 1.0
            assert values["rbeerouter_prompts_read_total", (("result", "kept"),)] == 2.0

            await of_b.publish(removed(event["block_hashes"]))  # it is a's turn, who has some of it now
            await told(router, "b", blocks=0)
            await of_a.publish(held(LONG, 0.6))
            await told(router, "a", events=2)
            answer = await router.post(CHAT, prompt(LONG + "And so on."))
            assert answer.headers["x-rbee-worker"] == "a"


@story
async def test_without_tokens_in_time_bytes_decide_and_the_log_says_so(tmp_path: Path) -> None:
    table = {"tokenizer_s": 0.05}
    async with TokenizingWorker(name="a") as a, TokenizingWorker(name="b") as b, Publisher() as of_a:
        a.silent = b.silent = True
        sections = {"routing.strategies.kv_events": table}
        async with daemon(tmp_path, entry(a, of_a), entry(b), routing=PREFIX, **sections) as router:
            await told(router, "a", live=True)
            names = {(await router.post(CHAT, prompt(LONG))).headers["x-rbee-worker"] for _ in range(4)}
            assert len(names) == 1, "the same prompt stays where it was"
            lines = await router.wait_requests(4)
            assert {line["reason"] for line in lines} == {"prefix-cache; by bytes, as its tokens are not known"}
            assert len(a.tokenized) + len(b.tokenized) == 2, "who gives no answer is left alone"


@story
async def test_only_requests_that_go_by_their_prompt_are_read(tmp_path: Path) -> None:
    async with TokenizingWorker(name="a") as a, Publisher() as of_a:
        async with daemon(tmp_path, entry(a, of_a)) as router:
            await told(router, "a", live=True)
            assert (await router.post(CHAT, prompt(LONG))).status == 200
            assert a.tokenized == []
            assert (await router.post(CHAT, prompt(LONG), [("routing-strategy", "prefix-cache")])).status == 200
            assert len(a.tokenized) == 1
            assert (await router.post(CHAT, prompt(LONG), [("routing-strategy", "nonsense")])).status == 400
            assert len(a.tokenized) == 1


@story
async def test_a_client_that_leaves_while_its_prompt_is_read_has_one_line(tmp_path: Path) -> None:
    async with TokenizingWorker(name="a") as a, Publisher() as of_a:
        a.silent = True
        sections = {"routing.strategies.kv_events": {"tokenizer_s": 10}}
        async with daemon(tmp_path, entry(a, of_a), routing=PREFIX, **sections) as router:
            await told(router, "a", live=True)
            async with Client(router.port) as client:
                client.send_request("POST", CHAT, prompt(LONG))
                await a.wait_until(lambda: len(a.tokenized) == 1)
            (line,) = await router.wait_requests(1)
            assert (line["outcome"], a.requests) == ("client_gone", [])


@story
async def test_a_prompt_that_must_stay_in_the_house_is_shown_to_no_tokenizer_elsewhere(tmp_path: Path) -> None:
    async with TokenizingWorker(name="a") as a, TokenizingWorker(name="b") as b, Publisher() as of_a, Publisher() as of_b:
        elsewhere = {**entry(a, of_a), "deployment": "remote"}
        async with daemon(tmp_path, elsewhere, entry(b, of_b), routing=PREFIX) as router:
            await told(router, "a", live=True)
            await told(router, "b", live=True)
            answer = await router.post(CHAT, prompt(LONG), [("x-rbee-deployment", "local")])
            assert answer.headers["x-rbee-worker"] == "b"
            assert (a.tokenized, len(b.tokenized)) == ([], 1)
