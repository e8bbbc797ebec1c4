"""Tests of the few pages of the control plane that the public listener hands out, and of nothing else of it.

Run by pytest, with the router in the test's loop.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rbeerouter import __version__
from tests.support.aio import story
from tests.support.daemon import until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import exchange
from tests.wire.answers import CHAT, PROMPT, error_shape
from tests.wire.router import router


@pytest.mark.parametrize("path", ["/health", "/api/v1/health", "/health?verbose=1"])
@story
async def test_health_is_public_and_counts_usable_workers(path: str, tmp_path: Path) -> None:
    async with (
        FaultWorker() as one,
        FaultWorker() as two,
        router(tmp_path, one, two, offline=[two]) as under_test,
    ):
        answer = await under_test.get(path)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {"status": "ok", "version": __version__, "workers": 2, "usable": 1}
        assert "server" not in answer.headers


@story
async def test_health_is_503_when_no_worker_can_be_used(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker, offline=[worker]) as under_test:
        answer = await under_test.get("/health")
        assert (answer.status, answer.json()["status"], answer.json()["usable"]) == (503, "no_workers", 0)


@story
async def test_models_are_listed_once_each_in_the_order_of_the_workers(tmp_path: Path) -> None:
    async with (
        FaultWorker(models=["b", "a"]) as one,
        FaultWorker(models=["a", "c", "b"]) as two,
        router(tmp_path, one, two) as under_test,
    ):
        answer = await under_test.get("/v1/models")
        assert (answer.status, answer.json()) == (
            200,
            {
                "object": "list",
                "data": [
                    {"id": model, "object": "model", "created": 0, "owned_by": "rbeerouter"} for model in ["b", "a", "c"]
                ],
            },
        )


@pytest.mark.parametrize(
    "path", ["/metrics", "/routing", "/api/v1/workers", "/api/v1/reload", "/docs", "/v1/models/", "/health/", "/api/alive"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
@story
async def test_the_rest_of_the_control_plane_is_not_public(method: str, path: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        client.send_request(method, path, b"")
        answer = await client.receive()
        told = answer.json()["error"]
        assert answer.status == 404
        assert told["code"] == "not_found" if path != "/api/alive" else "nothing at" in told


@story
async def test_one_model_can_be_asked_for_whatever_its_name(tmp_path: Path) -> None:
    async with FaultWorker(models=["org/a b"]) as worker, router(tmp_path, worker) as under_test:
        for path in ("/v1/models/org/a%20b", "/v1/models/org%2Fa%20b"):
            answer = await under_test.get(path)
            assert (answer.status, answer.json()["id"]) == (200, "org/a b")
        answer = await under_test.get("/v1/models/b")
        assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")


@story
async def test_pages_and_requests_share_a_connection(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        for _ in range(3):
            assert (await client.get("/health")).status == 200
            assert (await client.post(CHAT, PROMPT)).status == 200
            client.send_request("HEAD", "/v1/models")
            answer = await client.receive(to_head=True)
            assert (answer.status, int(answer.headers["content-length"]) > 0, client.unread) == (200, True, b"")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@story
async def test_a_page_is_the_last_answer_of_a_connection_that_is_to_be_closed(version: str, tmp_path: Path) -> None:
    asked = f"GET /health HTTP/{version}\r\nhost: x\r\nconnection: close\r\n\r\n".encode()
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        head, _, body = (await exchange(under_test.port, asked)).partition(b"\r\n\r\n")
        assert b"\r\nconnection: close" in head
        assert body.endswith(b"}\n")


@story
async def test_a_page_that_fails_is_a_500_and_is_heard_of(tmp_path: Path) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("of the test")

    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        under_test.daemon.listener.relay_to = broken
        answer = await client.get("/health")
        assert (answer.status, error_shape(answer.json())) == (500, ("server_error", "internal_error", None))
        assert b"ZeroDivision" not in answer.body
        assert (await client.post(CHAT, PROMPT)).status == 200
        (heard,) = under_test.unexpected
        assert heard["message"] == "the task 'relay /health' failed"
        under_test.unexpected.clear()


@story
async def test_a_client_that_leaves_while_a_page_is_made_ends_that(tmp_path: Path) -> None:
    began: list[Any] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        began.append(scope["path"])
        await asyncio.get_running_loop().create_future()

    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        under_test.daemon.listener.relay_to = endless
        client.send_request("GET", "/health")
        await until(lambda: began == ["/health"], "the page to be asked for")
        client.abort()
        await until(lambda: not under_test.client_connections(), "the connection to be forgotten")
