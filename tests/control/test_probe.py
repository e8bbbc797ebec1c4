"""Tests of the probes: who is there, which models are listed, and nothing that a worker answers can do harm.

Run by pytest, with the prober in the test's loop.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from rbeerouter.config import Probes
from rbeerouter.control.probe import Prober
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import Env, WorkerSpec
from tests.support.aio import story
from tests.support.behaviours import head
from tests.support.fault_worker import Connection, FaultWorker, Request


class Answering(FaultWorker):
    """A worker that answers probes with these bytes, or never when there are none."""

    raw = b""

    async def answer(self, connection: Connection, request: Request) -> None:
        self.probes.append(request)
        if not self.raw:
            await connection.until_peer_leaves()
        await connection.write(self.raw)


@asynccontextmanager
async def prober(*specs: WorkerSpec, **probes: Any) -> AsyncIterator[tuple[Prober, Fleet]]:
    env = Env(time.monotonic, time.time, random.Random(1))
    fleet = Fleet()
    fleet.configure(specs)
    made = Prober(fleet, Probes(**{"timeout_s": 1.0, **probes}), env)
    try:
        yield made, fleet
    finally:
        await made.close()


def spec(worker: FaultWorker, **fields: Any) -> WorkerSpec:
    return WorkerSpec(worker.name, worker.url, **fields)


@story
async def test_a_worker_that_answers_is_ready_and_its_models_are_known() -> None:
    async with FaultWorker(models=["b", "a"], name="w") as worker:
        async with prober(spec(worker, api_key="secret")) as (made, fleet):
            assert fleet.workers["w"].status == "offline"
            await made.probe_all()
            assert (fleet.workers["w"].status, fleet.workers["w"].models) == ("ready", ("b", "a"))
            await made.probe_all()
            assert made.problems == {}
            assert [(request.method, request.path) for request in worker.probes] == [("GET", "/v1/models")] * 2
            assert worker.probes[0].header("authorization") == b"Bearer secret"
            assert worker.probes[0].header("cookie") is None
            assert worker.connections_accepted == 1


@story
async def test_models_that_the_operator_listed_stay() -> None:
    async with FaultWorker(models=["other"], name="w") as worker:
        async with prober(spec(worker, models=("mine",))) as (made, fleet):
            await made.probe_all()
            assert (fleet.workers["w"].status, fleet.workers["w"].models) == ("ready", ("mine",))


@story
async def test_models_that_come_and_go_are_followed() -> None:
    async with FaultWorker(models=["one"], name="w") as worker, prober(spec(worker)) as (made, fleet):
        await made.probe_all()
        worker.models = ["two", "three"]
        before = fleet.version
        await made.probe_all()
        assert fleet.workers["w"].models == ("two", "three")
        assert fleet.version > before


@story
async def test_a_worker_is_offline_after_two_failed_probes_and_back_after_two_good_ones() -> None:
    async with FaultWorker(name="w") as worker, prober(spec(worker)) as (made, fleet):
        await made.probe_all()
        await worker.refuse()
        await made.probe_all()
        assert fleet.workers["w"].status == "ready"
        await made.probe_all()
        assert fleet.workers["w"].status == "offline"
        assert "Connect" in made.problems["w"]
        await worker.accept_again()
        await made.probe_all()
        assert fleet.workers["w"].status == "offline"
        await made.probe_all()
        assert (fleet.workers["w"].status, made.problems) == ("ready", {})


@pytest.mark.parametrize(
    ("raw", "reachable", "models"),
    [
        pytest.param(head(404, ("content-length", "0")), True, (), id="no such page"),
        pytest.param(head(401, ("content-length", "0")), True, (), id="wants a key"),
        pytest.param(head(500, ("content-length", "0")), False, (), id="500"),
        pytest.param(head(503, ("content-length", "0")), False, (), id="503"),
        pytest.param(
            head(302, ("location", "http://127.0.0.1:9/"), ("content-length", "0")), True, (), id="redirect",
        ),
        pytest.param(head(200, ("content-length", "5")) + b"hello", True, (), id="not json"),
        pytest.param(head(200, ("content-length", "2")) + b"{}", True, (), id="no list"),
        pytest.param(head(200, ("content-length", "15")) + b'{"data": [1, 2]', True, (), id="broken list"),
        pytest.param(head(200, ("content-length", "2")) + b"\xff\xfe", True, (), id="not text"),
        pytest.param(head(200, ("content-length", "0")), True, (), id="empty"),
        pytest.param(
            head(200, ("content-length", "40"), ("content-encoding", "gzip")) + b'{"data":[{"id":"zipped"}]}'.ljust(40),
            True, ("zipped",), id="falsely encoded",
        ),
        pytest.param(b"\x00\x01not http\r\n\r\n", False, (), id="garbage"),
        pytest.param(head(200, ("content-length", "nine")) + b"{}", False, (), id="bad length"),
        pytest.param(b"", False, (), id="silence"),
    ],
)  # fmt: skip
@story
async def test_any_answer_below_500_is_a_sign_of_life_and_none_breaks_the_prober(
    raw: bytes, reachable: bool, models: tuple[str, ...]
) -> None:
    async with Answering(name="w") as worker, FaultWorker(name="good") as good:
        worker.raw = raw
        async with prober(spec(worker), spec(good), timeout_s=0.1) as (made, fleet):
            await made.probe_all()
            await made.probe_all()
            assert fleet.workers["w"].status == ("ready" if reachable else "offline")
            assert fleet.workers["w"].models == models
            assert fleet.workers["good"].status == "ready"


@story
async def test_an_endless_list_of_models_is_read_to_one_mebibyte_only() -> None:
    class Endless(FaultWorker):
        async def answer(self, connection: Connection, request: Request) -> None:
            await connection.write(head(200))
            for _ in range(64):
                await connection.write(b" " * (1 << 20))

    async with Endless(name="w") as worker, prober(spec(worker), timeout_s=1.0) as (made, fleet):
        await made.probe_all()
        assert (fleet.workers["w"].status, fleet.workers["w"].models) == ("ready", ())
        assert worker.bytes_sent < 16 << 20


@pytest.mark.parametrize("trusted", [True, False])
@story
async def test_an_https_worker_is_probed_with_its_own_authority(trusted: bool, tmp_path: Path) -> None:
    authority = trustme.CA()
    (authority if trusted else trustme.CA()).cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with FaultWorker(tls=context, name="w") as worker:
        async with prober(spec(worker, ca_file=str(tmp_path / "ca.pem"))) as (made, fleet):
            await made.probe_all()
            assert fleet.workers["w"].status == ("ready" if trusted else "offline")


@story
async def test_probes_go_on_by_themselves() -> None:
    async with FaultWorker(name="w") as worker, prober(spec(worker), interval_s=0.1) as (made, _):
        running = asyncio.create_task(made.run())
        await worker.wait_until(lambda: len(worker.probes) >= 3, 2.0, "three probes")
        running.cancel()


@story
async def test_a_worker_that_was_removed_during_its_probe_is_not_brought_back() -> None:
    async with Answering(name="w") as worker, prober(spec(worker), timeout_s=0.2) as (made, fleet):
        probing = asyncio.create_task(made.probe_all())
        await worker.wait_until(lambda: bool(worker.probes) or worker.open_connections > 0)
        fleet.configure([])
        await probing
        assert fleet.workers == {}
