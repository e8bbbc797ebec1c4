"""Tests with genuine llama.cpp servers behind the daemon and the clients that people use in front of it.

Run by pytest; skipped where the engine's package is not installed. The three engines are shared by the tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon, free_port
from tests.support.llama import EngineMissing, llama_process, llama_server, need, write_tiny_gguf
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import get, post
from tests.wire.answers import CHAT

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "seed": 1}
SCRIPT = """
function route_request(request, workers)
  local ready = workers:filter(function(worker) return worker.status == "ready" end)
  local wanted = request.metadata.worker
  if wanted then return wanted end
  return ready:sort_by(function(a, b) return a.load < b.load end):first()
end
"""
LONG: dict[str, Any] = {**ASK, "max_tokens": 4000, "ignore_eos": True}
SOON_S = 1.0


@pytest.fixture(name="model", scope="module")
def write_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is large enough to take seconds for an answer as long as its context."""
    try:
        need("xllamacpp")
        path = tmp_path_factory.mktemp("model") / "tiny.gguf"
        return write_tiny_gguf(path, width=256, layers=8, heads=4, feed_forward=1024)
    except EngineMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(name="engines", scope="module")
def start_engines(model: Path) -> Iterator[list[str]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(llama_server(model, api_key="engine-key", embeddings=True)) for _ in range(3)]


def entries(urls: list[str]) -> list[dict[str, Any]]:
    return [{"id": f"gpu{at}", "url": url, "api_key": "engine-key"} for at, url in enumerate(urls)]


def client(router: DaemonProcess) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{router.port}/v1", api_key="the-client's-own", max_retries=0)


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@story
async def test_the_official_client_gets_the_engine_s_answer_whole_and_streamed(engines: list[str], tmp_path: Path) -> None:
    direct = await post(port_of(engines[0]), CHAT, {**ASK, "max_tokens": 40}, [("authorization", "Bearer engine-key")])
    text = direct.json()["choices"][0]["message"]["content"]
    async with daemon(tmp_path, *entries(engines), script=SCRIPT) as router, client(router) as ai:
        whole = await ai.chat.completions.create(**ASK, max_tokens=40)
        assert (whole.choices[0].message.content, whole.model) == (text, "tiny")
        pieces = []
        stream = await ai.chat.completions.create(
            **ASK, max_tokens=40, stream=True, stream_options={"include_usage": True}
        )
        async for chunk in stream:
            pieces.append(chunk)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices) == text
        assert [chunk.choices[0].finish_reason for chunk in pieces if chunk.choices][-1] == "length"
        usage = pieces[-1].usage
        assert usage is not None
        assert whole.usage is not None
        one, two = await router.wait_requests(2)
        assert (one["tokens_in"], one["tokens_out"]) == (whole.usage.prompt_tokens, 40)
        assert (two["tokens_in"], two["tokens_out"]) == (usage.prompt_tokens, 40)
        assert [line["by"] for line in (one, two)] == ["script", "script"]


@story
async def test_every_text_surface_of_the_engine_is_reached(engines: list[str], tmp_path: Path) -> None:
    async with daemon(tmp_path, *entries(engines), script=SCRIPT) as router, client(router) as ai:
        assert [card.id async for card in ai.models.list()] == ["tiny"]
        completion = await ai.completions.create(model="tiny", prompt="hello", max_tokens=5)
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 5
        response = await ai.responses.create(model="tiny", input="hello", max_output_tokens=5)
        assert response.usage is not None
        names = []
        async for event in await ai.responses.create(model="tiny", input="hello", max_output_tokens=5, stream=True):
            names.append(event.type)
        assert (names[0], names[-1]) == ("response.created", "response.completed")
        vectors = (await ai.embeddings.create(model="tiny", input=["one", "two", "one"])).data
        assert [len(vector.embedding) for vector in vectors] == [256] * 3
        assert vectors[0].embedding == pytest.approx(vectors[2].embedding, abs=1e-4)
        assert vectors[0].embedding != pytest.approx(vectors[1].embedding, abs=1e-4)
        with pytest.raises(openai.InternalServerError, match="does not support reranking"):
            await ai.post("/rerank", body={"model": "tiny", "query": "a", "documents": ["b"]}, cast_to=object)
        lines = await router.wait_requests(5)
        assert [(line["outcome"], line["status"]) for line in lines] == [("ok", 200)] * 4 + [("worker_error", 501)]
        assert [line.get("tokens_out") for line in lines] == [5, 5, 5, None, None]


@story
async def test_the_script_decides_which_engine_answers(engines: list[str], tmp_path: Path) -> None:
    async with daemon(tmp_path, *entries(engines), script=SCRIPT) as router:
        for worker in ("gpu2", "gpu0", "gpu1"):
            answer = await router.post(CHAT, {**ASK, "max_tokens": 1}, [("x-rbee-meta-worker", worker)])
            assert (answer.status, answer.headers["x-rbee-worker"]) == (200, worker)
            assert answer.headers["x-rbee-reason"] == "routing.lua:5"
        await router.wait_requests(3)


@story
async def test_load_is_spread_over_all_engines(engines: list[str], tmp_path: Path) -> None:
    async with daemon(tmp_path, *entries(engines), script=SCRIPT) as router:
        answers = await asyncio.gather(
            *(router.post(CHAT, {**ASK, "max_tokens": 60, "stream": True}, timeout_s=30) for _ in range(24))
        )
        assert {answer.events()[-1].data for answer in answers} == {"[DONE]"}
        shares = Counter(answer.headers["x-rbee-worker"] for answer in answers)
        assert shares.keys() == {"gpu0", "gpu1", "gpu2"}
        # Each takes two at once, and the next one when it has room: the faster, the more.
        assert min(shares.values()) >= 4
        await router.wait_requests(24)


@story
async def test_curl_sees_events_one_by_one(engines: list[str], tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    async with daemon(tmp_path, *entries(engines), script=SCRIPT) as router:
        process = await asyncio.create_subprocess_exec(
            curl, "-sN", f"http://127.0.0.1:{router.port}{CHAT}", "-H", "content-type: application/json",
            "-d", json.dumps({**ASK, "max_tokens": 400, "stream": True}),
            stdout=asyncio.subprocess.PIPE, env={**os.environ, "no_proxy": "*"},
        )  # fmt: skip
        assert process.stdout is not None
        loop = asyncio.get_running_loop()
        times, lines = [], []
        while line := await process.stdout.readline():
            if line.startswith(b"data: "):
                times.append(loop.time())
                lines.append(line)
        assert await process.wait() == 0
        assert lines[-1] == b"data: [DONE]\n"
        spread = times[-1] - times[0]
        # Were they gathered anywhere on the way, most would come at the same moment.
        inner = [when - times[0] for when in times]
        assert spread > 0.05
        assert 0.3 < inner[len(inner) // 2] / spread < 0.7
        await router.wait_requests(1)


async def busy_slots(url: str) -> int:
    answer = await get(port_of(url), "/slots", [("authorization", "Bearer engine-key")])
    return sum(slot["is_processing"] for slot in answer.json())


async def until_slots(url: str, count: int, timeout_s: float) -> None:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while await busy_slots(url) != count:
        assert asyncio.get_running_loop().time() < deadline, f"not {count} slots busy after {timeout_s} s"


@story
async def test_a_client_that_leaves_a_stream_frees_the_engine_s_slot(engines: list[str], tmp_path: Path) -> None:
    async with daemon(tmp_path, *entries(engines[:1]), script=SCRIPT) as router, Client(router.port) as leaving:
        leaving.send_request("POST", CHAT, {**LONG, "stream": True})
        await until_slots(engines[0], 1, 5.0)
        leaving.abort()
        await until_slots(engines[0], 0, SOON_S)              # the whole answer takes more than ten seconds
        (line,) = await router.wait_requests(1)
        assert (line["outcome"], line["status"]) == ("client_gone", 499)


@story
async def test_a_client_that_leaves_an_answer_in_one_piece_frees_the_engine_s_slot(
    engines: list[str], tmp_path: Path
) -> None:
    """llama.cpp looks for its client once a second, and only when nobody else asks it anything meanwhile."""
    async with daemon(tmp_path, *entries(engines[:1]), script=SCRIPT) as router, Client(router.port) as leaving:
        leaving.send_request("POST", CHAT, LONG)
        await until_slots(engines[0], 1, 5.0)
        leaving.abort()
        await asyncio.sleep(2.5)
        assert await busy_slots(engines[0]) == 0
        (line,) = await router.wait_requests(1)
        assert (line["outcome"], line["status"]) == ("client_gone", 499)


@story
async def test_no_client_can_keep_an_engine_at_work_after_it_has_left(engines: list[str], tmp_path: Path) -> None:
    """With X-Conversation-Id llama.cpp goes on without its client, who may come back for the rest."""
    resumable = [("x-conversation-id", "mine")]
    url, key = engines[0], [("authorization", "Bearer engine-key")]
    async with Client(port_of(url)) as direct:
        direct.send_request("POST", CHAT, {**LONG, "stream": True}, [*resumable, *key])
        await until_slots(url, 1, 5.0)
        direct.abort()
    await asyncio.sleep(SOON_S)
    assert await busy_slots(url) == 1
    await request_once(port_of(url), "DELETE", "/v1/stream?conv_id=mine", key)
    await until_slots(url, 0, 5.0)
    async with daemon(tmp_path, *entries(engines[:1]), script=SCRIPT) as router, Client(router.port) as leaving:
        leaving.send_request("POST", CHAT, {**LONG, "stream": True}, resumable)
        await until_slots(url, 1, 5.0)
        leaving.abort()
        await until_slots(url, 0, SOON_S)


async def request_once(port: int, method: str, path: str, headers: list[tuple[str, str]]) -> None:
    async with Client(port) as connection:
        connection.send_request(method, path, b"", headers)
        await connection.receive()


@story
async def test_an_engine_that_is_killed_while_it_reads_a_prompt_costs_no_client_anything(
    engines: list[str], model: Path, tmp_path: Path
) -> None:
    prompt = {**ASK, "messages": [{"role": "user", "content": "long " * 300}], "max_tokens": 5}
    for stream in (False, True):
        with contextlib.ExitStack() as doomed:
            url, process = await asyncio.to_thread(
                lambda: doomed.enter_context(llama_process(model, api_key="engine-key"))
            )
            folder = tmp_path / str(stream)
            folder.mkdir()
            async with daemon(folder, *entries([url, engines[1]]), script=SCRIPT) as router:
                asked = asyncio.create_task(
                    router.post(CHAT, {**prompt, "stream": stream}, [("x-rbee-meta-worker", "gpu0")], timeout_s=30)
                )
                await until_slots(url, 1, 5.0)
                process.kill()
                answer = await asked
                assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "gpu1")
                assert not stream or answer.events()[-1].data == "[DONE]"
                (line,) = await router.wait_requests(1)
                tries = [(one["worker_id"], one["result"]) for one in line["tries"]]
                assert tries == [("gpu0", "upstream_disconnected"), ("gpu1", "ok")]


@story
async def test_when_an_engine_dies_requests_go_on(engines: list[str], model: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as doomed:
        url = await asyncio.to_thread(lambda: doomed.enter_context(llama_server(model, api_key="engine-key")))
        async with daemon(tmp_path, *entries([url, *engines[:2]]), script=SCRIPT) as router, client(router) as ai:
            long = {**ASK, "max_tokens": 400, "ignore_eos": True, "stream": True}
            others = [
                asyncio.create_task(router.post(CHAT, long, [("x-rbee-meta-worker", name)])) for name in ("gpu1", "gpu2")
            ]
            cut = []
            async with Client(router.port) as watching:
                async for event in watching.stream(CHAT, long, [("x-rbee-meta-worker", "gpu0")]):
                    cut.append(event)
                    if len(cut) == 5:
                        await asyncio.to_thread(doomed.close)
                assert watching.answer is not None
                assert not watching.answer.complete
            assert cut[-1].json()["error"]["code"] == "upstream_disconnected"
            assert "[DONE]" not in [event.data for event in cut]
            for _ in range(10):
                whole = await ai.chat.completions.create(**ASK, max_tokens=5)
                assert whole.choices[0].message.content
            assert [answer.events()[-1].data for answer in await asyncio.gather(*others)] == ["[DONE]"] * 2
            lines = await router.wait_requests(13)
            assert Counter(line["outcome"] for line in lines) == {"ok": 12, "upstream_failed": 1}


@story
async def test_an_engine_that_was_killed_serves_again_when_it_is_back_and_is_known_to_be_new(
    engines: list[str], model: Path, tmp_path: Path
) -> None:
    port = free_port()
    workers = entries([f"http://127.0.0.1:{port}", engines[1]])
    to_gpu0 = [("x-rbee-meta-worker", "gpu0")]
    ask = {**ASK, "max_tokens": 2}
    start = functools.partial(llama_process, model, api_key="engine-key", port=port)
    probes = {"down_interval_s": 0.2, "metrics_s": 2}
    async with daemon(tmp_path, *workers, script=SCRIPT, probes=probes) as router:
        for restarts in (0, 1):
            life = start()
            _, process = await asyncio.to_thread(life.__enter__)
            async with asyncio.timeout(10.0):
                while True:
                    row = (await router.workers())["gpu0"]
                    if row["status"] == "ready" and row["running"] == 0 and row["restarts"] == restarts:
                        break
                    await asyncio.sleep(0.1)
            assert (await router.post(CHAT, ask, to_gpu0)).headers["x-rbee-worker"] == "gpu0"
            process.kill()
            await asyncio.to_thread(life.__exit__, None, None, None)
            assert (await router.post(CHAT, ask, to_gpu0)).headers["x-rbee-worker"] == "gpu1"
        await router.wait_requests(4)


@story
async def test_another_engine_goes_on_with_a_stream_whose_engine_was_killed(
    engines: list[str], model: Path, tmp_path: Path
) -> None:
    life = llama_process(model, api_key="engine-key")
    url, process = await asyncio.to_thread(life.__enter__)
    try:
        rules = [{"name": "tiny", "continuation": True}]
        workers = entries([url, engines[1]])
        async with daemon(tmp_path, *workers, script=SCRIPT, models=rules) as router, client(router) as ai:
            chunks = []
            async for chunk in await ai.chat.completions.create(
                **{**ASK, "seed": None}, max_tokens=300, stream=True, stream_options={"include_usage": True},
                extra_body={"ignore_eos": True}, extra_headers={"x-rbee-meta-worker": "gpu0"},
            ):  # fmt: skip
                chunks.append(chunk)
                if len(chunks) == 20:
                    process.kill()
            assert len({chunk.id for chunk in chunks}) == 1
            assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            usage = chunks[-1].usage
            assert usage is not None
            assert usage.completion_tokens > 200
            (line,) = await router.wait_requests(1)
            assert (line["outcome"], line["continued"]) == ("ok", True)
            assert [one["worker_id"] for one in line["tries"]] == ["gpu0", "gpu1"]
    finally:
        await asyncio.to_thread(life.__exit__, None, None, None)


@story
async def test_the_official_client_hears_of_a_cut_stream(model: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as doomed:
        url = await asyncio.to_thread(lambda: doomed.enter_context(llama_server(model, api_key="engine-key")))
        async with daemon(tmp_path, *entries([url])) as router, client(router) as ai:
            stream = await ai.chat.completions.create(
                **ASK, max_tokens=3000, stream=True, extra_body={"ignore_eos": True}
            )
            seen = 0
            with pytest.raises(openai.APIError, match="the worker closed the connection"):
                async for _ in stream:
                    seen += 1
                    if seen == 5:
                        await asyncio.to_thread(doomed.close)
            assert seen >= 5
            await router.wait_requests(1)


@story
async def test_the_engine_is_found_out_and_its_load_is_read(engines: list[str], tmp_path: Path) -> None:
    """Two requests that came another way keep both of its slots busy, and a third one waits."""
    probes = {"interval_s": 1, "metrics_s": 0.5}
    direct = [Client(port_of(engines[0])) for _ in range(3)]
    async with daemon(tmp_path, *entries(engines[:1]), script=SCRIPT, probes=probes) as router:
        row = (await router.workers())["gpu0"]
        assert (row["engine"], row["models"], row["capacity"], row["problem"]) == ("llamacpp", ["tiny"], 2, None)
        assert (row["running"], row["waiting"]) == (0, 0)
        async with contextlib.AsyncExitStack() as stack:
            for one in direct:
                await stack.enter_async_context(one)
                one.send_request(
                    "POST", CHAT, {**ASK, "max_tokens": 4000, "ignore_eos": True, "stream": True},
                    [("authorization", "Bearer engine-key")],
                )  # fmt: skip
            async with asyncio.timeout(10.0):
                while (row["running"], row["waiting"]) != (2, 1):
                    await asyncio.sleep(0.1)
                    row = (await router.workers())["gpu0"]
            assert (row["foreign"], row["load"]) == (3, 1.5)
            for one in direct:
                one.abort()


@story
async def test_an_engine_with_another_key_is_told_as_such(engines: list[str], tmp_path: Path) -> None:
    wrong = {"id": "gpu0", "url": engines[0], "api_key": "wrong"}
    async with daemon(tmp_path, wrong, script=SCRIPT) as router:
        row = (await router.workers())["gpu0"]
        assert row["status"] == "offline"
        assert row["problem"] == "its api_key was refused: GET /v1/models answered 401"
