"""Tests of the retry law over real connections: who is tried after whom, what the client sees, what workers are told.

Run by pytest, with the router in the test's loop. tests/core/test_retry.py has the numbers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.core.types import BUSY, READY
from tests.support.aio import story
from tests.support.behaviours import CHUNKED, SSE_TYPE, chunk, error_object, events, head, sse, whole
from tests.support.daemon import until
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape
from tests.wire.router import router

FIRST = "function route_request(request, workers)\n  return workers[1]\nend\n"
BODIES = pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])


def refusing(status: int, *headers: tuple[str, str], body: Any = None) -> Any:
    """A behaviour: every request is answered with this error."""

    async def refuse(connection: Connection, request: Request) -> None:
        await connection.write(whole(status, body or error_object("no", "odd_error", "odd"), *headers))

    return refuse


def first_event(payload: Any, after: bytes = b"") -> Any:
    """A behaviour: a stream whose first event is this one."""

    async def answer(connection: Connection, request: Request) -> None:
        opening = events(connection, request)[0]
        await connection.write(head(200, SSE_TYPE, CHUNKED) + chunk(opening) + chunk(sse(payload)) + after + b"0\r\n\r\n")

    return answer


@BODIES
@pytest.mark.parametrize("status", [429, 503, 529, 500, 502, 504, 424])
@story
async def test_a_worker_that_has_no_room_or_fails_is_replaced(status: int, body: dict[str, Any], tmp_path: Path) -> None:
    async with (
        FaultWorker(refusing(status), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, body)
        assert (answer.status, answer.complete, answer.headers["x-rbee-worker"]) == (200, True, "good")
        assert (len(bad.requests), len(good.requests)) == (1, 1)
        line = await under_test.wait_request()
        code = "upstream_overloaded" if status in (429, 503, 529) else "upstream_error_status"
        assert [(one["worker_id"], one["result"]) for one in line["tries"]] == [("bad", code), ("good", "ok")]


@pytest.mark.parametrize("status", [400, 409, 500])
@pytest.mark.parametrize(
    ("header", "given", "shown"),
    [
        ("retry-after", "3600", "60"), ("retry-after", "Fri, 01 Jan 2100 00:00:00 GMT", "60"), ("retry-after", "7", "7"),
        ("retry-after-ms", "9000000", "60"), ("retry-after", "soon", "1"),
    ],
)  # fmt: skip
@story
async def test_no_error_of_a_worker_s_sends_a_client_away_for_more_than_a_minute(
    header: str, given: str, shown: str, status: int, tmp_path: Path
) -> None:
    async with FaultWorker(refusing(status, (header, given))) as worker, router(tmp_path, worker) as under_test:
        headers = (await under_test.post(CHAT, PROMPT)).headers
        assert (headers["retry-after"], headers["retry-after-ms"]) == (shown, f"{shown}000")
        assert headers["x-should-retry"] == "false"


@pytest.mark.parametrize("status", [400, 403, 404, 408, 409, 413, 422, 501])
@story
async def test_what_another_worker_would_say_too_is_passed_on_at_once(status: int, tmp_path: Path) -> None:
    async with (
        FaultWorker(refusing(status), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.json(), good.requests) == (status, error_object("no", "odd_error", "odd"), [])


@pytest.mark.parametrize(("status", "message"), [(401, "bad key"), (404, "model 'tiny' not found, try pulling it first")])
@story
async def test_a_worker_that_refuses_our_key_or_lost_the_model_is_replaced_without_blame(
    status: int, message: str, tmp_path: Path
) -> None:
    async with (
        FaultWorker(refusing(status, body=error_object(message, "odd_error", "odd")), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.headers["x-rbee-worker"], under_test.worker(bad).failed) == (200, "good", 0)
        good.behave = refusing(status, body=error_object(message, "odd_error", "odd"))
        assert (await under_test.post(CHAT, {**PROMPT, "n": 1})).status == status, "the worker's own error is passed on"


@pytest.mark.parametrize(
    ("headers", "rests_s"),
    [
        ([("retry-after", "7")], 7.0), ([("retry-after-ms", "1500"), ("retry-after", "9")], 1.5), ([], 1.0),
        ([("retry-after", "soon")], 1.0), ([("retry-after", "3600")], 60.0),
    ],
)  # fmt: skip
@story
async def test_a_worker_is_left_alone_for_as_long_as_it_asks(
    headers: list[tuple[str, str]], rests_s: float, tmp_path: Path
) -> None:
    async with (
        FaultWorker(refusing(429, *headers), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good) as under_test,
    ):
        under_test.worker(good).capacity = 1000              # so that its load is the smaller one ever after
        answers = [await under_test.post(CHAT, PROMPT) for _ in range(12)]
        assert {answer.headers["x-rbee-worker"] for answer in answers} == {"good"}
        assert len(bad.requests) == 1
        one = under_test.worker(bad)
        left = one.cooling_until - under_test.daemon.env.now()
        assert (one.status, one.failed) == (BUSY, 0) and rests_s - 1 < left <= rests_s


@story
async def test_when_the_only_worker_has_no_room_the_request_waits_for_it(tmp_path: Path) -> None:
    async with (
        FaultWorker([refusing(503, ("retry-after-ms", "100")), "ok"], name="busy") as busy,
        router(tmp_path, busy) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, len(busy.requests)) == (200, 2)
        assert int(answer.headers["x-rbee-queue-ms"]) >= 90
        line = await under_test.wait_request()
        assert line["queue_ms"] >= 90 and line["attempts"] == 2


@story
async def test_a_request_does_not_wait_for_a_worker_that_comes_back_too_late(tmp_path: Path) -> None:
    async with (
        FaultWorker(refusing(429, ("retry-after", "40")), name="busy") as busy,
        router(tmp_path, busy) as under_test,
    ):
        answer = await asyncio.wait_for(under_test.post(CHAT, PROMPT), 2.0)
        assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (429, "40", "true")
        again = await asyncio.wait_for(under_test.post(CHAT, PROMPT), 2.0)
        assert (again.status, error_shape(again.json())[1], len(busy.requests)) == (503, "queue_timeout", 1)
        assert int(again.headers["retry-after"]) >= 1


@BODIES
@pytest.mark.parametrize("shown", [b"<html>oops</html>", b"", b"[]"])
@story
async def test_an_error_that_no_client_can_read_becomes_ours(shown: bytes, body: dict[str, Any], tmp_path: Path) -> None:
    async def page(connection: Connection, request: Request) -> None:
        await connection.write(head(500, ("content-type", "text/html"), ("content-length", str(len(shown)))) + shown)

    async with FaultWorker(page) as one, FaultWorker(page) as two, router(tmp_path, one, two) as under_test:
        answer = await under_test.post(CHAT, body)
        assert (answer.status, error_shape(answer.json())) == (502, ("upstream_error", "upstream_error_status", None))
        assert answer.headers["x-should-retry"] == "false"


@story
async def test_a_stream_whose_first_word_is_an_error_is_tried_elsewhere(tmp_path: Path) -> None:
    failed = {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}
    async with (
        FaultWorker(first_event(failed, chunk(b"data: [DONE]\n\n")), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.headers["x-rbee-worker"], b"memory" in answer.body) == ("good", False)
        assert under_test.worker(bad).failed == 1
        line = await under_test.wait_request()
        assert [one["result"] for one in line["tries"]] == ["upstream_error_event", "ok"]


@story
async def test_when_every_stream_begins_with_an_error_the_client_gets_it_with_a_status(tmp_path: Path) -> None:
    failed = {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}
    async with (
        FaultWorker(first_event(failed)) as one, FaultWorker(first_event(failed)) as two,
        router(tmp_path, one, two) as under_test,
    ):  # fmt: skip
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.json()["error"]["message"]) == (502, "out of memory")


@story
async def test_an_error_in_a_stream_that_blames_the_request_is_for_the_client(tmp_path: Path) -> None:
    wrong = {"error": {"message": "too long", "type": "BadRequestError", "code": 400}}
    async with (
        FaultWorker(first_event(wrong, chunk(b"data: [DONE]\n\n")), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, b"too long" in answer.body, good.requests) == (200, True, [])


@pytest.mark.parametrize("slowly", [False, True])
@story
async def test_a_stream_that_ends_well_without_saying_so_is_no_success(slowly: bool, tmp_path: Path) -> None:
    async def stops(connection: Connection, request: Request) -> None:
        await connection.write(head(200, SSE_TYPE, CHUNKED) + b"".join(map(chunk, events(connection, request)[:3])))
        if slowly:
            await asyncio.sleep(0.1)
        await connection.write(b"0\r\n\r\n")

    async with FaultWorker(stops) as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(CHAT, STREAMED)
        if slowly:
            assert (answer.status, answer.complete, b"[DONE]" in answer.body) == (200, False, False)
        else:
            assert (answer.status, error_shape(answer.json())[1]) == (502, "upstream_disconnected")
        line = await under_test.wait_request()
        assert (line["outcome"], line["error"]) == ("upstream_failed", "upstream_disconnected")


@pytest.mark.parametrize("slowly", [False, True])
@story
async def test_a_worker_that_dies_after_the_last_word_of_its_stream_has_served_it(slowly: bool, tmp_path: Path) -> None:
    async def dies(connection: Connection, request: Request) -> None:
        await connection.write(head(200, SSE_TYPE, CHUNKED))
        for event in events(connection, request):
            await connection.write(chunk(event))
            if slowly:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        connection.drop()

    async with FaultWorker(dies) as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.complete, answer.events()[-1].data, b"error" in answer.body) == (True, "[DONE]", False)
        assert (await under_test.wait_request())["outcome"] == "ok"


@story
async def test_a_request_that_killed_two_workers_is_not_given_to_a_third_nor_when_it_comes_again(tmp_path: Path) -> None:
    async with (
        FaultWorker("reset_before_head", name="w1") as one,
        FaultWorker("close_before_head", name="w2") as two,
        FaultWorker(name="w3") as three,
        router(tmp_path, one, two, three, script="function route_request() return {'w1', 'w2', 'w3'} end") as under_test,
    ):
        for _ in range(2):
            answer = await under_test.post(CHAT, PROMPT)
            assert (answer.status, error_shape(answer.json())[1]) == (502, "poison_request")
            assert answer.headers["x-should-retry"] == "false"
        assert (len(one.requests), len(two.requests), len(three.requests)) == (1, 1, 0)
        other = await under_test.post(CHAT, {**PROMPT, "max_tokens": 7})
        assert error_shape(other.json())[1] == "poison_request", "another body is tried afresh"
        assert (len(one.requests), len(two.requests)) == (2, 2)
        lines = await under_test.wait_requests(3)
        assert [(line["outcome"], line["error"]) for line in lines] == [
            ("upstream_failed", "poison_request"), ("rejected", "poison_request"), ("upstream_failed", "poison_request"),
        ]  # fmt: skip


@story
async def test_a_body_that_killed_a_worker_is_trusted_again_once_another_has_served_it(tmp_path: Path) -> None:
    async with (
        FaultWorker(["close_before_head", "ok"], name="w1") as one,
        FaultWorker(name="w2") as two,
        router(tmp_path, one, two, script=FIRST) as under_test,
    ):
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert not under_test.daemon.listener.dispatcher.poison.seen


@story
async def test_a_silent_worker_is_replaced_and_hears_that_nobody_listens_any_more(tmp_path: Path) -> None:
    async with (
        FaultWorker("hang", name="w1") as silent,
        FaultWorker(name="w2") as good,
        router(tmp_path, silent, good, script=FIRST, limits={"first_content_s": 0.3}) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "w2")
        await silent.wait_closed_by_peer(1.0)


@story
async def test_a_client_s_own_time_limit_ends_a_request(tmp_path: Path) -> None:
    async with FaultWorker("hang") as silent, router(tmp_path, silent) as under_test:
        answer = await under_test.post(CHAT, PROMPT, [("x-rbee-timeout-ms", "300")])
        assert (answer.status, error_shape(answer.json())[1]) == (504, "upstream_deadline")
        await silent.wait_closed_by_peer(1.0)
        hinted = await under_test.post(CHAT, PROMPT, [("x-stainless-read-timeout", "0.3")])
        assert error_shape(hinted.json())[1] == "upstream_deadline"


@pytest.mark.parametrize("given", ["soon", "0", "-5", "1e3", ""])
@story
async def test_a_time_limit_that_is_none_is_refused_with_its_name(given: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(CHAT, PROMPT, [("x-rbee-timeout-ms", given)])
        assert (answer.status, error_shape(answer.json())[1]) == (400, "invalid_header")
        assert "x-rbee-timeout-ms" in answer.json()["error"]["message"]
        assert (worker.requests, (await under_test.wait_request())["outcome"]) == ([], "rejected")


@story
async def test_retries_of_many_requests_together_are_bounded(tmp_path: Path) -> None:
    async with (
        FaultWorker("status_500", name="w1") as one,
        FaultWorker("status_500", name="w2") as two,
        router(tmp_path, one, two, limits={"retry_floor": 2, "retry_share": 0.25}, health={"failures": 1000}) as under_test,
    ):
        for _ in range(40):
            await under_test.post(CHAT, PROMPT)
        sent = len(one.requests) + len(two.requests)
        assert sent == 50, "a quarter of forty"
        retries = under_test.daemon.listener.dispatcher.retries
        assert (retries.made["broken"], retries.exhausted) == (10, 30)


@story
async def test_a_pause_before_the_next_worker_ends_when_the_client_leaves(tmp_path: Path) -> None:
    async with (
        FaultWorker("close_before_head", name="w1") as one,
        FaultWorker(name="w2") as two,
        router(tmp_path, one, two, script=FIRST) as under_test,
    ):
        rules = under_test.daemon.listener.dispatcher.retries.rules
        under_test.daemon.listener.dispatcher.retries.rules = type(rules)(backoff_s=1000.0, backoff_cap_s=1000.0)
        client = under_test.connect()
        async with client:
            client.send_request("POST", CHAT, PROMPT)
            await until(lambda: under_test.worker(two).in_flight == 1, "the pause")
        line = await under_test.wait_request()
        assert (line["outcome"], two.requests, under_test.worker(two).in_flight) == ("client_gone", [], 0)
        assert under_test.worker(one).status == READY
