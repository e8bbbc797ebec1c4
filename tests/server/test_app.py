"""Tests of the control plane's pages: what they say, where they are, and who may ask.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from rbeerouter import __version__
from tests.support.aio import story
from tests.support.daemon import REPOSITORY, daemon, free_port, until
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import exchange, get, post
from tests.wire.answers import CHAT, PROMPT, STREAMED


@story
async def test_every_page_says_what_is_true(tmp_path: Path) -> None:
    script = "function route_request(request, workers)\n  return nil\nend\n"
    async with FaultWorker(models=["tiny", "small"], name="a") as a, FaultWorker(models=["tiny"], name="b") as b:
        entry = {
            "id": "a", "url": a.url, "backend": "cuda", "vram": 24, "performance": 0.9, "cost_per_hour": 0.5,
            "max_concurrency": 4, "metadata": {"region": "eu", "spot": True}, "api_key": "worker-secret",
        }  # fmt: skip
        other = {"id": "b", "url": b.url, "models": ["listed"]}
        async with daemon(tmp_path, entry, other, script=script) as router, Client(router.port) as client:
            a.behave = b.behave = "hang"
            await client.get("/health")
            client.send_request("POST", CHAT, PROMPT)
            await a.wait_requests()
            health = await router.page("/health")
            assert (health.status, health.json()) == (
                200, {"status": "ok", "version": __version__, "workers": 2, "usable": 2},
            )  # fmt: skip
            assert (await router.page("/api/v1/health")).json() == health.json()
            common = {
                **dict.fromkeys((
                    "waiting", "kv_usage", "latency_ms", "ttft_ms", "role", "running", "load_age_s", "tokens_per_s",
                    "inter_token_ms", "error_rate", "temperature_c", "watts", "owner_active", "price_in", "price_out",
                    "left_alone_s", "problem", "kv_blocks", "block_size", "generated_tokens", "prompt_tokens", "cached_tokens",
                )),
                **dict.fromkeys(("ejected", "on_trial", "cooling", "draining"), False),
                "loras": [], "deployment": "local", "foreign": 0, "weight": 1.0, "restarts": 0, "reachable": True,
                "source": "config",
            }  # fmt: skip
            rows = await router.workers()
            said = rows["a"].pop("spec")
            assert (said["url"], said["metadata"], "api_key" in said) == (a.url, {"region": "eu", "spot": True}, False)
            assert rows["b"].pop("spec")["models"] == ["listed"]
            assert rows == {
                "a": {
                    "id": "a", "status": "ready", "backend": "cuda", "vram": 24.0, "vram_used": None, "load": 0.25,
                    "models": ["tiny", "small"], "performance": 0.9, "cost_per_hour": 0.5, "engine": "openai",
                    "metadata": {"region": "eu", "spot": True}, "capacity": 4, "in_flight": 1, "url": a.url,
                    "served": 0, "failed": 0, "loaded": ["tiny", "small"], **common,
                },
                "b": {
                    "id": "b", "status": "ready", "backend": None, "vram": None, "vram_used": None, "load": 0.0,
                    "models": ["listed"], "performance": None, "cost_per_hour": None, "engine": "openai",
                    "metadata": {}, "capacity": 16, "in_flight": 0, "url": b.url, "served": 0, "failed": 0,
                    "loaded": ["listed"], **common,
                },
            }  # fmt: skip
            models = (await router.page("/v1/models")).json()
            assert [card["id"] for card in models["data"]] == ["tiny", "small", "listed"]
            routing = (await router.page("/routing")).json()
            assert routing.pop("loaded_at").endswith("Z")
            assert len(routing["script"].pop("hash")) == 12
            assert routing == {
                "script": {"file": str(router.script_path)}, "suspended": None, "strategy": "least-request",
                "debug": False, "weights": {"a": 0.2, "b": 0.8}, "split": None,
            }  # fmt: skip
            client.abort()
            await router.wait_requests(1)


@story
async def test_metrics_are_what_prometheus_can_read_and_add_up(tmp_path: Path) -> None:
    async with FaultWorker(["ok", "ok", "status_500", "garbage"], name="a") as worker:
        async with daemon(tmp_path, worker) as router:
            for body in (PROMPT, STREAMED, PROMPT, PROMPT, b"{", {**PROMPT, "model": "nobody"}):
                await router.post(CHAT, body)
            await router.post("/nowhere", b"{}")
            page = await router.page("/metrics")
            assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            families = {family.name: family for family in text_string_to_metric_families(page.body.decode())}
            assert {family.type for family in families.values()} == {"counter", "gauge", "histogram"}
            assert [name for name, family in families.items() if not family.documentation] == []
            values = await router.metrics()
            assert {dict(labels)["outcome"]: value for (name, labels), value in values.items() if name == "rbeerouter_requests_total"} == {
                "ok": 2, "worker_error": 1, "upstream_failed": 1, "rejected": 2,
            }  # fmt: skip
            attempts = {
                dict(labels)["result"]: value
                for (name, labels), value in values.items()
                if name == "rbeerouter_attempts_total"
            }
            assert attempts == {"ok": 2, "upstream_error_status": 1, "upstream_protocol_error": 1}
            assert values["rbeerouter_refused_total", (("reason", "not_found"),)] == 1
            assert values["rbeerouter_worker_up", (("worker", "a"),)] == 1
            for name, count in [("decision", 4), ("total", 6), ("ttft", 2)]:
                assert values[f"rbeerouter_{name}_seconds_count", ()] == count
                assert values[f"rbeerouter_{name}_seconds_bucket", (("le", "+Inf"),)] == count
            await router.wait_requests(6)


@story
async def test_there_is_nothing_else(tmp_path: Path) -> None:
    asked = [("GET", "/nothing", 404), ("POST", "/health", 405), ("GET", "/api/v1/reload", 405), ("POST", CHAT, 404)]
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.control_port) as client:
        for method, path, status in asked:
            client.send_request(method, path, b"{}" if method == "POST" else b"")
            answer = await client.receive()
            assert (path, answer.status, "server" in answer.headers) == (path, status, False)
            assert [name for name in answer.headers if name.startswith("access-control")] == []


@story
async def test_a_web_page_cannot_reload(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        answer = await post(router.control_port, "/api/v1/reload", b"", [("origin", "http://evil.example")])
        assert (answer.status, answer.json()["ok"]) == (403, False)
        assert router.log_lines("reload_ok") == []
        assert (await router.metrics())["rbeerouter_reloads_total", (("result", "ok"),)] == 0


@story
async def test_only_its_own_names_are_served_lest_one_was_rebound_to_it(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.control_port) as client:
        own = ["localhost", f"localhost:{router.control_port}", "127.0.0.1", "127.0.0.1:1", "[::1]:8882", "[::1]"]
        for host in own:
            assert (host, (await client.get("/api/v1/workers", [("host", host)])).status) == (host, 200)
        for host in ("evil.example", "evil.example:8882", "localhost.evil.example", "127.0.0.1.evil.example", "", "x:y:z"):
            answer = await client.get("/api/v1/workers", [("host", host)])
            assert (host, answer.status) == (host, 421)
            assert worker.url not in answer.body.decode()


@story
async def test_where_the_network_is_trusted_any_name_is_served(tmp_path: Path) -> None:
    open_to_all = {"bind": f"0.0.0.0:{free_port()}", "allow_unauthenticated": True}
    async with FaultWorker() as worker, daemon(tmp_path, worker, control=open_to_all) as router:
        answer = await get(router.control_port, "/metrics", [("host", "router.internal:8882")])
        assert answer.status == 200


@story
async def test_the_control_plane_does_not_upgrade_either(tmp_path: Path) -> None:
    asked = (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
    )
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.control_port) as client:
        client.send(asked)
        await until(lambda: b"\r\n" in client.unread, "an answer")
        assert not client.unread.startswith(b"HTTP/1.1 101 ")


@story
async def test_the_control_plane_does_not_speak_http_2(tmp_path: Path) -> None:
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        came = await exchange(router.control_port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings, half_close=True)
        assert not came.startswith(b"\x00")


# Where it is.


@story
async def test_it_can_be_bound_to_a_socket_that_only_its_user_may_use(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with FaultWorker() as worker, daemon(tmp_path, worker, control={"bind": f"unix:{path}"}) as router:
        mode = os.stat(path)
        assert stat.S_ISSOCK(mode.st_mode)
        assert stat.S_IMODE(mode.st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /api/v1/workers HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        body = (await reader.read()).partition(b"\r\n\r\n")[2]
        writer.close()
        await writer.wait_closed()
        assert [row["id"] for row in json.loads(body)["workers"]] == [worker.name]
        reload = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rbeerouter", "reload", "--config", str(router.config_path),
            cwd=REPOSITORY, stdout=subprocess.PIPE, env={**os.environ, "HOME": str(tmp_path)},
        )  # fmt: skip
        said, _ = await reload.communicate()
        assert (reload.returncode, said) == (0, b"reloaded: no script, strategy least-request, 1 workers\n")
        assert (await router.post(CHAT, PROMPT)).status == 200
        await router.wait_requests(1)
        router.kill()
        router.start()                                    # what a killed daemon left there is in nobody's way
        await router.until_serving()
        assert await router.stop() == 0


