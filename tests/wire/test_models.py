"""Names, rules and the split on the wire: what reaches which worker, byte for byte, and what client and log are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.fault_worker import FaultWorker
from tests.wire.answers import CHAT
from tests.wire.router import router

LLAMA = {"name": "llama", "aliases": ["default", "gpt-4o"], "price_in": 1.0, "price_out": 2.0}
BODY = b'{ "model" : "%b", "messages":[{"role":"user","content":"hi"}], "s":"\\u00e9" , "n":1e0 }'


def entry(worker: FaultWorker, **more: Any) -> dict[str, Any]:
    return {"id": worker.name, "url": worker.url, **more}


@story
async def test_an_alias_is_rewritten_for_each_worker_and_a_name_that_fits_goes_through_as_it_came(tmp_path: Path) -> None:
    async with FaultWorker(name="a", models=["Meta-Llama"]) as worker:
        mapped = entry(worker, models=["Meta-Llama"], model_names={"llama": "Meta-Llama"})
        async with router(tmp_path, mapped, models=[LLAMA]) as under_test:
            for name in (b"default", b"llama", b"Meta-Llama"):
                assert (await under_test.post(CHAT, BODY % name)).status == 200
            lines = await under_test.wait_requests(3)
    assert [json.loads(request.body)["model"] for request in worker.requests] == ["Meta-Llama"] * 3
    assert worker.requests[2].body == BODY % b"Meta-Llama"
    assert b'"\\u00e9"' in worker.requests[0].body and b"1e0" in worker.requests[0].body, "nothing else was changed"
    names = [(line["model"], line.get("asked_model"), line.get("sent_model")) for line in lines]
    assert names == [("llama", "default", "Meta-Llama"), ("llama", None, "Meta-Llama"), ("Meta-Llama", None, None)]


@story
async def test_a_request_that_fails_over_is_named_as_the_next_worker_knows_it(tmp_path: Path) -> None:
    async with FaultWorker("close_before_head", name="a") as first, FaultWorker(name="b") as second:
        workers = [
            entry(first, models=["x"], model_names={"llama": "x"}), entry(second, models=["llama", "gpt-4o"]),
        ]  # fmt: skip
        script = 'function route_request(request, workers)\n  return {"a", "b"}\nend\n'
        async with router(tmp_path, *workers, models=[LLAMA], script=script) as under_test:
            assert (await under_test.post(CHAT, BODY % b"gpt-4o")).headers["x-rbee-worker"] == "b"
            line = await under_test.wait_request()
    assert [json.loads(one.requests[0].body)["model"] for one in (first, second)] == ["x", "llama"]
    assert (line["attempts"], line["sent_model"]) == (2, "llama")


@story
async def test_the_cost_of_an_answer_stands_in_the_log_and_the_metrics(tmp_path: Path) -> None:
    async with FaultWorker(name="a", models=["llama"]) as worker, router(tmp_path, worker, models=[LLAMA]) as under_test:
        await under_test.post(CHAT, BODY % b"llama")
        line = await under_test.wait_request()
        expected = round((line["tokens_in"] * 1.0 + line["tokens_out"] * 2.0) / 1e6, 6)
        assert line["cost"] == expected > 0
        assert under_test.metrics()["rbeerouter_cost_total", (("worker", "a"),)] == expected


@story
async def test_the_header_keeps_a_request_in_the_house(tmp_path: Path) -> None:
    async with FaultWorker(name="gpu") as gpu, FaultWorker(name="cloud") as cloud:
        workers = [entry(gpu, models=["llama"]), entry(cloud, models=["llama", "big"], deployment="remote")]
        split = {"routing.split": {"local_fraction": 0.0}}
        async with router(tmp_path, *workers, **split) as under_test:
            assert (await under_test.post(CHAT, BODY % b"llama")).headers["x-rbee-worker"] == "cloud"
            for _ in range(3):
                answer = await under_test.post(CHAT, BODY % b"llama", [("x-rbee-deployment", "local")])
                assert answer.headers["x-rbee-worker"] == "gpu"
            nobody = await under_test.post(CHAT, BODY % b"big", [("X-Rbee-Deployment", "LOCAL")])
            assert (nobody.status, nobody.json()["error"]["code"]) == (404, "model_not_found")
            assert "the request is for local workers only" in nobody.json()["error"]["message"]
            wrong = await under_test.post(CHAT, BODY % b"llama", [("x-rbee-deployment", "here")])
            assert (wrong.status, wrong.json()["error"]["message"]) == (
                400, "x-rbee-deployment: 'here': expected local or remote",
            )  # fmt: skip
            await under_test.wait_requests(6)


@story
async def test_a_model_that_may_not_leave_the_house_does_not_even_when_the_house_fails(tmp_path: Path) -> None:
    async with FaultWorker("close_before_head", name="gpu") as gpu, FaultWorker(name="cloud") as cloud:
        workers = [entry(gpu, models=["llama"]), entry(cloud, models=["llama"], deployment="remote")]
        async with router(tmp_path, *workers, models=[{"name": "llama", "deployment": "local"}]) as under_test:
            answer = await under_test.post(CHAT, BODY % b"llama")
            assert answer.status == 502
            await under_test.wait_request()
    assert len(gpu.requests) >= 1 and cloud.requests == []


@story
async def test_the_sides_share_requests_as_the_split_says(tmp_path: Path) -> None:
    async with FaultWorker(name="gpu") as gpu, FaultWorker(name="cloud") as cloud:
        workers = [entry(gpu, models=["llama"]), entry(cloud, models=["llama"], deployment="remote")]
        async with router(tmp_path, *workers, **{"routing.split": {"local_fraction": 0.6}}) as under_test:
            for _ in range(50):
                assert (await under_test.post(CHAT, BODY % b"llama")).status == 200
            metrics = under_test.metrics()
            await under_test.wait_requests(50)
    assert (len(gpu.requests), len(cloud.requests)) == (30, 20)
    assert metrics["rbeerouter_split_requests_total", (("side", "local"),)] == 30


@pytest.mark.parametrize(("own", "expected"), [({"first_content_s": 0.1}, 504), ({"stream_s": 0.1}, 504)])
@story
async def test_a_model_may_have_limits_of_its_own(own: dict[str, float], expected: int, tmp_path: Path) -> None:
    body = b'{"model":"%b","messages":[],"stream":true}'
    async with FaultWorker("hang", name="a", models=["llama", "other"]) as worker:
        model = {"name": "llama", "aliases": ["default"], **own}
        async with router(tmp_path, worker, models=[model], limits={"attempts": 1}) as under_test:
            assert (await under_test.post(CHAT, body % b"default")).status == expected
            line = await under_test.wait_request()
            assert 100 <= line["total_ms"] < 2000, "though others have minutes"
