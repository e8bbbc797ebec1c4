"""What becomes of requests when workers fail, through the daemon as it runs: rows 1 to 27 of tests/e2e/test_rows.py.

Run by pytest. After each test the books of the daemon must balance, with nothing in flight: tests/support/daemon.py.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import subprocess
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.behaviours import ANSWER_TEXT, GARBAGE, HUGE_EVENT_BYTES, LONG_EVENT_BYTES
from tests.support.daemon import DaemonProcess, daemon
from tests.support.fault_worker import FaultWorker
from tests.support.raw_client import Answer, Connection, get
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape

IN_ORDER = "function route_request(request, workers) return workers end"
NEVER_PROBED_AGAIN = {"interval_s": 3600}
BOTH = pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
LENIENT = {"failures": 1000, "error_rate_requests": 1000, "poison_strikes": 0, "cool_down_cap_s": 0}
"""For tests that let one worker fail many times, and want it asked again."""
SOON_S = 1.0
LIMIT_S = 0.6
SWEEPS_S = 1.0
"""Limits are looked at twice a second, and a machine under test is slow."""


def now() -> float:
    return asyncio.get_running_loop().time()


def text_of(answer: Answer) -> str:
    if answer.headers["content-type"] == "text/event-stream":
        return "".join(event.content for event in answer.events())
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def check_good(answer: Answer, worker: FaultWorker) -> None:
    assert (answer.status, answer.complete, answer.headers["x-rbee-worker"]) == (200, True, worker.name)
    assert text_of(answer) == ANSWER_TEXT


def check_cut(answer: Answer, content: str) -> None:
    """This content, then one error event; no end mark, and no end of the framing."""
    *said, last = [event for event in answer.events() if not event.is_comment]
    assert (answer.status, "".join(event.content for event in said)) == (200, content)
    assert error_shape(last.json())[0] == "upstream_error"
    assert (answer.complete, b"[DONE]" in answer.body) == (False, False)


async def logged(router: DaemonProcess, count: int = 1) -> dict[str, Any]:
    return (await router.wait_requests(count))[count - 1]


# Workers that die.


@BOTH
@story
async def test_a_worker_that_refuses_connections_costs_under_half_a_second(body: dict[str, Any], tmp_path: Path) -> None:
    async with (
        FaultWorker(name="dead") as dead,
        FaultWorker(name="good") as good,
        daemon(tmp_path, dead, good, script=IN_ORDER, probes=NEVER_PROBED_AGAIN) as router,
    ):
        await dead.refuse()
        began = now()
        check_good(await router.post(CHAT, body), good)
        assert now() - began < 0.5
        line = await logged(router)
        assert (line["outcome"], line["attempts"], line["tries"][0]["worker_id"]) == ("ok", 2, "dead")


@story
async def test_a_worker_that_dies_before_content_has_seen_the_request_once(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="bad") as bad,
        FaultWorker(name="good") as good,
        daemon(tmp_path, bad, good, script=IN_ORDER, health=LENIENT) as router,
    ):
        dying = ["die@start", "reset@start", "die@headers", "reset@headers", "die@0"]
        for number, (bad.behave, body) in enumerate(itertools.product(dying, (PROMPT, STREAMED)), 1):
            check_good(await router.post(CHAT, body), good)
            assert (len(bad.requests), len(good.requests)) == (number, number), bad.behave
            line = await logged(router, number)
            assert (line["outcome"], line["attempts"], line["worker"]) == ("ok", 2, "good")


@pytest.mark.parametrize("behaviour", ["reset@3", "die@3", "end@3", "eof_stream_no_done"])
@story
async def test_a_stream_that_breaks_after_content_ends_with_an_error_event_within_a_second(
    behaviour: str, tmp_path: Path
) -> None:
    async with (
        FaultWorker(behaviour, name="bad") as bad,
        FaultWorker(name="good") as good,
        daemon(tmp_path, bad, good, script=IN_ORDER) as router,
    ):
        began = now()
        check_cut(await router.post(CHAT, STREAMED), "one two three")
        assert now() - began < SOON_S
        assert (len(bad.requests), len(good.requests)) == (1, 0)
        line = await logged(router)
        assert (line["outcome"], line["attempts"]) == ("upstream_failed", 1)


@story
async def test_a_stream_that_ends_in_the_middle_of_an_event_still_ends_with_a_whole_error_event(tmp_path: Path) -> None:
    async with FaultWorker("cut_event") as worker, daemon(tmp_path, worker) as router:
        answer = await router.post(CHAT, STREAMED)
        *said, cut, last = answer.events()
        assert "".join(event.content for event in said) == "one two"
        assert cut.raw.startswith(b'data: {"id"')
        assert error_shape(last.json())[0] == "upstream_error"
        assert (answer.complete, b"[DONE]" in answer.body) == (False, False)
        assert (await logged(router))["outcome"] == "upstream_failed"


# Workers that hang.


@pytest.mark.parametrize("behaviour", ["hang", "hang@headers", "drip", "only_comments"])
@story
async def test_a_worker_that_says_nothing_is_a_504_at_the_limit_and_its_connection_is_closed(
    behaviour: str, tmp_path: Path
) -> None:
    limits = {"first_content_s": LIMIT_S, "attempts": 1}
    async with FaultWorker(behaviour) as worker, daemon(tmp_path, worker, limits=limits) as router:
        began = now()
        answer = await router.post(CHAT, STREAMED)
        assert LIMIT_S * 0.9 < now() - began < LIMIT_S * 1.1 + SWEEPS_S
        assert (answer.status, error_shape(answer.json())[1]) == (504, "upstream_first_content_timeout")
        await worker.wait_closed_by_peer(SOON_S)
        assert (await logged(router))["status"] == 504


@story
async def test_a_stream_that_falls_silent_ends_with_an_error_event_at_the_gap(tmp_path: Path) -> None:
    async with FaultWorker("hang@2") as worker, daemon(tmp_path, worker, limits={"gap_s": LIMIT_S}) as router:
        began = now()
        check_cut(await router.post(CHAT, STREAMED), "one two")
        ended = now()
        assert LIMIT_S * 0.9 < ended - began < LIMIT_S * 1.1 + SWEEPS_S
        assert await worker.wait_closed_by_peer(SOON_S) - ended < SOON_S
        assert (await logged(router))["error"] == "upstream_stalled"


# Workers that refuse.


@BOTH
@story
async def test_a_refusal_of_the_request_itself_is_passed_on_and_blames_nobody(
    body: dict[str, Any], tmp_path: Path
) -> None:
    async with (
        FaultWorker("status_400", name="first") as first,
        FaultWorker(name="second") as second,
        daemon(tmp_path, first, second, script=IN_ORDER) as router,
    ):
        for number in range(6):
            answer = await router.post(CHAT, body)
            assert (answer.status, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
            assert (await logged(router, number + 1))["attempts"] == 1
        assert (len(first.requests), len(second.requests)) == (6, 0)
        row = (await router.workers())["first"]
        assert (row["status"], row["failed"]) == ("ready", 0)


# Workers that send garbage.


@story
async def test_garbage_is_a_502_each_time_and_the_next_request_on_that_worker_goes_well(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker, limits={"attempts": 1}) as router:
        for kind in GARBAGE:
            worker.behave = [f"garbage:{kind}", "ok"]
            answer = await router.post(CHAT, PROMPT)
            assert (kind, answer.status, error_shape(answer.json())[1]) == (kind, 502, "upstream_protocol_error")
            check_good(await router.post(CHAT, PROMPT), worker)


@pytest.mark.parametrize("behaviour", ["switching_101", "flood_1xx", "bomb"])
@story
async def test_what_nobody_asked_for_is_a_502(behaviour: str, tmp_path: Path) -> None:
    async with FaultWorker([behaviour, "ok"]) as worker, daemon(tmp_path, worker) as router:
        answer = await router.post(CHAT, PROMPT)
        assert (answer.status, error_shape(answer.json())[1]) == (502, "upstream_protocol_error")
        check_good(await router.post(CHAT, PROMPT), worker)


@pytest.mark.parametrize("behaviour", ["extra_data", "late_data", "short_length"])
@story
async def test_bytes_behind_an_answer_are_nobody_s_answer(behaviour: str, tmp_path: Path) -> None:
    async with FaultWorker([behaviour, "ok"]) as worker, daemon(tmp_path, worker) as router:
        async with Connection(router.port) as client:
            first = router.books.note(await client.post(CHAT, PROMPT))
            await asyncio.sleep(worker.delay_s * 2)
            second = router.books.note(await client.post(CHAT, PROMPT))
        assert b"poisoned" not in first.body + second.body
        check_good(second, worker)


@story
async def test_a_redirect_is_a_502_and_no_connection_is_made_there(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="other") as other,
        FaultWorker("redirect", name="bad") as bad,
        daemon(tmp_path, bad) as router,
    ):
        bad.redirect_url = other.url
        answer = await router.post(CHAT, PROMPT)
        assert (answer.status, error_shape(answer.json())[1]) == (502, "upstream_protocol_error")
        assert "location" not in answer.headers
        assert other.connections_accepted == 0


@story
async def test_workers_that_close_idle_connections_at_that_very_moment_cost_no_error(tmp_path: Path) -> None:
    """500 rounds: each client waits as long as the worker does, give or take a hundredth of a second."""
    idle_close_s = 0.1

    async def customer(number: int, router: DaemonProcess) -> None:
        async with Connection(router.port) as client:
            for turn in range(10):
                assert router.books.note(await client.post(CHAT, PROMPT)).status == 200
                await asyncio.sleep(idle_close_s + ((number * 10 + turn) % 21 - 10) / 1000)

    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        worker.idle_close_s = idle_close_s
        await asyncio.gather(*(customer(number, router) for number in range(50)))
        assert {(line["outcome"], line["attempts"]) for line in await router.wait_requests(500)} == {("ok", 1)}
        assert (await router.workers())[worker.name]["failed"] == 0


# Workers that are odd, or loud.


@story
async def test_a_long_event_passes_unchanged_and_a_huge_one_costs_no_memory(tmp_path: Path) -> None:
    async with FaultWorker("long_event") as worker, daemon(tmp_path, worker) as router:
        assert text_of(await router.post(CHAT, STREAMED)) == "x" * LONG_EVENT_BYTES + ANSWER_TEXT
        worker.behave = "huge_event"
        before = router.rss_bytes()
        for _ in range(5):
            answer = await router.post(CHAT, STREAMED)
            assert text_of(answer) == "x" * HUGE_EVENT_BYTES + ANSWER_TEXT
        assert router.rss_bytes() - before < HUGE_EVENT_BYTES * 2


@story
async def test_what_is_odd_but_right_reaches_the_client_as_the_worker_said_it(tmp_path: Path) -> None:
    async with FaultWorker() as worker, daemon(tmp_path, worker) as router:
        worker.delay_s = 0.01
        for worker.behave in ("split_bytes", "line_ends", "early_100", "ok_close", "ok_http10", "slow_tokens"):
            async with Connection(worker.port) as client:
                direct = await client.post(CHAT, STREAMED)
            through = await router.post(CHAT, STREAMED)
            assert without_numbers(through.body) == without_numbers(direct.body)
            assert (text_of(through), through.complete) == (ANSWER_TEXT, True), worker.behave


def without_numbers(body: bytes) -> bytes:
    """Without what counts the answers of a worker."""
    return re.sub(rb"(answer-[\w-]+)-\d+", rb"\1", body)


@story
async def test_what_a_worker_says_of_itself_reaches_neither_the_client_nor_the_next_request(tmp_path: Path) -> None:
    async with FaultWorker("set_cookie") as worker, daemon(tmp_path, worker) as router:
        for body in (PROMPT, STREAMED, PROMPT):
            answer = await router.post(CHAT, body)
            assert not {"set-cookie", "server", "location", "access-control-allow-origin"} & set(answer.headers)
        assert [request.header("cookie") for request in worker.requests] == [None] * 3


@BOTH
@story
async def test_usage_that_makes_no_sense_harms_nobody(body: dict[str, Any], tmp_path: Path) -> None:
    async with FaultWorker("wrong_usage") as worker, daemon(tmp_path, worker) as router:
        check_good(await router.post(CHAT, body), worker)


# Workers that go, and come back.


@story
async def test_with_all_workers_down_the_answer_is_a_503_at_once_and_nobody_connects(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="a") as first,
        FaultWorker(name="b") as second,
        daemon(tmp_path, first, second, probes=NEVER_PROBED_AGAIN) as router,
    ):
        for worker in (first, second):
            await worker.refuse()
        while any(row["status"] != "offline" for row in (await router.workers()).values()):
            await router.post(CHAT, PROMPT)
        times = []
        for _ in range(50):
            began = now()
            answer = await router.post(CHAT, PROMPT)
            times.append(now() - began)
            assert (answer.status, error_shape(answer.json())[1]) == (503, "no_healthy_worker")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert sorted(times)[-3] < 0.05
        for worker in (first, second):
            await worker.accept_again()
        accepted = [worker.connections_accepted for worker in (first, second)]
        for _ in range(20):
            await router.post(CHAT, PROMPT)
        assert sum(worker.connections_accepted for worker in (first, second)) - sum(accepted) <= 4
        assert Counter(len(worker.requests) for worker in (first, second)) == {0: 2}


# A name that moves.


def can_have_own_hosts() -> bool:
    """Whether a process may be given an /etc/hosts of its own."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "--bind", "/dev/null", "/etc/hosts"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_have_own_hosts(), reason="needs root and mount namespaces for an /etc/hosts of its own")
@story
async def test_a_name_that_moves_is_followed_and_streams_under_way_are_finished(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.2 engine.test\n127.0.0.1 localhost\n")
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(FaultWorker("slow_tokens", name="old", host="127.0.0.2"))
        new = await stack.enter_async_context(FaultWorker(name="new", host="127.0.0.3", port=old.port))
        entry = {"id": "engine", "url": f"http://engine.test:{old.port}"}
        wrapped = ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$0" "$@"']
        probes = {"interval_s": 0.5}
        router = await stack.enter_async_context(daemon(tmp_path, entry, wrapped_in=wrapped, probes=probes))
        old.delay_s = 0.3
        running = asyncio.get_running_loop().create_task(router.post(CHAT, STREAMED))
        await old.wait_requests(1)
        hosts.write_text("127.0.0.3 engine.test\n127.0.0.1 localhost\n")
        began = now()
        while not new.requests:
            answer = await router.post(CHAT, PROMPT)
            assert answer.status == 200
            assert now() - began < 10.0, "the old address is still asked"
            await asyncio.sleep(0.1)
        assert text_of(await running) == ANSWER_TEXT
        assert (await get(router.port, "/health")).status == 200
