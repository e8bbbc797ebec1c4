"""Tests of workers that register, are drained and removed, with the daemon as a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.daemon import REPOSITORY, DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import get
from tests.wire.answers import CHAT, PROMPT, STREAMED

TOKEN = "a-token-of-workers-1234"
ADMIN = "a-token-of-admins-12345"
REGISTRATION = {"token": TOKEN, "ttl_s": 60}
WORKERS = "/api/v1/workers"


async def ask(
    router: DaemonProcess, method: str, path: str, body: Any = None, token: str | None = TOKEN, **headers: str
) -> tuple[int, dict[str, Any]]:
    sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    given = [*headers.items(), *([("authorization", f"Bearer {token}")] if token else [])]
    async with Client(router.control_port) as client:
        client.send_request(method, path, sent, given)
        answer = await client.receive()
    return answer.status, answer.json()


@story
async def test_a_worker_that_registers_gets_requests_at_once_and_none_after_it_is_removed(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, registration=REGISTRATION) as router:
        assert (await router.page("/health")).json()["status"] == "no_workers"
        entry = {"id": "gpu1", "url": worker.url, "metadata": {"rack": 3}, "api_key": "key-of-the-worker"}
        status, answer = await ask(router, "POST", WORKERS, entry)
        assert (status, answer["ok"], answer["ttl_s"], "note" in answer) == (200, True, 60.0, False)
        assert (answer["worker"]["status"], answer["worker"]["source"]) == ("ready", "registered")
        assert (await router.post(CHAT, PROMPT)).headers["x-rbee-worker"] == "gpu1"
        assert worker.requests[-1].header("authorization") == b"Bearer key-of-the-worker"
        listed = await router.page(WORKERS)
        assert b"key-of-the-worker" not in listed.body
        assert listed.json()["workers"][0]["spec"]["metadata"] == {"rack": 3}
        assert await ask(router, "DELETE", WORKERS + "/gpu1") == (200, {"ok": True})
        assert (await router.post(CHAT, PROMPT)).status == 503
        assert (await ask(router, "DELETE", WORKERS + "/gpu1"))[0] == 404
        await router.wait_event("workers_changed", 2)
        changes = [(line["added"], line["removed"]) for line in router.log_lines("workers_changed")]
        assert changes == [(["gpu1"], []), ([], ["gpu1"])]
        assert b"key-of-the-worker" not in router.log_path.read_bytes()


@story
async def test_a_refused_change_leaves_a_registered_worker_as_it_was(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="mine") as mine, FaultWorker() as worker,
        daemon(tmp_path, mine, registration=REGISTRATION) as router,
    ):  # fmt: skip
        await ask(router, "POST", WORKERS, {"id": "gpu1", "url": worker.url})
        status, answer = await ask(router, "POST", WORKERS, {"id": "gpu1", "url": mine.url})
        assert (status, answer["error"]) == (409, f"url = '{mine.url}': another worker is there already")
        assert (await router.workers())["gpu1"]["url"] == worker.url


@story
async def test_an_answer_under_way_outlives_the_removal_of_its_worker(tmp_path: Path) -> None:
    async with (
        FaultWorker("slow_tokens") as worker,
        daemon(tmp_path, registration=REGISTRATION) as router,
        Client(router.port) as client,
    ):
        worker.delay_s = 0.1
        await ask(router, "POST", WORKERS, {"id": "gpu1", "url": worker.url})
        client.send_request("POST", CHAT, STREAMED)
        await worker.wait_requests(1)
        assert (await ask(router, "DELETE", WORKERS + "/gpu1"))[0] == 200
        assert await router.workers() == {}
        answer = await client.receive()
        assert (answer.status, answer.complete, b"[DONE]" in answer.body) == (200, True, True)


@story
async def test_what_registered_and_what_was_drained_outlives_a_kill(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b:
        async with daemon(tmp_path, a, registration=REGISTRATION) as router:
            await ask(router, "POST", WORKERS, {"id": "b", "url": b.url, "api_key": "kept-key"})
            assert (await ask(router, "POST", WORKERS + "/a/drain"))[0] == 200
            router.kill()
            router.start()
            await router.until_serving()
            rows = await router.workers()
            assert {name: row["status"] for name, row in rows.items()} == {"a": "draining", "b": "ready"}
            assert {(await router.post(CHAT, PROMPT)).headers["x-rbee-worker"] for _ in range(4)} == {"b"}
            assert b.requests[-1].header("authorization") == b"Bearer kept-key"
            await ask(router, "POST", WORKERS + "/a/undrain")
            await ask(router, "DELETE", WORKERS + "/b")
            router.kill()
            router.start()
            await router.until_serving()
            assert {name: row["status"] for name, row in (await router.workers()).items()} == {"a": "ready"}
            router.kill()                                     # what it counted before is gone, so its books differ


@story
async def test_a_worker_that_is_not_heard_of_expires_and_one_that_is_stays(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b:
        async with daemon(tmp_path, registration=REGISTRATION) as router:
            for worker in (a, b):
                entry = {"id": worker.name, "url": worker.url, "ttl_s": 5}
                assert (await ask(router, "POST", WORKERS, entry))[1]["ttl_s"] == 5
            for _ in range(4):
                await asyncio.sleep(2)
                assert (await ask(router, "POST", WORKERS + "/a/heartbeat", {}))[0] == 200
            assert list(await router.workers()) == ["a"]
            assert (await ask(router, "POST", WORKERS + "/b/heartbeat"))[0] == 404
            assert (await router.wait_event("worker_expired"))["worker"] == "b"


@story
async def test_an_owner_at_his_machine_drains_it_and_an_operator_s_word_holds_besides(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, registration=REGISTRATION) as router:
        await ask(router, "POST", WORKERS, {"id": "pc", "url": worker.url})

        async def state_after(path: str, body: Any = None) -> str:
            assert (await ask(router, "POST", WORKERS + path, body))[0] == 200
            return str((await router.workers())["pc"]["status"])

        assert await state_after("/pc/heartbeat", {"yielding": True, "owner_active": True}) == "draining"
        assert await state_after("/pc/heartbeat", {}) == "draining"
        assert await state_after("/pc/undrain") == "draining"
        assert await state_after("/pc/drain") == "draining"
        assert await state_after("/pc/heartbeat", {"yielding": False}) == "draining"
        assert await state_after("/pc/undrain") == "ready"


BAD = [
    ({}, 422, "the worker: object missing required field `url`"),
    ([], 422, "expected an object with at least url, got []"),
    (b"{", 422, "the body is not valid JSON"),
    (b"[" * 100_000, 422, "the body is not valid JSON"),
    ({"url": "http://a:1", "vram": "much"}, 422, "the worker: vram = 'much': expected"),
    ({"url": "http://a:1", "vran": 1}, 422, "vran: unknown key; did you mean 'vram'?"),
    ({"url": "ftp://127.0.0.1"}, 422, "url = 'ftp://127.0.0.1': expected http://HOST:PORT"),
    ({"url": "http://user:pass@127.0.0.1:1"}, 422, "url = 'http://...@127.0.0.1:1'"),
    ({"url": "http://127.0.0.1:1", "id": "a b"}, 422, "id = 'a b': expected 1 to 64 letters"),
    ({"url": "http://127.0.0.1:1", "ttl_s": 1}, 422, "ttl_s = 1: expected 5 to 86400 seconds, or 0"),
    ({"url": "http://127.0.0.1:1", "ttl_s": True}, 422, "ttl_s = True"),
    ({"url": "http://127.0.0.1:1", "kv_events": "tcp://10.0.0.1:1"}, 422, "kv_events: can be set in this machine's own"),
    ({"url": "http://127.0.0.1:1", "ca_file": "/etc/passwd"}, 422, "ca_file: is a path on this machine"),
    ({"url": "http://127.0.0.1:1", "api_key": "${HOME}", "vram": -1}, 422, "vram = -1"),
    ({"url": "http://169.254.169.254"}, 422, "169.254.169.254 is a link-local or metadata address"),
    ({"url": "http://[fe80::1]:80"}, 422, "link-local"),
    ({"url": "http://[::ffff:a9fe:a9fe]"}, 422, "link-local"),
    ({"url": "http://0.0.0.0:1"}, 422, "unspecified"),
    ({"url": "http://224.0.0.1"}, 422, "multicast"),
    ({"url": "http://8.8.8.8"}, 422, "8.8.8.8 is in no network of [registration] allow"),
    ({"url": "http://2130706433:1"}, 422, "neither a name nor a plain IP address"),
    ({"url": "http://no-such-host.invalid"}, 422, "the name no-such-host.invalid cannot be resolved"),
    ({"url": "http://127.0.0.1:1", "id": "fixed"}, 409, "a worker of source 'config' has this id"),
]  # fmt: skip


@story
async def test_what_must_not_be_registered_is_refused_with_what_is_wrong(tmp_path: Path) -> None:
    async with FaultWorker(name="fixed") as fixed, daemon(tmp_path, fixed, registration=REGISTRATION) as router:
        for entry, expected, told in BAD:
            status, answer = await ask(router, "POST", WORKERS, entry)
            assert (status, answer["ok"], told in answer["error"]) == (expected, False, True), (entry, answer)
        status, answer = await ask(router, "POST", WORKERS, {"url": fixed.url, "id": "other"})
        assert (status, "another worker is there already" in answer["error"]) == (409, True)
        status, answer = await ask(router, "DELETE", WORKERS + "/fixed")
        assert (status, "comes from source 'config'" in answer["error"]) == (409, True)
        assert (await ask(router, "POST", WORKERS + "/nobody/drain"))[0] == 404
        assert list(await router.workers()) == ["fixed"]
        entry = {"url": "http://127.0.0.1:1", "id": "literal", "api_key": "${HOME}"}
        status, answer = await ask(router, "POST", WORKERS, entry)
        assert (status, "cannot be reached" in answer["note"]) == (200, True)
        assert (await ask(router, "DELETE", WORKERS + "/literal"))[0] == 200


@story
async def test_without_token_from_elsewhere_or_from_a_web_page_nobody_registers(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        entry = {"url": "http://127.0.0.1:1"}
        assert await ask(router, "POST", WORKERS, entry) == (
            403, {"ok": False, "error": "registration is off; [registration] token turns it on"},
        )  # fmt: skip
        router.write_config(registration={"token": TOKEN, "allow": ["10.0.0.0/8"]})
        assert (await router.reload())["ok"]
        for token in (None, "wrong", TOKEN[:-1]):
            assert (await ask(router, "POST", WORKERS, entry, token=token))[0] == 401
        status, answer = await ask(router, "POST", WORKERS, entry)
        assert (status, answer["error"]) == (403, "127.0.0.1 is in no network of [registration] allow")
        assert (await ask(router, "POST", WORKERS, entry, origin="http://evil"))[0] == 403
        router.write_config(registration={"allow": ["127.0.0.0/8"], "most_workers": 1})
        assert (await router.reload())["ok"]
        assert (await ask(router, "POST", WORKERS, entry))[0] == 200
        status, answer = await ask(router, "POST", WORKERS, {"url": "http://127.0.0.1:2"})
        assert (status, answer["error"]) == (409, "1 workers are registered already; see [registration] most_workers")


@story
async def test_a_control_plane_for_other_machines_needs_its_token(tmp_path: Path) -> None:
    async with FaultWorker() as worker:
        control = {"token": ADMIN}
        async with daemon(tmp_path, worker, control=control, registration=REGISTRATION) as router:
            router.page = page_with_token(router)             # type: ignore[method-assign]
            for path in ("/metrics", WORKERS, "/routing"):
                assert (await get(router.control_port, path)).status == 401
            assert (await get(router.control_port, "/health")).status == 200
            assert (await ask(router, "GET", WORKERS))[0] == (await ask(router, "GET", WORKERS, token=ADMIN))[0] == 200
            drain = f"{WORKERS}/{worker.name}/drain"
            assert (await ask(router, "POST", drain))[0] == 401
            assert (await ask(router, "POST", drain, token=ADMIN))[0] == 200
            assert (await ask(router, "POST", f"{WORKERS}/{worker.name}/undrain", token=ADMIN))[0] == 200


def page_with_token(router: DaemonProcess) -> Any:
    async def page(path: str) -> Any:
        return await get(router.control_port, path, [("authorization", f"Bearer {ADMIN}")])

    return page


@story
async def test_an_unusable_state_folder_refuses_registration_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = {"folder": str(tmp_path / "file")}
    async with FaultWorker() as worker, daemon(tmp_path, worker, state=state) as router:
        router.write_config(registration=REGISTRATION)
        verdict = await router.reload()
        assert (verdict["ok"], "[registration] needs it" in verdict["error"]) == (False, True)
        assert (await ask(router, "POST", f"{WORKERS}/{worker.name}/drain"))[0] == 200
        await router.wait_event("state_not_kept")


@pytest.mark.parametrize("garbage", [b"no database" * 500])
@story
async def test_a_broken_state_file_is_set_aside(tmp_path: Path, garbage: bytes) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "state.db").write_bytes(garbage)
    state = {"folder": str(folder)}
    async with FaultWorker() as worker, daemon(tmp_path, state=state, registration=REGISTRATION) as router:
        await router.wait_event("state_set_aside")
        assert (await ask(router, "POST", WORKERS, {"url": worker.url}))[0] == 200


@story
async def test_commands_show_drain_add_and_remove_workers(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b:
        async with daemon(tmp_path, a, control={"token": ADMIN}, registration=REGISTRATION) as router:
            router.page = page_with_token(router)             # type: ignore[method-assign]

            async def said(*arguments: str) -> tuple[int, str]:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "rbeerouter", "workers", *arguments, "--config", str(router.config_path),
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=REPOSITORY,
                )  # fmt: skip
                output, _ = await process.communicate()
                assert process.returncode is not None
                return process.returncode, output.decode().strip()

            assert await said("add", b.url, "--id", "b") == (0, "done")
            assert await said("drain", "a") == (0, "done")
            code, table = await said()
            assert (code, [line.split()[:2] for line in table.splitlines()]) == (
                0, [["id", "status"], ["a", "draining"], ["b", "ready"]],
            )  # fmt: skip
            assert await said("undrain", "a") == (0, "done")
            assert await said("remove", "b") == (0, "done")
            assert await said("drain", "b") == (1, "there is no worker 'b'")
            assert (await said("drain"))[0] == 2
