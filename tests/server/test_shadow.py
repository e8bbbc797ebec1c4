"""Tests of the shadow with the real daemon: what it counts, what it harms (nobody), and how it becomes the live script.

Run by pytest, with the daemon as a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_reload import command, route_to, who_answers
from tests.server.test_scripts import ask_control
from tests.server.test_versions import A, B, active, load, rollback, short, versions
from tests.support.aio import story
from tests.support.daemon import REPOSITORY, DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import post
from tests.wire.answers import CHAT, PROMPT

SHADOW = {"shadow": "new.lua"}


def write(folder: Path, text: str) -> Path:
    path = folder / "new.lua"
    path.write_text(text)
    return path


async def shadow(router: DaemonProcess) -> dict[str, Any]:
    status, answer = await ask_control(router, "GET", "/api/v1/shadow")
    assert status == 200
    return answer


async def shadow_until(router: DaemonProcess, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(500):
        answer = await shadow(router)
        if holds(answer):
            return answer
        await asyncio.sleep(0.02)
    raise TimeoutError(f"the shadow still is {answer}")


async def compared(router: DaemonProcess, requests: int) -> dict[str, Any]:
    """The page when so many requests were looked at."""
    return await shadow_until(router, lambda page: page["requests"] + page["skipped"] >= requests)


async def promote(router: DaemonProcess, **asked: Any) -> tuple[int, Any]:
    return await ask_control(router, "POST", "/api/v1/promote", asked)


async def ask(router: DaemonProcess, *max_tokens: int) -> None:
    for number in max_tokens:
        await router.post(CHAT, {**PROMPT, "max_tokens": number})


BY_TOKENS = """function route_request(request, workers)
  local n = request.max_tokens
  if n == 1 then return "a" end
  if n == 2 then return "b", "because" end
  if n == 3 then return reject{status = 429, message = "no"} end
  if n == 4 then return queue(nil, {timeout_s = 5}) end
  if n == 5 then return request.metadata.nothing .. "b" end
  return nil
end
"""


@story
async def test_what_it_would_have_done_is_counted_as_by_hand(tmp_path: Path) -> None:
    write(tmp_path, BY_TOKENS)
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        await ask(router, 1, 1, 2, 2, 2, 3, 4, 4, 5)
        page = await compared(router, 9)
        assert (page["state"], page["hash"], page["live"], page["skipped"]) == ("on", short(BY_TOKENS), short(A), 0)
        assert page["results"] == {
            "agree": 2, "other_worker": 3, "other_model": 0, "waits": 2, "rejects": 1, "sends": 0, "fault": 1,
        }  # fmt: skip
        assert [tuple(pair.values()) for pair in page["pairs"]] == [
            ("routing.lua:2", "new.lua:4", "other_worker", 3), ("routing.lua:2", "new.lua:6", "waits", 2),
            ("routing.lua:2", "new.lua:5", "rejects", 1), ("routing.lua:2", "fallback", "fault", 1),
        ]  # fmt: skip
        newest = page["last"][0]
        assert (newest["result"], "concatenate a nil value" in newest["error"], newest["live_worker"]) == ("fault", True, "a")
        lines = await router.wait_requests(9)
        assert [one["request_id"] for one in page["last"]] == [line["request_id"] for line in lines[:1:-1]]
        assert page["last"][-1]["shadow_reason"] == "new.lua:4: because"
        shares = page["workers"]
        assert {name: row["live"] for name, row in shares.items()} == {"(rejected)": 0, "(waits)": 0, "a": 1.0, "b": 0}
        assert (shares["(rejected)"]["shadow"], shares["(waits)"]["shadow"]) == (0.1111, 0.2222)
        values = await router.metrics()
        assert values["rbeerouter_shadow_requests_total", (("result", "other_worker"),)] == 3
        pair = (("live", "routing.lua:2"), ("result", "waits"), ("shadow", "new.lua:6"))
        assert (values["rbeerouter_shadow_differences_total", pair], values["rbeerouter_shadow_up", ()]) == (2, 1)
        code, said, _ = await command(router, "shadow")
        assert (code, "9 requests compared, 0 skipped" in said, "waits instead" in said) == (0, True, True)
        assert {line["worker"] for line in lines} == {"a"}                     # nothing was sent for it
        assert len(b.requests) == 0
        await router.stop()
        summary = router.log_lines("shadow_summary")[-1]
        assert (summary["requests"], summary["results"]["other_worker"], summary["script"]) == (9, 3, short(BY_TOKENS))


@story
async def test_without_a_shadow_the_page_says_so_and_nothing_can_be_promoted(tmp_path: Path) -> None:
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=A) as router:
        page = await shadow(router)
        assert (page["state"], page["file"], page["requests"]) == ("off", None, 0)
        assert await command(router, "shadow") == (0, "there is no shadow; set [routing] shadow\n", "")
        status, answer = await promote(router)
        assert (status, answer["error"]) == (422, "there is no shadow; set [routing] shadow")
        assert (await command(router, "promote", "--yes"))[0] == 1


HARMLESS = {
    "loops": "function route_request(request, workers)\n  while request.max_tokens do end\n  return 'a'\nend\n",
    "fails": "function route_request(request, workers)\n  if request.max_tokens ~= 16 then error({}) end\n  return 'a'\nend\n",
    "leaks": "local kept = {}\nfunction route_request(request, workers)\n"
             "  for i = 1, 20 do kept[#kept + 1] = ('x'):rep(20000) .. #kept end\n  return 'a'\nend\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMLESS)
@story
async def test_one_that_loops_fails_or_leaks_harms_nobody_and_is_told(kind: str, tmp_path: Path) -> None:
    text = HARMLESS[kind].replace("while request.max_tokens do", "while request.max_tokens ~= 16 do")
    write(tmp_path, text)
    routing = {**SHADOW, "script_faults": 4, "shadow_share": 1}
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=A, routing=routing) as router:
        await ask(router, *range(20, 60))
        lines = await router.wait_requests(40)
        assert {(line["outcome"], line["worker"], line.get("script_error")) for line in lines} == {("ok", "a", None)}
        if kind != "loops":                                    # an error of its own is no fault of a script's
            page = await compared(router, 40)
            assert page["results"]["fault" if kind == "fails" else "agree"] == 40
            assert router.rss_bytes() < 300 << 20
            return
        page = await shadow_until(router, lambda page: page["state"] == "suspended")
        assert page["results"]["fault"] >= 4
        event = await router.wait_event("shadow_suspended")
        assert (event["script"], event["error"]) == (short(text), page["error"])
        assert (await router.metrics())["rbeerouter_shadow_up", ()] == 0
        status, answer = await promote(router)
        assert (status, answer["error"].startswith("the shadow is suspended: ")) == (422, True)
        assert await active(router) == short(A)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("function route_request(", "new.lua:1"),
        ("x = 1\n", "route_request"),
        ("function route_request(r, ws)\n  return ws[1].laod\nend\n", "laod"),
        ("while true do end\nfunction route_request() end\n", "new.lua"),
        (None, "cannot be read: No such file"),
    ],
)
@story
async def test_a_broken_one_is_told_and_changes_nothing(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        write(tmp_path, text)
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=A, routing=SHADOW) as router:
        page = await shadow(router)
        assert (page["state"], said in page["error"], page["requests"]) == ("broken", True, 0)
        assert (await router.wait_event("shadow_broken"))["error"] == page["error"]
        assert await who_answers(router) == "a"
        assert (await promote(router))[0] == 422
        assert (await router.reload())["ok"]
        assert len(router.log_lines("shadow_broken")) == 1     # the same fault is told once
        write(tmp_path, A + "-- mended\n")
        assert (await router.reload())["ok"]
        assert (await shadow(router))["state"] == "on"
        await router.wait_requests(1)


@story
async def test_one_that_is_deleted_goes_on_until_the_next_reload_and_is_told_then(tmp_path: Path) -> None:
    path = write(tmp_path, B)
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        path.unlink()
        await ask(router, 1)
        assert (await compared(router, 1))["results"]["other_worker"] == 1
        status, answer = await promote(router)
        assert (status, "was changed since it was loaded" in answer["error"]) == (422, True)
        assert (await router.reload())["ok"]
        assert (await shadow(router))["state"] == "broken"
        await router.wait_event("shadow_broken")
        await router.wait_requests(1)


@story
async def test_it_follows_its_file_at_a_reload_and_counts_anew(tmp_path: Path) -> None:
    write(tmp_path, B)
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        await ask(router, 1, 1)
        await compared(router, 2)
        assert (await router.reload())["ok"]
        assert (await shadow(router))["requests"] == 2         # neither script has changed
        write(tmp_path, A + "-- as the live one\n")
        assert (await router.reload())["ok"]
        assert (await shadow(router))["requests"] == 0
        await ask(router, 1, 1, 1)
        assert (await compared(router, 3))["results"]["agree"] == 3
        router.write_config(routing={"shadow": "nowhere.lua"})
        assert (await router.reload())["ok"]
        assert (await shadow(router))["state"] == "broken"
        await router.wait_requests(5)


@story
async def test_its_hooks_are_called_and_headers_reach_it_though_the_live_script_has_and_reads_none(tmp_path: Path) -> None:
    write(tmp_path, """
function route_request(request, workers)
  if request.headers["x-session-id"] == "s-1" and (state:get("done") or 0) >= 2 then return "b" end
  return "a"
end
function on_complete(request, outcome) state:set("done", (state:get("done") or 0) + (outcome.ok and 1 or 0)) end
""")
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        for _ in range(4):
            await router.post(CHAT, PROMPT, [("x-session-id", "s-1")])
        results = (await compared(router, 4))["results"]
        assert (results["agree"], results["other_worker"]) == (2, 2)
        await router.wait_requests(4)


@story
async def test_with_isolation_it_has_a_process_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, B)
    routing = {**SHADOW, "isolation": "process"}
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=routing) as router,
    ):  # fmt: skip
        await ask(router, 1, 1)
        assert (await compared(router, 2))["results"]["other_worker"] == 2
        await router.wait_requests(2)


@story
async def test_with_little_time_requests_are_skipped_and_counted(tmp_path: Path) -> None:
    slow = "function route_request(request, workers)\n  for i = 1, 100000 do local x = i end\n  return 'b'\nend\n"
    write(tmp_path, slow)
    routing = {**SHADOW, "shadow_share": 0.001, "shadow_buffer": 5}
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=routing) as router,
    ):  # fmt: skip
        await ask(router, *[1] * 40)
        page = await shadow(router)
        assert page["skipped"] + page["requests"] + page["waiting"] == 40
        assert page["skipped"] >= 30
        assert page["results"]["other_worker"] == page["requests"] > 0
        assert (await router.metrics())["rbeerouter_shadow_skipped_total", ()] >= page["skipped"]
        await router.wait_requests(40)


# Promote.


@story
async def test_promoting_puts_it_through_the_gate_over_the_file_and_into_the_versions(tmp_path: Path) -> None:
    path = write(tmp_path, B)
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        code, said, complained = await command(router, "promote")
        assert (code, "there is no terminal" in complained, await active(router)) == (2, True, short(A))
        code, said, _ = await command(router, "promote", "--yes")
        assert (code, "routing.lua: no errors, no warnings" in said) == (0, True)
        assert (router.script_path.read_text(), path.read_text(), await who_answers(router)) == (B, B, "b")
        assert await versions(router) == [(short(B), "promote"), (short(A), "start")]
        event = await router.wait_event("reload_ok")
        assert (event["how"], "@" in event["who"]) == ("promote", True)
        page = await shadow(router)
        assert (page["state"], page["requests"]) == ("same", 0)
        status, answer = await promote(router)
        assert (status, answer["error"]) == (422, f"{path}: is the live script already")
        assert (await rollback(router))[0] == 200              # and the shadow is one again
        assert (await who_answers(router), (await shadow(router))["state"]) == ("a", "on")
        await router.wait_requests(2)


@story
async def test_a_person_at_a_terminal_sees_the_numbers_and_is_asked(tmp_path: Path) -> None:
    write(tmp_path, B)
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        await ask(router, 1)
        await compared(router, 1)
        for answer, code, decides in ((b"n\n", 1, A), (b"y\n", 0, B)):
            ours, theirs = pty.openpty()
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rbeerouter", "promote", "--config", str(router.config_path), cwd=REPOSITORY,
                stdin=theirs, stdout=asyncio.subprocess.PIPE, env={**os.environ, "HOME": str(router.folder)},
            )  # fmt: skip
            os.write(ours, answer)
            said, _ = await process.communicate()
            os.close(ours)
            os.close(theirs)
            assert (process.returncode, b"another worker" in said, await active(router)) == (code, True, short(decides))
            assert said.index(b"another worker") < said.index(b"[y/N]")
        await router.wait_requests(1)


@pytest.mark.parametrize("where", ["routing_test.lua", "new_test.lua"])
@story
async def test_one_that_fails_the_tests_of_either_file_is_not_promoted(where: str, tmp_path: Path) -> None:
    write(tmp_path, B)
    (tmp_path / where).write_text('test("a gets it", function() expect(route{model = "m"}):to_be("a") end)\n')
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        status, answer = await promote(router)
        assert (status, "routing test failed" in answer["error"]) == (422, True)
        assert (router.script_path.read_text(), await active(router)) == (A, short(A))
        event = await router.wait_event("reload_rejected")
        assert (event["how"], "routing test failed" in event["error"]) == ("promote", True)


@story
async def test_edits_of_either_file_are_not_lost_by_promoting(tmp_path: Path) -> None:
    path = write(tmp_path, B)
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=SHADOW) as router,
    ):  # fmt: skip
        path.write_text(B + "-- not watched yet\n")
        status, answer = await promote(router)
        assert (status, "was changed since it was loaded" in answer["error"]) == (422, True)
        path.write_text(B)
        edited = A + "-- somebody is at it\n"
        router.script_path.write_text(edited)
        status, answer = await promote(router)
        assert (status, "--force" in answer["error"], router.script_path.read_text()) == (422, True, edited)
        status, answer = await promote(router, hash="0" * 12)
        assert (status, f"is {short(B)} now, not 000000000000" in answer["error"]) == (422, True)
        status, _ = await promote(router, hash=short(B), force=True)
        assert (status, router.script_path.read_text()) == (200, B)
        assert await versions(router) == [(short(B), "promote"), (short(edited), "edited"), (short(A), "start")]


@story
async def test_promotions_rollbacks_and_reloads_at_once_leave_file_and_script_alike(tmp_path: Path) -> None:
    write(tmp_path, B)
    routing = {**SHADOW, "reload_gate": "off"}
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=routing) as router,
    ):  # fmt: skip
        answers = await asyncio.gather(*(one for _ in range(3) for one in (promote(router), rollback(router))), router.reload())
        assert 200 in {status for status, _ in answers[:-1:2]}  # the first promotion to come
        assert answers[-1]["ok"]
        assert short(router.script_path.read_text()) == await active(router)
        assert (await shadow(router))["state"] == ("same" if await active(router) == short(B) else "on")
        assert {name for name, _ in await versions(router)} == {short(A), short(B)}


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"hash": 5}', b'{"hesh": "abcd"}', b'{"force": 1}', b"\xff"])
@story
async def test_a_body_that_is_none_promotes_nothing(body: bytes, tmp_path: Path) -> None:
    write(tmp_path, B)
    async with FaultWorker(name="a") as a, daemon(tmp_path, a, script=A, routing=SHADOW) as router:
        answer = await post(router.control_port, "/api/v1/promote", body)
        assert (answer.status, answer.json()["error"].startswith("the body: ")) == (422, True)
        refused = await post(router.control_port, "/api/v1/promote", b"", [("origin", "http://evil.example")])
        assert (refused.status, await active(router)) == (403, short(A))


@story
async def test_a_live_script_that_is_taken_out_of_service_is_compared_with_what_takes_its_place(tmp_path: Path) -> None:
    write(tmp_path, B)
    broken = "function route_request(r, ws)\n  if r.max_tokens == 9 then return r.metadata.none .. 'a' end\n  return 'a'\nend\n"
    routing = {**SHADOW, "script_faults": 2, "reload_gate": "off"}
    async with (
        FaultWorker(name="a") as a, FaultWorker(name="b") as b, daemon(tmp_path, a, b, script=A, routing=routing) as router,
    ):  # fmt: skip
        await load(router, broken)
        await ask(router, 9, 9)
        await router.wait_event("script_suspended")
        page = await shadow_until(router, lambda page: page["live"] == short(A))
        assert (page["state"], page["requests"]) == ("on", 0)
        await ask(router, 1)
        assert (await compared(router, 1))["pairs"][0]["live"] == "routing.lua:2"
        await router.wait_requests(3)


def test_the_scripts_of_these_tests_differ() -> None:
    assert route_to("a") == A != B
