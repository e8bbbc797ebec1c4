"""Tests of versions and rollback with the real daemon and the commands that a person runs.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_reload import command, route_to, who_answers
from tests.server.test_scripts import ask_control, failing_for
from tests.support.aio import story
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import post
from tests.wire.answers import CHAT, PROMPT

UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
"""Takes from root what lets it write everywhere; others do not have it."""


def short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


A, B = route_to("a"), route_to("b")


async def versions(router: DaemonProcess) -> list[tuple[str, str]]:
    """(hash, how) of each version, the newest first."""
    _, answer = await ask_control(router, "GET", "/api/v1/versions")
    return [(version["hash"], version["how"]) for version in answer["versions"]]


async def active(router: DaemonProcess) -> str:
    return (await router.page("/routing")).json()["script"]["hash"]


async def load(router: DaemonProcess, *texts: str) -> None:
    for text in texts:
        router.script_path.write_text(text)
        assert (await router.reload())["ok"]


async def rollback(router: DaemonProcess, **asked: Any) -> tuple[int, Any]:
    return await ask_control(router, "POST", "/api/v1/rollback", asked)


@story
async def test_every_way_to_become_active_is_listed_with_who_did_it(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        router.script_path.write_text(B)
        code, _, _ = await command(router, "reload")
        assert code == 0
        router.script_path.write_text(A + "-- 3\n")
        router.signal(signal.SIGHUP)
        await router.wait_event("reload_ok", 2)
        _, answer = await ask_control(router, "GET", "/api/v1/versions")
        rows = [(row["hash"], row["how"], row["lines"], row["active"]) for row in answer["versions"]]
        assert rows == [
            (short(A + "-- 3\n"), "reload", 4, True), (short(B), "reload", 3, False), (short(A), "start", 3, False),
        ]  # fmt: skip
        who = [row["who"] for row in answer["versions"]]
        assert (who[0], who[2]) == ("SIGHUP", "start") and "@" in who[1]
        assert (answer["active"], answer["edited"], answer["kept"], answer["problem"]) == (
            short(A + "-- 3\n"), False, 20, None,
        )  # fmt: skip
        code, said, _ = await command(router, "versions")
        assert (code, [line.split()[-2] for line in said.splitlines()[1:]]) == (0, ["reload", "reload", "start"])
        assert said.splitlines()[1].startswith(f"*  {short(A + '-- 3' + chr(10))}")
        assert await command(router, "versions", short(B)[:6]) == (0, B, "")
        event = await router.wait_event("reload_ok")
        assert (event["who"], event["how"]) == (who[1], "reload")


@story
async def test_rollback_goes_to_the_one_before_and_back_again(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        router.script_path.chmod(0o640)
        code, said, _ = await command(router, "rollback")
        assert (code, said.splitlines()[0].split(", ")[0]) == (0, f"reloaded: script {router.script_path} ({short(A)})")
        assert (await who_answers(router), router.script_path.read_text()) == ("a", A)
        assert router.script_path.stat().st_mode & 0o777 == 0o640
        assert await versions(router) == [(short(A), "rollback"), (short(B), "reload")]
        code, _, _ = await command(router, "rollback")
        assert (code, await who_answers(router), router.script_path.read_text()) == (0, "b", B)
        await router.wait_requests(2)


@story
async def test_rollback_goes_to_any_version_that_is_kept(tmp_path: Path) -> None:
    texts = [A + f"-- {number}\n" for number in range(5)]
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=texts[0], routing={"versions_kept": 4}) as router:
        await load(router, *texts[1:])
        assert [name for name, _ in await versions(router)] == [short(text) for text in texts[:0:-1]]
        for text in texts[1:4]:
            assert (await rollback(router, version=short(text)))[0] == 200
            assert (router.script_path.read_text(), await active(router)) == (text, short(text))
        status, answer = await rollback(router, version=short(texts[0]))
        assert (status, answer["error"]) == (422, f"{short(texts[0])}: no version that is kept begins so")
        status, answer = await rollback(router, version=short(texts[3]))
        assert (status, answer["error"]) == (422, f"{short(texts[3])} is active already")


@story
async def test_versions_outlive_a_restart_and_one_with_another_script(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        router.kill()
        router.start()
        await router.until_serving()
        assert await versions(router) == [(short(B), "reload"), (short(A), "start")]
        assert await router.stop() == 0
        router.script_path.write_text(A)
        router.start()
        await router.until_serving()
        assert await versions(router) == [(short(A), "start"), (short(B), "reload")]
        assert (await rollback(router))[0] == 200
        assert (await active(router), router.script_path.read_text()) == (short(B), B)


@story
async def test_an_edited_file_is_not_overwritten_unless_forced_and_then_kept(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        edited = B + "-- a thought that is not finished"
        router.script_path.write_text(edited)
        assert (await ask_control(router, "GET", "/api/v1/versions"))[1]["edited"] is True
        code, said, _ = await command(router, "rollback")
        assert (code, "was changed since it was loaded" in said, "--force" in said) == (1, True, True)
        assert (router.script_path.read_text(), await active(router)) == (edited, short(B))
        code, said, _ = await command(router, "rollback", "--force")
        assert (code, router.script_path.read_text(), await active(router)) == (0, A, short(A))
        assert await versions(router) == [(short(A), "rollback"), (short(edited), "edited"), (short(B), "reload")]
        assert await command(router, "versions", short(edited)) == (0, edited, "")
        assert (await rollback(router))[0] == 200              # what never was active is not "the one before"
        assert await active(router) == short(B)


@story
async def test_a_deleted_file_comes_back(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        router.script_path.unlink()
        assert (await rollback(router))[0] == 200
        assert (router.script_path.read_text(), await active(router)) == (A, short(A))


@story
async def test_a_version_that_fails_the_tests_of_today_needs_force(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        tests = 'test("b gets it", function() expect(route{model = "m"}):to_be("b") end)\n'
        router.script_path.with_name("routing_test.lua").write_text(tests)
        status, answer = await rollback(router)
        assert (status, "routing test failed" in answer["error"], answer["active"]["script"]["hash"]) == (422, True, short(B))
        assert router.script_path.read_text() == B
        status, answer = await rollback(router, force=True)
        assert (status, answer["examined"], await active(router)) == (200, "not examined: forced", short(A))


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root can write everywhere")
@pytest.mark.parametrize("locked", ["folder", "file"])
@story
async def test_a_file_that_cannot_be_written_stays_and_so_does_what_decides(locked: str, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "routing.lua"
    script.write_text(A)
    wrapped = UNPRIVILEGED if os.geteuid() == 0 else []
    async with (
        FaultWorker(name="a") as a,
        daemon(tmp_path, a, routing={"script": str(script)}, wrapped_in=wrapped) as router,
    ):
        script.write_text(A + "-- 2\n")
        assert (await router.reload())["ok"]
        path = script if locked == "file" else script.parent
        path.chmod(0o555)
        try:
            status, answer = await rollback(router)
            assert (status, str(script) in answer["error"], "cannot be written" in answer["error"]) == (422, True, True)
            assert (script.read_text(), await active(router)) == (A + "-- 2\n", short(A + "-- 2\n"))
            assert [path.name for path in script.parent.iterdir()] == ["routing.lua"]
        finally:
            path.chmod(0o755)
        assert (await rollback(router))[0] == 200
        assert script.read_text() == A


@story
async def test_where_the_state_folder_cannot_be_used_versions_are_in_memory_and_that_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = {"folder": str(tmp_path / "file" / "state")}
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=A, state=folder) as router:
        await load(router, A + "-- 2\n", A + "-- 3\n")
        assert (await rollback(router))[0] == 200
        assert len(await versions(router)) == 3
        _, answer = await ask_control(router, "GET", "/api/v1/versions")
        assert "cannot be written" in answer["problem"]
        assert "would not outlive a restart" in (await command(router, "versions"))[1]
        assert len(router.log_lines("state_not_kept")) == 1


@story
async def test_rollbacks_and_reloads_at_once_leave_the_file_and_what_decides_alike(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        asked = [rollback(router) if number % 2 else router.reload() for number in range(8)]
        answers = await asyncio.gather(*asked)
        assert {answer[0] for answer in answers[1::2]} == {200}
        assert {answer["ok"] for answer in answers[::2]} == {True}
        assert short(router.script_path.read_text()) == await active(router) == short(B)
        assert {name for name, _ in await versions(router)} == {short(A), short(B)}


@story
async def test_a_script_that_was_taken_out_of_service_can_be_left_behind_for_good(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="a") as a,
        FaultWorker(name="b") as b,
        daemon(tmp_path, a, b, script=A, routing={"script_faults": 2}) as router,
    ):
        await load(router, failing_for("tiny", "b"))
        for _ in range(2):
            await router.post(CHAT, PROMPT)
        await router.wait_event("script_suspended")
        _, answer = await ask_control(router, "GET", "/api/v1/versions")
        assert [(row["hash"], row["active"]) for row in answer["versions"]][1] == (short(A), True)
        assert (await rollback(router))[0] == 200
        routing = (await router.page("/routing")).json()
        assert (routing["suspended"], routing["script"]["hash"], router.script_path.read_text()) == (None, short(A), A)
        await router.wait_requests(2)


@pytest.mark.parametrize(
    "hostile", ["../../../etc/passwd", "..%2f..%2fetc", "' OR 1=1 --", "a" * 5000, "\x00abcd", "ffff", "-", "*", "\udcff"]
)
@story
async def test_hostile_names_of_versions_are_refused(hostile: str, tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=A) as router:
        status, answer = await rollback(router, version=hostile)
        assert (status, answer["ok"], len(answer["error"]) < 300) == (422, False, True)
        if "\x00" not in hostile:                              # no argument can hold it
            for name in ("versions", "rollback"):
                code, said, complained = await command(router, name, hostile)
                assert (code, "Traceback" in said + complained) == (1, False)
        assert router.script_path.read_text() == A


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"version": 5}', b'{"verison": "abcd"}', b'{"force": "yes"}', b"\xff", b"[" * 10_000])
@story
async def test_a_body_that_is_none_changes_nothing(body: bytes, tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        answer = await post(router.control_port, "/api/v1/rollback", body)
        assert (answer.status, answer.json()["error"].startswith("the body: ")) == (422, True)
        assert router.script_path.read_text() == B


@story
async def test_web_pages_may_not_roll_back_and_names_of_who_asks_are_cleaned(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A) as router:
        await load(router, B)
        refused = await post(router.control_port, "/api/v1/rollback", b"", [("origin", "http://evil.example")])
        assert refused.status == 403
        who = [("x-rbee-who", "anna\x9b2J" + "x" * 500)]
        assert (await post(router.control_port, "/api/v1/rollback", b"", who)).status == 200
        _, answer = await ask_control(router, "GET", "/api/v1/versions")
        assert answer["versions"][0]["who"] == "anna2J" + "x" * 94


@story
async def test_without_a_script_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a) as router:
        assert (await ask_control(router, "GET", "/api/v1/versions"))[1]["versions"] == []
        status, answer = await rollback(router)
        assert (status, answer["error"]) == (422, "there is no earlier version to go back to")
