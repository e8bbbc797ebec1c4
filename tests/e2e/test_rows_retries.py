"""Which failures another worker makes good, and who is left alone for how long: rows 11 to 13, 24 and 25 of
tests/e2e/test_rows.py, through the daemon as it runs.

Run by pytest. After each test the books of the daemon must balance, with nothing in flight: tests/support/daemon.py.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.test_rows_workers import IN_ORDER, LENIENT, NEVER_PROBED_AGAIN, SOON_S, check_good, logged, now
from tests.support.aio import story
from tests.support.daemon import daemon
from tests.support.fault_worker import FaultWorker
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape

# Workers that refuse.


@story
async def test_a_worker_that_fails_or_is_busy_is_replaced(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="bad") as bad,
        FaultWorker(name="good") as good,
        daemon(tmp_path, bad, good, script=IN_ORDER, health=LENIENT) as router,
    ):
        # Ten requests may be tried again in ten seconds, however few there are.
        failing = ["500", "502", "503@30", "504", "529", "424", "429", "status_500_html", "error_event"]
        for number, bad.behave in enumerate(failing, 1):
            check_good(await router.post(CHAT, STREAMED if number % 2 else PROMPT), good)
            assert len(bad.requests) == number, bad.behave
            assert (await logged(router, number))["attempts"] == 2


@story
async def test_when_every_worker_fails_one_more_is_tried_and_its_error_object_is_passed_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(FaultWorker("500", name=f"w{number}")) for number in range(5)]
        router = await stack.enter_async_context(daemon(tmp_path, *workers, script=IN_ORDER))
        answer = await router.post(CHAT, PROMPT)
        assert (answer.status, answer.headers["x-should-retry"]) == (500, "false")
        assert answer.json()["error"]["code"] == "refused_500"
        assert [len(worker.requests) for worker in workers] == [1, 1, 0, 0, 0]
        line = await logged(router)
        assert (line["attempts"], line["outcome"], line["worker"]) == (2, "worker_error", "w1")


@story
async def test_when_every_worker_fails_in_words_for_people_the_client_gets_an_error_object(tmp_path: Path) -> None:
    async with (
        FaultWorker("status_500_html", name="a") as first,
        FaultWorker("status_500_html", name="b") as second,
        daemon(tmp_path, first, second, script=IN_ORDER) as router,
    ):
        answer = await router.post(CHAT, PROMPT)
        assert (answer.status, error_shape(answer.json())[0]) == (502, "upstream_error")
        assert b"<html>" not in answer.body


@story
async def test_a_busy_worker_is_left_alone_for_as_long_as_it_asked(tmp_path: Path) -> None:
    async with (
        FaultWorker(["429@2", "ok"], name="busy") as busy,
        FaultWorker(name="good") as good,
        daemon(tmp_path, busy, good, probes={"interval_s": 0.2}) as router,
    ):
        began = now()
        while not busy.requests:
            check_good(await router.post(CHAT, PROMPT), good)
            assert now() - began < SOON_S * 5
        refused = now()
        while len(busy.requests) == 1:
            answer = await router.post(CHAT, PROMPT)
            assert answer.status == 200
            await asyncio.sleep(0.02)
            assert now() - refused < 4.0, "it is never asked again"
        assert now() - refused > 1.9


@pytest.mark.parametrize(
    ("behaviours", "status", "retry_after"),
    [(("429@9", "429@4", "429@6"), 429, "4"), (("429@9", "503@4", "429@600"), 503, "4"), (("503@600",) * 3, 503, "60")],
)
@story
async def test_when_all_are_busy_the_client_is_told_the_shortest_time(
    behaviours: tuple[str, ...], status: int, retry_after: str, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(FaultWorker(behaviour, name=f"w{number}"))
            for number, behaviour in enumerate(behaviours)
        ]
        router = await stack.enter_async_context(daemon(tmp_path, *workers, script=IN_ORDER))
        answer = await router.post(CHAT, PROMPT)
        assert (answer.status, answer.headers["retry-after"]) == (status, retry_after)
        assert [len(worker.requests) for worker in workers] == [1, 1, 1]


# Lies.


@pytest.mark.parametrize("behaviour", ["error@0", "error_event"])
@story
async def test_an_error_under_status_200_is_no_success(behaviour: str, tmp_path: Path) -> None:
    async with FaultWorker(behaviour) as worker, daemon(tmp_path, worker, limits={"attempts": 1}) as router:
        answer = await router.post(CHAT, STREAMED)
        assert b"engine_failed" in answer.body or answer.status == 502
        assert (await logged(router))["outcome"] != "ok"


# Workers that go, and come back.


@story
async def test_a_worker_that_comes_back_is_probed_first_and_then_gets_more_and_more(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="back") as back,
        FaultWorker(name="steady") as steady,
        daemon(tmp_path, back, steady, probes={"interval_s": 0.3}, health={"slow_start_s": 3.0}) as router,
    ):
        await back.refuse()
        while (await router.workers())["back"]["status"] != "offline":
            await router.post(CHAT, PROMPT)
            await asyncio.sleep(0.05)
        before, asked = len(back.requests), len(steady.requests)
        probes = len(back.probes)
        await back.accept_again()
        while (await router.workers())["back"]["status"] == "offline":
            await asyncio.sleep(0.02)
        assert len(back.probes) > probes, "it was used before it was probed"
        shares = []
        for _ in range(5):
            began, before, asked = now(), len(back.requests), len(steady.requests)
            while now() - began < 0.8:
                await asyncio.gather(*(router.post(CHAT, PROMPT) for _ in range(4)))
                await asyncio.sleep(0.01)
            mine, others = len(back.requests) - before, len(steady.requests) - asked
            shares.append(mine / (mine + others))
        assert shares[0] < 0.25, shares
        assert shares[-1] > 0.4, shares


@story
async def test_of_eight_workers_of_which_five_fail_at_most_four_are_taken_out(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        bad = [await stack.enter_async_context(FaultWorker("die@start", name=f"bad{n}")) for n in range(5)]
        good = [await stack.enter_async_context(FaultWorker(name=f"good{n}")) for n in range(3)]
        router = await stack.enter_async_context(daemon(tmp_path, *bad, *good, probes=NEVER_PROBED_AGAIN))
        most = 0
        for turn in range(60):
            # Each one different: a request that breaks worker after worker is refused before long.
            bodies = [{**PROMPT, "user": f"{turn}-{number}"} for number in range(4)]
            await asyncio.gather(*(router.post(CHAT, body) for body in bodies))
            out = [name for name, row in (await router.workers()).items() if row["status"] == "offline"]
            assert all(name.startswith("bad") for name in out)
            most = max(most, len(out))
        assert most == 4
