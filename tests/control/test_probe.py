"""Tests of the probes: who is there, what it runs and holds, when it is asked, and that no answer can do harm.

Run by pytest, with the prober in the test's loop. The engines are fakes that answer with recorded pages; a genuine one is
in tests/e2e/test_real_engine.py.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from rbeerouter.config.sections import Probes
from rbeerouter.control.probe import Prober
from rbeerouter.core.errors import FAILURES
from rbeerouter.core.fleet import Fleet
from rbeerouter.core.types import ANTHROPIC, OLLAMA, OPENAI, Env, Report, WorkerSpec
from rbeerouter.dialects.engines.detect import STEPS
from tests.dialects.engines import PAYLOADS
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


class Engine(FaultWorker):
    """A worker that answers GETs of these paths, and 404 to all others.

    pages: {path: name of a payload, bytes, or a status}.
    """

    def __init__(self, pages: dict[str, str | bytes | int], **options: Any) -> None:
        super().__init__(name="w", **options)
        self.pages = pages
        self.more: list[tuple[str, str]] = []

    async def answer(self, connection: Connection, request: Request) -> None:
        self.probes.append(request)
        self._wake_waiters()
        told = self.pages.get(request.path, 404)
        body = told if isinstance(told, bytes) else b"" if isinstance(told, int) else (PAYLOADS / told).read_bytes()
        status = told if isinstance(told, int) else 200
        await connection.write(head(status, ("content-length", str(len(body))), *self.more) + body)

    def asked(self) -> list[str]:
        """The paths asked for since this was last called."""
        paths = [request.path for request in self.probes]
        self.probes.clear()
        return paths


VLLM: dict[str, str | bytes | int] = {
    "/health": b"", "/v1/models": "vllm_models.json", "/metrics": "vllm_metrics.txt",
}  # fmt: skip
OLLAMA_PAGES: dict[str, str | bytes | int] = {
    "/v1/models": "ollama_models.json", "/api/version": "ollama_version.json", "/api/tags": "ollama_tags.json",
    "/api/ps": "ollama_ps.json",
}  # fmt: skip
LLAMACPP: dict[str, str | bytes | int] = {
    "/health": "llamacpp_health.json", "/v1/models": "llamacpp_models.json", "/props": "llamacpp_props.json",
    "/metrics": "llamacpp_metrics.txt", "/slots": "llamacpp_slots.json",
}  # fmt: skip


class Noted(Fleet):
    """A fleet that keeps the reports."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[Report] = []

    def apply(self, report: Report) -> None:
        self.reports.append(report)
        super().apply(report)


@asynccontextmanager
async def prober(*specs: WorkerSpec, **probes: Any) -> AsyncIterator[tuple[Prober, Noted]]:
    env = Env(time.monotonic, time.time, random.Random(1))
    fleet = Noted()
    fleet.configure(specs)
    made = Prober(fleet, Probes(**{"timeout_s": 1.0, **probes}), env)
    try:
        yield made, fleet
    finally:
        await made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0.02)


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
            assert {request.method for request in worker.probes} == {"GET"}
            assert [request.path for request in worker.probes] == [*STEPS, "/v1/models"]
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
        pytest.param(head(401, ("content-length", "0")), False, (), id="wants a key"),
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
async def test_an_endless_page_is_read_to_its_limit_only() -> None:
    class Endless(FaultWorker):
        async def answer(self, connection: Connection, request: Request) -> None:
            await connection.write(head(200))
            for _ in range(64):
                await connection.write(b" " * (1 << 20))

    async with Endless(name="w") as worker:
        async with prober(spec(worker, engine="openai"), timeout_s=1.0, page_bytes=1 << 20) as (made, fleet):
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


# Engines.


@story
async def test_an_engine_is_found_out_once_and_what_it_tells_reaches_the_fleet() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker), metrics_s=0.1) as (made, fleet):
        await made.probe_all()
        assert worker.asked() == ["/v1/models", "/health", "/metrics"]
        one, report = fleet.workers["w"], fleet.reports[-1]
        assert (one.status, one.engine, one.speaks) == ("ready", "vllm", {OPENAI, ANTHROPIC})
        assert (one.models, one.waiting) == (("tiny", "poet"), 3)
        assert (report.running, report.loras, report.slots) == (8, ("poet",), 256)
        assert (report.kv_blocks, report.block_size, report.started_at) == (32768, 32, 1795727966.56)
        await made.probe_all()
        assert worker.asked() == ["/health", "/v1/models"], "its load was asked for a moment ago"
        assert fleet.reports[-1].running == 8


@story
async def test_an_engine_that_is_named_is_not_found_out() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker, engine="ollama")) as (made, fleet):
        worker.pages = {"/api/version": "ollama_version.json", "/api/tags": "ollama_tags.json", "/api/ps": "ollama_ps.json"}
        await made.probe_all()
        assert worker.asked() == ["/api/version", "/api/tags", "/api/ps"]
        one, report = fleet.workers["w"], fleet.reports[-1]
        assert (one.engine, one.speaks) == ("ollama", {OPENAI, ANTHROPIC, OLLAMA})
        assert (report.loaded, report.vram_used, report.slots) == (("qwen3:8b",), 5.0, 1)


@story
async def test_a_page_that_is_not_there_is_replaced_until_all_is_asked_for_again() -> None:
    pages = {**LLAMACPP, "/metrics": 501}
    async with Engine(pages) as worker, prober(spec(worker, engine="llamacpp")) as (made, fleet):
        await made.probe_all()
        assert worker.asked() == ["/health", "/v1/models", "/props", "/metrics", "/slots"]
        assert (fleet.reports[-1].running, fleet.reports[-1].waiting, fleet.reports[-1].slots) == (0, None, 2)
        worker.pages = {**pages, "/slots": 501}
        made._watches["w"].load_due = 0.0
        await made.probe_all()
        assert worker.asked() == ["/health", "/v1/models", "/props", "/metrics", "/slots"]
        made._watches["w"].load_due, made._watches["w"].state_due = 0.0, float("inf")
        worker.pages = pages
        await made._look(made._watches["w"])
        assert worker.asked() == []                            # nothing to ask for until all is asked for again
        assert (fleet.reports[-1].running, fleet.workers["w"].status) == (None, "ready")


@story
async def test_an_engine_that_loads_its_model_is_not_there_yet_and_asked_again_soon() -> None:
    loading = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'

    class Loading(Engine):
        async def answer(self, connection: Connection, request: Request) -> None:
            self.probes.append(request)
            await connection.write(
                head(503, ("server", "llama.cpp"), ("content-length", str(len(loading)))) + loading
            )

    async with Loading({}) as worker, prober(spec(worker)) as (made, fleet):
        for _ in range(6):
            await made.probe_all()
        assert (fleet.workers["w"].status, made.problems) == ("offline", {"w": "loading its model"})
        assert (fleet.reports[-1].engine, fleet.reports[-1].problem) == ("llamacpp", "loading its model")
        watch = made._watches["w"]
        assert 0.5 < watch.due - made._env.now() <= 1.2


@story
async def test_a_key_that_is_refused_is_told_and_not_tried_again_soon() -> None:
    async with Engine({"/health": b"", "/v1/models": 401}) as worker:
        async with prober(spec(worker, engine="vllm", api_key="old"), interval_s=30) as (made, fleet):
            await made.probe_all()
            await made.probe_all()
            assert fleet.workers["w"].status == "offline"
            assert made.problems == {"w": "its api_key was refused: GET /v1/models answered 401"}
            assert worker.probes[-1].header("authorization") == b"Bearer old"
            assert made._watches["w"].due - made._env.now() > 20


@story
async def test_anthropic_gets_its_key_as_it_wants_it() -> None:
    async with Engine({"/v1/models?limit=1000": "anthropic_models.json"}) as worker:
        async with prober(spec(worker, engine="anthropic", api_key="k")) as (made, fleet):
            await made.probe_all()
            assert fleet.workers["w"].models == ("claude-sonnet-4-5-20250929",)
            (asked,) = worker.probes
            assert (asked.header("x-api-key"), asked.header("authorization")) == (b"k", None)
            assert asked.header("anthropic-version") == b"2023-06-01"
            assert made._watches["w"].due - made._env.now() > 200


@story
async def test_an_engine_that_was_restarted_is_asked_for_everything_again() -> None:
    """Its token counters have begun again. As nobody named it, it may be another engine now."""
    counting = b"vllm:generation_tokens_total 500\nvllm:num_requests_running 1\n"
    async with Engine({**VLLM, "/metrics": counting}) as worker, prober(spec(worker)) as (made, fleet):
        await made.probe_all()
        assert fleet.reports[-1].started_at is None
        worker.pages = {**VLLM, "/metrics": b"vllm:generation_tokens_total 3\n", "/v1/models": "ollama_models.json"}
        worker.asked()
        made._watches["w"].load_due = 0.0
        made._watches["w"].state_due = float("inf")
        await made._look(made._watches["w"])
        assert worker.asked()[:2] == ["/metrics", "/v1/models"]
        assert fleet.reports[-1].engine == "ollama"


@story
async def test_an_engine_too_busy_for_its_metrics_is_still_there() -> None:
    class Slow(Engine):
        async def answer(self, connection: Connection, request: Request) -> None:
            if request.path == "/metrics":
                await connection.until_peer_leaves()
            await super().answer(connection, request)

    async with Slow(VLLM) as worker:
        async with prober(spec(worker, engine="vllm"), timeout_s=0.2) as (made, fleet):
            await made.probe_all()
            assert (fleet.workers["w"].status, fleet.workers["w"].waiting) == ("ready", None)
            assert made.problems == {"w": "no answer in time"}


@story
async def test_a_server_that_leaves_a_page_unanswered_while_it_is_found_out_can_be_used_all_the_same() -> None:
    class Silent(Engine):
        async def answer(self, connection: Connection, request: Request) -> None:
            if request.path == "/metrics":
                await connection.until_peer_leaves()
            await super().answer(connection, request)

    pages: dict[str, str | bytes | int] = {"/v1/models": b'{"data":[{"id":"m","owned_by":"somebody"}]}'}
    async with Silent(pages) as worker, prober(spec(worker), timeout_s=0.2) as (made, fleet):
        await made.probe_all()
        one = fleet.workers["w"]
        assert (one.status, one.engine, one.models) == ("ready", "openai", ("m",))


@story
async def test_an_engine_that_changes_while_it_is_away_is_found_out_again() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker)) as (made, fleet):
        await made.probe_all()
        await worker.refuse()
        await made.probe_all()
        await worker.accept_again()
        worker.pages = LLAMACPP
        worker.more = [("server", "llama.cpp"), ("process-start-time-unix", "1795728367")]
        await made.probe_all()
        assert (fleet.workers["w"].engine, fleet.reports[-1].started_at) == ("llamacpp", 1795728367.0)


@story
@pytest.mark.parametrize(
    ("before", "after", "engine"),
    [(VLLM, LLAMACPP, "llamacpp"), (VLLM, OLLAMA_PAGES, "ollama"), (OLLAMA_PAGES, VLLM, "vllm")],
)
async def test_an_engine_that_was_started_in_the_place_of_another_is_found_out(
    before: dict[str, str | bytes | int], after: dict[str, str | bytes | int], engine: str
) -> None:
    async with Engine(before) as worker, prober(spec(worker)) as (made, fleet):
        await made.probe_all()
        assert fleet.workers["w"].engine != engine
        worker.pages = after
        await made.probe_all()
        await made.probe_all()
        assert (fleet.workers["w"].engine, fleet.workers["w"].status) == (engine, "ready")


@story
async def test_a_registered_worker_is_not_asked_at_an_address_where_it_may_not_be() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker, source="registered")) as (made, fleet):
        made.sessions.allow = ("10.0.0.0/8",)
        await made.probe_all()
        assert (worker.asked(), fleet.workers["w"].status) == ([], "offline")
        assert "in no network of [registration] allow" in made.problems["w"]
        made.sessions.allow = ("127.0.0.0/8",)
        await made.probe_all()
        assert fleet.workers["w"].status == "ready"


# Times.


@story
async def test_a_worker_on_which_a_request_failed_is_looked_at_soon() -> None:
    async with Engine(VLLM) as worker:
        async with prober(
            spec(worker, engine="vllm"), interval_s=60, metrics_s=60, down_interval_s=0.1
        ) as (made, fleet):  # fmt: skip
            await made.probe_all()
            worker.asked()
            running = asyncio.create_task(made.run())
            one = fleet.workers["w"]
            fleet.sent(one, 0.0)
            fleet.finished(one, FAILURES["upstream_disconnected"], 1.0)
            await worker.wait_until(lambda: len(worker.probes) >= 2, 5.0, "a look at its health and models")
            running.cancel()
            assert worker.asked()[:2] == ["/health", "/v1/models"]


@story
async def test_a_worker_that_others_fill_is_asked_for_its_load_sooner() -> None:
    async with Engine(VLLM) as worker:
        async with prober(spec(worker, engine="vllm", max_concurrency=11), metrics_s=60) as (made, fleet):
            await made.probe_all()                             # it tells of eight that run and three that wait
            assert fleet.workers["w"].status == "busy"
            assert made._watches["w"].due <= made._env.now() + 2.0


@story
async def test_a_look_that_ends_unforeseen_is_not_repeated_at_once() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker, engine="vllm"), interval_s=60) as (made, _):
        looks = []

        async def fail(watch: object, full: bool = False) -> None:
            looks.append(watch)
            made._watches["w"].busy = False

        made._look = fail  # type: ignore[method-assign]
        for _ in range(3):
            made._look_at_those_due()
            await asyncio.sleep(0)
        assert len(looks) == 1


@story
async def test_load_is_asked_for_more_often_than_all_else() -> None:
    async with Engine(VLLM) as worker:
        async with prober(spec(worker, engine="vllm"), interval_s=60, metrics_s=0.1) as (made, _):
            await made.probe_all()
            worker.asked()
            running = asyncio.create_task(made.run())
            await worker.wait_until(lambda: len(worker.probes) >= 2, 5.0, "two looks at its load")
            running.cancel()
            assert set(worker.asked()) == {"/metrics"}


@story
async def test_llama_cpp_is_asked_for_its_load_every_two_seconds_at_most() -> None:
    async with Engine(LLAMACPP) as worker:
        async with prober(spec(worker, engine="llamacpp"), interval_s=0.1, metrics_s=0.1) as (made, _):
            running = asyncio.create_task(made.run())
            await worker.wait_until(lambda: len(worker.probes) >= 12, 5.0, "some looks")
            running.cancel()
            assert worker.asked().count("/metrics") == 1


@story
async def test_a_worker_that_hangs_delays_no_other() -> None:
    async with Answering(name="hung") as hung, Engine(VLLM) as worker:
        async with prober(
            spec(hung), spec(worker, engine="vllm"), interval_s=0.1, metrics_s=60, timeout_s=20
        ) as (made, fleet):  # fmt: skip
            running = asyncio.create_task(made.run())
            await worker.wait_until(lambda: len(worker.probes) >= 6, 5.0, "looks at the other")
            assert (len(hung.probes), fleet.workers["w"].status) == (1, "ready")
            running.cancel()


@story
async def test_a_worker_that_a_request_found_gone_is_looked_for_at_once() -> None:
    async with Engine(VLLM) as worker:
        async with prober(
            spec(worker, engine="vllm"), interval_s=60, metrics_s=60, down_interval_s=0.1
        ) as (made, fleet):  # fmt: skip
            await made.probe_all()
            running = asyncio.create_task(made.run())
            fleet.workers["w"].health.reachable = False
            await until(lambda: fleet.workers["w"].health.reachable)
            running.cancel()


@story
@pytest.mark.parametrize(
    ("models", "expected"), [(("m",), (1, 2, 4, 8, 10, 10, 10)), (("other",), (1, 1, 1, 1, 1, 1, 1))]
)
async def test_a_worker_that_stays_away_is_asked_less_and_less_unless_nobody_can_stand_in_for_it(
    models: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    async with Engine(VLLM) as worker, prober(
        spec(worker, engine="vllm", models=("m",)), WorkerSpec("w2", "http://127.0.0.1:9", models=models), interval_s=30
    ) as (made, fleet):  # fmt: skip
        await worker.refuse()
        fleet.workers["w2"].standing = "ready"
        pauses = []
        for _ in range(7):
            await made._look(made._watch(fleet.workers["w"].spec))
            pauses.append(made._watches["w"].due - made._env.now())
        for pause, wanted in zip(pauses, expected, strict=True):
            assert 0.75 * wanted < pause < 1.25 * wanted


@story
async def test_new_settings_hold_for_those_that_are_known_and_removed_workers_are_forgotten() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker, engine="vllm"), interval_s=60, metrics_s=60) as (made, fleet):
        await made.probe_all()
        made.apply(Probes(interval_s=0.1, timeout_s=1.0))
        worker.asked()
        running = asyncio.create_task(made.run())
        await worker.wait_until(lambda: len(worker.probes) >= 4, 5.0, "looks in the new interval")
        made.problems["w"] = "something"
        fleet.configure([])
        await until(lambda: not made._watches)
        running.cancel()
        assert made.problems == {}


@story
async def test_a_shorter_time_between_looks_at_the_load_alone_holds_at_once() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker, engine="vllm"), interval_s=60, metrics_s=60) as (made, _):
        await made.probe_all()
        made.apply(Probes(interval_s=60, metrics_s=0.1, timeout_s=1.0))
        assert made._watches["w"].due <= made._env.now() + 0.1


@story
async def test_our_requests_that_end_after_the_engine_was_asked_are_not_taken_for_somebody_elses() -> None:
    async with Engine(VLLM) as worker, prober(spec(worker), metrics_s=60.0) as (made, fleet):
        one = fleet.workers["w"]
        for _ in range(11):                                    # it tells of eight that run and three that wait
            fleet.sent(one, 0.0)
        await made.probe_all()
        foreign = [one.foreign]
        for _ in range(10):
            fleet.finished(one, None, 0.0)
        await made.probe_all()
        assert ([*foreign, one.foreign], fleet.reports[-1].running, one.in_flight) == ([0, 0], 8, 1)


@story
async def test_many_that_do_not_answer_hold_up_the_others_for_one_look_only() -> None:
    async with Answering() as silent, Engine(VLLM) as worker, prober(timeout_s=0.2, at_once=2) as (made, _):
        hanging = [WorkerSpec(f"w{number}", silent.url) for number in range(50)]
        begun = time.monotonic()
        reports = await made.look([spec(worker), *hanging])
        assert time.monotonic() - begun < 3.0
        assert reports[0].worker_id == "w" and reports[0].reachable
        assert len(reports) < 51 and len(silent.probes) < 50
