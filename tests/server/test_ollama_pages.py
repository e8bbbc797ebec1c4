"""The pages by which clients of Ollama find out what there is, through the public listener."""

from __future__ import annotations

from pathlib import Path

from rbeerouter.core.types import Report
from tests.support.aio import story
from tests.support.fault_worker import FaultWorker
from tests.support.ollama import Machine, card
from tests.wire.router import router


@story
async def test_clients_of_ollama_find_models_version_and_life(tmp_path: Path) -> None:
    machine = Machine(card("llama3:latest"), ps=(card("llama3:latest", expires_at="2026-09-01T10:00:00Z"),), version="0.12.3")
    async with machine.serving() as url, router(tmp_path, {"id": "m", "url": url}) as under_test:
        speaks = frozenset({"openai", "ollama"})
        under_test.daemon.fleet.apply(Report("m", True, ("llama3:latest",), 0.0, speaks=speaks))
        for path, page in machine.pages.items():
            answer = await under_test.get(path)
            assert (answer.status, answer.json()) == (200, page)
            assert answer.headers["content-type"] == "application/json; charset=utf-8"
        answer = await under_test.get("/")
        assert (answer.status, answer.body) == (200, b"Ollama is running")
        async with under_test.connect() as client:
            client.send_request("HEAD", "/")
            assert (await client.receive(to_head=True)).status == 200


@story
async def test_a_house_without_ollama_does_not_pretend_to_be_one(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.get("/")
        assert (answer.status, answer.json()) == (404, {"error": "no worker speaks Ollama's API"})
        assert (await under_test.get("/api/tags")).json() == {"models": []}
