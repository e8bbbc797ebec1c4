"""Tests of reloading: a good configuration or script takes over in one step, a bad one changes nothing.

Run by pytest, with the daemon as a process of its own. `rbeerouter reload` is run as a person runs it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.aio import story
from tests.support.behaviours import ANSWER_TEXT
from tests.support.daemon import REPOSITORY, DaemonProcess, daemon
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.support.raw_client import Connection as Client
from tests.support.raw_client import post
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape

SOON_S = 2.0


def route_to(worker: str) -> str:
    return f'function route_request(request, workers)\n  return "{worker}"\nend\n'


async def command(router: DaemonProcess, *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `rbeerouter ...` with this daemon's configuration."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rbeerouter", *arguments, "--config", str(router.config_path),
        cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(router.folder)},
    )  # fmt: skip
    said, complained = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


async def who_answers(router: DaemonProcess) -> str:
    return (await router.post(CHAT, PROMPT)).headers["x-rbee-worker"]


# Good ones.


@story
async def test_a_new_script_takes_over_while_streams_go_on_as_they_began(tmp_path: Path) -> None:
    async with (
        FaultWorker("slow_tokens", name="a") as a,
        FaultWorker(name="b") as b,
        daemon(tmp_path, a, b, script=route_to("a")) as router,
    ):
        a.delay_s = 0.1
        streams = [asyncio.create_task(router.post(CHAT, STREAMED)) for _ in range(20)]
        await a.wait_requests(20)
        before = (await router.page("/routing")).json()
        router.script_path.write_text(route_to("b"))
        verdict = await router.reload()
        assert (verdict["ok"], verdict["workers"], verdict["notes"]) == (True, 2, [])
        assert verdict["active"]["script"]["hash"] != before["script"]["hash"]
        assert (await router.page("/routing")).json() == verdict["active"]
        assert await who_answers(router) == "b"
        answers = await asyncio.gather(*streams)
        assert {(answer.headers["x-rbee-worker"], answer.complete) for answer in answers} == {("a", True)}
        assert {"".join(event.content for event in answer.events()) for answer in answers} == {ANSWER_TEXT}
        event = await router.wait_event("reload_ok")
        assert (event["asked_by"], event["workers"]) == ("control plane", 2)
        assert (await router.metrics())["rbeerouter_reloads_total", (("result", "ok"),)] == 1
        await router.wait_requests(21)


@story
async def test_sighup_reloads_too(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="a") as a,
        FaultWorker(name="b") as b,
        daemon(tmp_path, a, b, script=route_to("a")) as router,
    ):
        assert await who_answers(router) == "a"
        router.script_path.write_text(route_to("b"))
        router.signal(signal.SIGHUP)
        assert (await router.wait_event("reload_ok"))["asked_by"] == "SIGHUP"
        assert await who_answers(router) == "b"
        await router.wait_requests(2)


@story
async def test_reloads_under_load_fail_no_request(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="a") as a,
        FaultWorker(name="b") as b,
        daemon(tmp_path, a, b, script=route_to("a")) as router,
    ):
        going = True

        async def ask() -> list[tuple[int, str]]:
            seen = []
            async with Client(router.port) as client:
                while going:
                    answer = await client.post(CHAT, PROMPT)
                    seen.append((answer.status, answer.headers["x-rbee-worker"]))
            return seen

        asking = [asyncio.create_task(ask()) for _ in range(10)]
        for number in range(10):
            router.script_path.write_text(route_to("ab"[number % 2]))
            assert (await router.reload())["ok"]
        going = False
        seen = [one for part in await asyncio.gather(*asking) for one in part]
        assert {status for status, _ in seen} == {200}
        assert {worker for _, worker in seen} == {"a", "b"}
        await router.wait_requests(len(seen))


@story
async def test_a_removed_worker_finishes_its_streams_and_gets_no_more(tmp_path: Path) -> None:
    async with (
        FaultWorker("slow_tokens", name="old") as old,
        FaultWorker(name="new") as new,
        daemon(tmp_path, old) as router,
    ):
        old.delay_s = 0.05
        stream = asyncio.create_task(router.post(CHAT, STREAMED))
        await old.wait_requests()
        router.workers_given = (new,)
        router.write_config(new)
        assert (await router.reload())["ok"]
        assert list(await router.workers()) == ["new"]
        assert [await who_answers(router) for _ in range(3)] == ["new"] * 3
        answer = await stream
        assert (answer.complete, answer.events()[-1].data) == (True, "[DONE]")
        assert len(old.requests) == 1
        await old.wait_until(lambda: old.open_connections <= 1, SOON_S, "its connection to be closed")
        await router.wait_requests(4)


@story
async def test_an_added_worker_is_probed_and_used(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(models=["new"], name="b") as b, daemon(tmp_path, a) as router:
        assert (await router.post(CHAT, {**PROMPT, "model": "new"})).status == 404
        router.workers_given = (a, b)
        router.write_config(a, b)
        assert (await router.reload())["ok"]
        assert (await router.post(CHAT, {**PROMPT, "model": "new"})).headers["x-rbee-worker"] == "b"
        await router.wait_requests(2)


@story
async def test_replacing_every_worker_leaves_no_moment_without_one(tmp_path: Path) -> None:
    class SlowToProbe(FaultWorker):
        async def answer(self, connection: Connection, request: Request) -> None:
            if request.method == "GET":
                await asyncio.sleep(0.3)
            await super().answer(connection, request)

    async with FaultWorker(name="old") as old, SlowToProbe(name="new") as new, daemon(tmp_path, old) as router:
        router.workers_given = (new,)
        router.write_config(new)
        reloading = asyncio.create_task(router.reload())
        statuses = []
        while not reloading.done():
            statuses.append((await router.post(CHAT, PROMPT)).status)
        assert (await reloading)["ok"]
        await router.wait_requests(len(statuses))
        assert set(statuses) == {200}


@story
async def test_changed_limits_apply_to_the_next_request(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router, Client(router.port) as client:
        assert (await client.post(CHAT, PROMPT)).status == 200
        router.write_config(limits={"request_body_bytes": 40, "attempts": 1}, routing={"strategy": "round-robin"})
        assert (await router.reload())["active"]["strategy"] == "round-robin"
        refusal = await client.post(CHAT, PROMPT)
        assert (refusal.status, error_shape(refusal.json())[1]) == (413, "request_too_large")
        router.write_config(limits={"request_body_bytes": 10_000, "request_s": 0.3})
        assert (await router.reload())["ok"]
        worker.behave = "hang"
        assert (await router.post(CHAT, PROMPT)).status == 504
        await router.wait_requests(2)


@story
async def test_counts_and_what_was_learned_survive_a_reload(tmp_path: Path) -> None:
    async with FaultWorker("status_500", name="a") as a, FaultWorker(name="b") as b:
        async with daemon(tmp_path, a, b, script=route_to("a"), probes={"interval_s": 60}) as router:
            for _ in range(5):
                assert (await router.post(CHAT, PROMPT)).headers["x-rbee-worker"] == "b"
            assert (await router.workers())["a"]["status"] == "offline"
            assert (await router.reload())["ok"]
            after = (await router.workers())["a"]
            assert (after["status"], after["failed"]) == ("offline", 5)
            assert await who_answers(router) == "b"
            await router.wait_requests(6)


@story
async def test_what_cannot_change_while_it_runs_is_noted_at_each_reload(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        port, control_port = router.port, router.control_port
        router.write_config(server={"bind": "127.0.0.1:1"}, routing={"log": "elsewhere.log"}, limits={"attempts": 2})
        for _ in range(2):
            verdict = (await post(control_port, "/api/v1/reload", b"")).json()
            assert (verdict["ok"], verdict["notes"]) == (
                True,
                ["server.bind has changed: that needs a restart", "routing.log has changed: that needs a restart"],
            )
        router.write_config(server={"bind": f"127.0.0.1:{port}"}, control={"bind": "127.0.0.1:2"})
        verdict = (await post(control_port, "/api/v1/reload", b"")).json()
        assert verdict["notes"][0] == "control.bind has changed: that needs a restart"
        router.sections["control"]["bind"] = f"127.0.0.1:{control_port}"
        assert (await router.post(CHAT, PROMPT)).status == 200
        await router.wait_requests(1)


@story
async def test_every_setting_that_needs_a_restart_is_noted(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        router.write_config(server={"max_connections": 50}, limits={"log_backlog_bytes": 1 << 20})
        assert [note.partition(" ")[0] for note in (await router.reload())["notes"]] == [
            "server.max_connections", "limits.log_backlog_bytes",
        ]  # fmt: skip


@story
async def test_many_hangups_at_once_leave_the_newest_configuration(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=route_to("a")) as router:
        for number in range(10):
            (tmp_path / "next.lua").write_text(f"-- {number}\n" + route_to("a"))
            (tmp_path / "next.lua").replace(router.script_path)      # or half a file might be read
            router.signal(signal.SIGHUP)
        await router.wait_event("reload_ok")
        await router.reload()                                 # waits for those that are still under way
        assert (await router.post(CHAT, PROMPT)).headers["x-rbee-reason"] == "routing.lua:3"
        assert router.log_lines("reload_rejected") == []
        await router.wait_requests(1)


# Bad ones.

BROKEN_SCRIPTS = {
    "syntax": ("function route_request(request, workers)\n  return workers[1\nend\n", "routing.lua:3:"),
    "fails while it loads": ("local x = nil\nlocal y = x.z\nfunction route_request() end\n", "routing.lua:2:"),
    "fails at the self-test": (
        "function route_request(request, workers)\n  return workers[9].id\nend\n", "the self-test request failed: routing.lua:2:",
    ),
    "never ends": ("function route_request(request, workers)\n  while true do end\nend\n", "budget exceeded"),
    "defines nothing": ("local x = 1\n", "defines no function route_request"),
    "is gone": (None, "routing.lua: cannot be read: No such file or directory"),
}  # fmt: skip


async def check_rejected(router: DaemonProcess, said: list[str], name: str) -> str:
    """A reload is refused in these words, and nothing has changed; the error."""
    before = (await router.page("/routing")).json()
    verdict = await router.reload()
    assert (verdict["ok"], verdict["active"]) == (False, before), name
    assert [part for part in said if part not in verdict["error"]] == [], name
    assert (await router.page("/routing")).json() == before, name
    return str(verdict["error"])


async def check_heard(router: DaemonProcess, errors: list[str]) -> None:
    """Each refusal is one line of the log, and counted."""
    await router.wait_event("reload_rejected", len(errors))
    assert [(line["asked_by"], line["error"]) for line in router.log_lines("reload_rejected")] == [
        ("control plane", error) for error in errors
    ]
    assert (await router.metrics())["rbeerouter_reloads_total", (("result", "rejected"),)] == len(errors)


@story
async def test_a_broken_script_changes_nothing_and_says_where(tmp_path: Path) -> None:
    errors = []
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=route_to("a")) as router:
        for name, (source, said) in BROKEN_SCRIPTS.items():
            router.script_path.unlink(missing_ok=True)
            if source is not None:
                router.script_path.write_text(source)
            errors.append(await check_rejected(router, [said], name))
            assert (await router.post(CHAT, PROMPT)).headers["x-rbee-reason"] == "routing.lua:2", name
        await check_heard(router, errors)
        await router.wait_requests(len(errors))


@pytest.mark.parametrize(
    ("answer", "said"),
    [("7", "routing.lua:2:10: error: route_request cannot answer a number"), ("'nobody'", "routing.lua:2: route_request returned")],
)
@story
async def test_a_script_whose_answer_is_no_worker_is_refused(answer: str, said: str, tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=route_to("a")) as router:
        router.script_path.write_text(f"function route_request(request, workers)\n  return {answer}\nend\n")
        await check_rejected(router, [said], answer)


BROKEN_CONFIGS = {
    "not toml": ("[server\n", "is not valid TOML: Expected", "line 1"),
    "unknown key": ("[server]\nbnid = 1\n", "server.bnid: unknown key", "did you mean 'bind'?"),
    "unknown section": ("[sever]\n", "sever: unknown key", "did you mean 'server'?"),
    "wrong type": ("[limits]\nattempts = 'many'\n", "limits.attempts = 'many'", "expected `int`"),
    "out of range": ("[limits]\nattempts = 0\n", "limits.attempts = 0", "expected `int` >= 1"),
    "bad url": ("[[workers]]\nurl = 'ftp://x'\n", "workers[0].url = 'ftp://x'", "expected http://HOST:PORT"),
    "unknown strategy": ("[routing]\nstrategy = 'fastest'\n", "routing.strategy = 'fastest'", "expected one of"),
    "open to all": ("[server]\nbind = '0.0.0.0:1'\n", "server.bind = '0.0.0.0:1'", "allow_unauthenticated"),
    "not text": (b"\xff\xfe", "is not UTF-8 text", "byte 0"),
    "a variable": ("[routing]\nlog = '${NO_SUCH_VARIABLE}'\n", "the environment variable NO_SUCH_VARIABLE is not set", ""),
}


@story
async def test_a_broken_configuration_changes_nothing_and_says_what(tmp_path: Path) -> None:
    errors = []
    async with FaultWorker(name="a") as a, daemon(tmp_path, a) as router:
        for name, (text, *said) in BROKEN_CONFIGS.items():
            router.config_path.write_bytes(text if isinstance(text, bytes) else text.encode())
            errors.append(await check_rejected(router, [f"{router.config_path}: ", *said], name))
            assert await who_answers(router) == "a", name
        router.config_path.unlink()
        errors.append(await check_rejected(router, ["cannot be read: No such file or directory"], "is gone"))
        await check_heard(router, errors)
        await router.wait_requests(len(errors) - 1)


@story
async def test_a_ca_file_that_is_none_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("this is no certificate")
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a) as router:
        bad = {"id": "b", "url": f"https://127.0.0.1:{b.port}", "ca_file": "ca.pem"}
        router.write_config(bad)
        answer = await post(router.control_port, "/api/v1/reload", b"")
        assert list(await router.workers()) == ["a"]
        assert (answer.status, answer.json()["ok"]) == (422, False)


@story
async def test_a_broken_reload_is_invisible_to_200_streams(tmp_path: Path) -> None:
    async with (
        FaultWorker("slow_tokens", name="a") as a,
        daemon(tmp_path, a, script=route_to("a")) as router,
    ):
        a.delay_s = 0.15
        streams = [asyncio.create_task(router.post(CHAT, STREAMED)) for _ in range(200)]
        await a.wait_requests(200)
        router.script_path.write_text("function route_request(\n")
        router.signal(signal.SIGHUP)
        await router.wait_event("reload_rejected")
        answers = await asyncio.gather(*streams)
        assert {(answer.complete, answer.events()[-1].data) for answer in answers} == {(True, "[DONE]")}
        await router.wait_requests(200)


# The command.


@story
async def test_the_reload_command_says_what_is_active_or_why_not(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=route_to("a")) as router:
        digest = (await router.page("/routing")).json()["script"]["hash"]
        assert await command(router, "reload") == (
            0, f"reloaded: script {router.script_path} ({digest}), strategy least-request, 1 workers\n", "",
        )  # fmt: skip
        router.script_path.write_text("function route_request(request, workers)\n  return workers[1\nend\n")
        code, said, complained = await command(router, "reload")
        assert (code, complained) == (1, "")
        assert said.startswith("rejected, nothing has changed: ")
        assert "routing.lua:3:" in said
        router.config_path.write_text(router.config_path.read_text() + "[servre]\n")
        code, said, complained = await command(router, "reload")
        assert (code, complained) == (1, "")
        assert "servre: unknown key; did you mean 'server'?" in said
        assert len(said.splitlines()) == 1


@story
async def test_the_reload_command_without_a_daemon_says_so(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        assert await router.stop() == 0
        code, said, complained = await command(router, "reload")
        assert (code, said) == (2, "")
        assert complained.startswith(f"rbeerouter: control.bind = '127.0.0.1:{router.control_port}': no daemon answers")
        assert len(complained.splitlines()) == 1


