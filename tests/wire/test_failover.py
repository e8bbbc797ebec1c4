"""Tests of what a client sees when a worker fails: another worker's answer, or an error that no one takes for success.

Run by pytest, with the router in the test's loop. The script always asks the first worker first.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.behaviours import (
    ANSWER_TEXT,
    CHUNKED,
    JSON_TYPE,
    SSE_TYPE,
    chunk,
    error_object,
    head,
)
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.support.raw_client import Answer, exchange, request_bytes
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape, raw_answer
from tests.wire.router import Router, router

FIRST = "function route_request(request, workers)\n  return workers[1]\nend\n"
SHORT_S = 0.15
SOON_S = 1.0


def tries(line: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["worker_id"], row["result"]) for row in line["tries"]]


def failed(under_test: Router, *workers: FaultWorker) -> list[int]:
    return [under_test.worker(worker).failed for worker in workers]


def text_of(answer: Answer) -> str:
    if answer.headers["content-type"] == "text/event-stream":
        return "".join(event.content for event in answer.events())
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@contextmanager
def full_backlog() -> Iterator[int]:
    """A port that answers nothing: its backlog is full, so a connect waits for the kernel's next try in a second."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


# Before the answer has content, another worker takes over.


@pytest.mark.parametrize(
    ("behaviour", "body"),
    [
        pytest.param(name, body, id=f"{name}-{'stream' if body is STREAMED else 'json'}")
        for name, body in [
            ("close_before_head", PROMPT),
            ("close_before_head", STREAMED),
            ("reset_before_head", PROMPT),
            ("reset_before_head", STREAMED),
            ("close_after_head", STREAMED),
            ("close_mid_body", PROMPT),
        ]
    ],
)
@story
async def test_a_worker_that_dies_before_content_is_replaced(
    behaviour: str, body: dict[str, Any], tmp_path: Path
) -> None:
    async with (
        FaultWorker(behaviour, name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, body)
        assert (answer.status, answer.complete, text_of(answer)) == (200, True, ANSWER_TEXT)
        assert answer.headers["x-rbee-worker"] == "good"
        assert answer.headers["x-rbee-reason"] == "routing.lua:2; then least-request after bad failed"
        assert [request.body for request in bad.requests] == [request.body for request in good.requests]
        assert len(bad.requests) == 1
        line = await under_test.wait_request()
        assert tries(line) == [("bad", "upstream_disconnected"), ("good", "ok")]
        assert {name: line[name] for name in ("worker", "outcome", "status", "by", "attempts")} == {
            "worker": "good", "outcome": "ok", "status": 200, "by": "failover", "attempts": 2,
        }  # fmt: skip
        assert failed(under_test, bad, good) == [1, 0]


@story
async def test_a_worker_that_refuses_connections_is_replaced_and_taken_for_offline(tmp_path: Path) -> None:
    async with (
        FaultWorker(name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        await bad.refuse()
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "good")
        assert tries(await under_test.wait_request()) == [("bad", "upstream_connect_failed"), ("good", "ok")]
        for _ in range(2):
            assert (await under_test.post(CHAT, PROMPT)).headers["x-rbee-worker"] == "good"
        assert under_test.worker("bad").status == "offline"
        answer = await under_test.post(CHAT, PROMPT)
        line = (await under_test.wait_requests(4))[3]
        assert (answer.status, line["by"], line["attempts"]) == (200, "fallback", 1)
        assert line["script_error"] == "routing.lua:2: the script chose bad, which is offline"


@story
async def test_a_worker_that_does_not_take_the_connection_in_time_is_replaced(tmp_path: Path) -> None:
    async with FaultWorker(name="good") as good:
        with full_backlog() as port:
            black_hole = {"id": "bad", "url": f"http://127.0.0.1:{port}", "models": ["tiny"]}
            limits = {"connect_s": SHORT_S}
            async with router(tmp_path, black_hole, good, script=FIRST, limits=limits) as under_test:
                answer = await under_test.post(CHAT, PROMPT)
                assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "good")
                assert tries(await under_test.wait_request()) == [("bad", "upstream_connect_failed"), ("good", "ok")]


@story
async def test_each_worker_gets_its_own_key_and_never_another_s(tmp_path: Path) -> None:
    async with FaultWorker("close_before_head", name="bad") as bad, FaultWorker(name="good") as good:
        entries = [
            {"id": "bad", "url": bad.url, "api_key": "key-of-bad"}, {"id": "good", "url": good.url, "api_key": "key-of-good"},
        ]  # fmt: skip
        async with router(tmp_path, *entries, script=FIRST) as under_test:
            answer = await under_test.post(CHAT, PROMPT, [("authorization", "Bearer of-the-client")])
            assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "good")
            assert [worker.requests[0].header("authorization") for worker in (bad, good)] == [
                b"Bearer key-of-bad", b"Bearer key-of-good",
            ]  # fmt: skip


@story
async def test_at_most_three_different_workers_are_tried(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(FaultWorker("status_429", name=f"w{at}")) for at in range(5)]
        async with router(tmp_path, *workers) as under_test:
            answer = await under_test.post(CHAT, PROMPT)
            line = await under_test.wait_request()
            assert (answer.status, answer.headers["retry-after"], answer.headers["x-should-retry"]) == (429, "7", "true")
            assert [result for _, result in tries(line)] == ["upstream_overloaded"] * 3
            assert len({worker for worker, _ in tries(line)}) == 3
            assert sorted(len(worker.requests) for worker in workers) == [0, 0, 1, 1, 1]
            assert (line["outcome"], line["status"]) == ("worker_error", 429)


@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@pytest.mark.parametrize(("refuses", "code"), [(True, "upstream_connect_failed"), (False, "poison_request")])
@story
async def test_when_every_worker_fails_the_client_gets_one_error_and_may_go_on(
    refuses: bool, code: str, body: dict[str, Any], tmp_path: Path
) -> None:
    async with (
        FaultWorker("close_before_head") as one,
        FaultWorker("close_before_head") as two,
        router(tmp_path, one, two) as under_test,
    ):
        if refuses:
            await one.refuse()
            await two.refuse()
        async with under_test.connect() as client:
            answer = under_test.books.note(await client.post(CHAT, body))
            assert (answer.status, error_shape(answer.json())) == (502, ("upstream_error", code, None))
            assert answer.headers["x-should-retry"] == "false"
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-request-id"] == (await under_test.wait_request())["request_id"]
            assert "connection" not in answer.headers
            assert (await client.get("/v1/models")).status == 200


# Once content has come, nothing is tried again and nothing looks like success.


@pytest.mark.parametrize("behaviour", ["close_mid_stream", "reset_mid_stream", "eof_stream_no_done"])
@story
async def test_a_stream_cut_after_content_ends_with_an_error_event_and_no_end_mark(
    behaviour: str, tmp_path: Path
) -> None:
    async with (
        FaultWorker(behaviour, name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.complete) == (200, False)
        *sent, last = answer.events()
        assert "".join(event.content for event in sent) == "one two three"
        assert len(sent) == 4
        assert error_shape(last.json()) == ("upstream_error", "upstream_disconnected", None)
        assert b"[DONE]" not in answer.body
        assert good.requests == []
        line = await under_test.wait_request()
        assert (line["outcome"], line["error"], line["worker"]) == ("upstream_failed", "upstream_disconnected", "bad")
        assert failed(under_test, bad) == [1]


@story
async def test_a_cut_stream_reaches_an_old_client_as_an_error_event_too(tmp_path: Path) -> None:
    asked = request_bytes("POST", CHAT, STREAMED, [], host="x").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with FaultWorker("close_mid_stream") as worker, router(tmp_path, worker) as under_test:
        came = await exchange(under_test.port, asked)
        head_bytes, _, body = came.partition(b"\r\n\r\n")
        assert head_bytes.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"transfer-encoding" not in head_bytes.lower()
        assert b"\r\nconnection: close" in head_bytes.lower()
        assert body.count(b"data: ") == 5
        assert b'"code":"upstream_disconnected"' in body.split(b"\n\n")[4]
        assert b"[DONE]" not in body


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@story
async def test_a_large_answer_cut_after_it_began_is_cut_for_the_client_too(framing: str, tmp_path: Path) -> None:
    part = b"x" * 100_000
    start = {
        "content-length": [head(200, JSON_TYPE, ("content-length", "200000")), part],
        "chunked": [head(200, JSON_TYPE, CHUNKED), chunk(part)],
    }[framing]
    async with (
        FaultWorker(raw_answer(*start, close=True), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.complete) == (200, False)
        assert part.startswith(answer.body)
        assert good.requests == []
        line = await under_test.wait_request()
        assert (line["outcome"], line["status"], line["error"]) == ("upstream_failed", 502, "upstream_disconnected")


# Silence and slowness.


@pytest.mark.parametrize(
    ("behaviour", "body", "limits", "code"),
    [
        ("hang", PROMPT, {"request_s": SHORT_S}, "upstream_deadline"),
        ("hang_after_head", PROMPT, {"request_s": SHORT_S}, "upstream_deadline"),
        ("hang", STREAMED, {"first_content_s": SHORT_S}, "upstream_first_content_timeout"),
        ("hang_after_head", STREAMED, {"first_content_s": SHORT_S}, "upstream_first_content_timeout"),
        ("hang", STREAMED, {"stream_s": SHORT_S}, "upstream_deadline"),
    ],
)
@story
async def test_a_worker_that_says_nothing_is_left_at_the_limit(
    behaviour: str, body: dict[str, Any], limits: dict[str, float], code: str, tmp_path: Path
) -> None:
    async with FaultWorker(behaviour) as worker, router(tmp_path, worker, limits=limits) as under_test:
        began = asyncio.get_running_loop().time()
        answer = await under_test.post(CHAT, body)
        took_s = asyncio.get_running_loop().time() - began
        assert (answer.status, error_shape(answer.json())) == (504, ("upstream_error", code, None))
        assert SHORT_S <= took_s < SOON_S
        await worker.wait_closed_by_peer(SOON_S)
        line = await under_test.wait_request()
        assert (line["outcome"], line["error"], line["status"]) == ("upstream_failed", code, 504)


@pytest.mark.parametrize(
    ("behaviour", "limits", "code"),
    [
        ("hang_after_2", {"gap_s": SHORT_S}, "upstream_stalled"),
        ("endless_stream", {"stream_s": SHORT_S}, "upstream_deadline"),
    ],
)
@story
async def test_a_stream_that_stalls_or_lasts_too_long_ends_with_an_error_event(
    behaviour: str, limits: dict[str, float], code: str, tmp_path: Path
) -> None:
    async with (
        FaultWorker(behaviour, name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST, limits=limits) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.complete) == (200, False)
        *sent, last = answer.events()
        assert {event.content for event in sent[1:]} <= {"one", " two"}
        assert error_shape(last.json()) == ("upstream_error", code, None)
        await bad.wait_until(lambda: not bad.open_connections, SOON_S, "its connection to be closed")
        assert good.requests == []
        assert (await under_test.wait_request())["error"] == code


@story
async def test_a_stream_that_pauses_less_than_the_gap_is_not_stalled(tmp_path: Path) -> None:
    limits = {"gap_s": 0.3, "first_content_s": 0.3}
    async with FaultWorker("slow_tokens") as worker, router(tmp_path, worker, limits=limits) as under_test:
        worker.delay_s = 0.1
        answer = await under_test.post(CHAT, STREAMED)            # in all it takes 0.8 s
        assert (text_of(answer), answer.complete) == (ANSWER_TEXT, True)


@story
async def test_comments_alone_do_not_put_off_the_first_content_limit(tmp_path: Path) -> None:
    async def only_comments(connection: Connection, request: Request) -> None:
        await connection.write(head(200, SSE_TYPE, CHUNKED))
        while True:
            await connection.write(chunk(b": keep-alive\n\n"))
            await asyncio.sleep(0.02)

    async with FaultWorker(only_comments) as worker:
        async with router(tmp_path, worker, limits={"first_content_s": SHORT_S}) as under_test:
            answer = await under_test.post(CHAT, STREAMED)
            assert (answer.status, error_shape(answer.json())[1]) == (504, "upstream_first_content_timeout")


@story
async def test_a_head_that_drips_is_ended_by_the_same_limit(tmp_path: Path) -> None:
    async def drip(connection: Connection, request: Request) -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\nx-drip: ")
        while True:
            await connection.write(b"a")
            await asyncio.sleep(0.02)

    async with FaultWorker(drip) as worker:
        async with router(tmp_path, worker, limits={"first_content_s": SHORT_S}) as under_test:
            answer = await under_test.post(CHAT, STREAMED)
            assert (answer.status, error_shape(answer.json())[1]) == (504, "upstream_first_content_timeout")
            await worker.wait_closed_by_peer(SOON_S)


# A worker's own refusals.


@pytest.mark.parametrize(
    ("behaviour", "kind", "code", "blamed"),
    [
        ("status_400", "invalid_request_error", "context_length_exceeded", 0),
        ("status_429", "rate_limit_error", "rate_limited", 0),
        ("status_500", "server_error", "engine_failed", 1),
    ],
)
@pytest.mark.parametrize("body", [PROMPT, STREAMED], ids=["json", "stream"])
@story
async def test_a_worker_s_own_error_passes_unchanged(
    behaviour: str, kind: str, code: str, blamed: int, body: dict[str, Any], tmp_path: Path
) -> None:
    status = int(behaviour.removeprefix("status_"))
    async with (
        FaultWorker(behaviour, name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script="function route_request() return {'bad'} end") as under_test,
    ):
        answer = await under_test.post(CHAT, body)
        message = answer.json()["error"]["message"]
        assert message
        assert (answer.status, answer.json()) == (status, error_object(message, kind, code))
        assert answer.headers["x-rbee-worker"] == "bad"
        assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
        assert answer.headers["x-should-retry"] == ("true" if status == 429 else "false")
        assert good.requests == []
        line = await under_test.wait_request()
        assert (line["outcome"], line["status"], line["attempts"]) == ("worker_error", status, 1)
        assert failed(under_test, bad) == [blamed]


@story
async def test_five_failures_in_a_row_take_a_worker_out_while_there_is_another(tmp_path: Path) -> None:
    async with (
        FaultWorker("status_500", name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        for _ in range(5):
            assert (await under_test.post(CHAT, PROMPT)).headers["x-rbee-worker"] == "good"
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "good")
        assert (len(bad.requests), under_test.worker(bad).status) == (5, "offline")
        line = (await under_test.wait_requests(6))[5]
        assert line["script_error"] == "routing.lua:2: the script chose bad, which is offline"


@story
async def test_a_worker_that_keeps_failing_is_still_asked_when_there_is_no_other(tmp_path: Path) -> None:
    async with FaultWorker(["status_500"] * 7 + ["ok"]) as worker, router(tmp_path, worker) as under_test:
        statuses = [(await under_test.post(CHAT, PROMPT)).status for _ in range(8)]
        assert statuses == [500] * 7 + [200]


# The other worker is asked for what the first one was asked for.


@story
async def test_a_rewritten_model_stays_rewritten_on_the_next_worker(tmp_path: Path) -> None:
    async with (
        FaultWorker("close_before_head", models=["large"], name="bad") as bad,
        FaultWorker(models=["tiny"], name="other") as other,
        FaultWorker(models=["large"], name="good") as good,
        router(tmp_path, bad, other, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "good")
        assert [request.model for request in good.requests] == ["large"]
        assert other.requests == []


OPENINGS = [
    pytest.param(
        json.dumps({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}),
        id="with-spaces",
    ),
    pytest.param('{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}', id="compact"),
    pytest.param('{"choices":[{"index":0,"delta":{"role":"assistant","content":null}}],"usage":null}', id="null"),
    pytest.param('{"choices":[{"index":0,"delta":{"role":"assistant"},"logprobs":null}]}', id="role-alone"),
    pytest.param('{"choices":[{"index":0,"delta":{}}]}', id="nothing"),
]


@pytest.mark.parametrize("opening", OPENINGS)
@story
async def test_a_client_sees_no_opening_of_a_worker_that_died_before_content(opening: str, tmp_path: Path) -> None:
    async def die_after_opening(connection: Connection, request: Request) -> None:
        await connection.write(head(200, SSE_TYPE, CHUNKED) + chunk(b": hello\n\ndata: " + opening.encode() + b"\n\n"))
        for _ in range(5):
            await asyncio.sleep(0)                            # the router reads it, and the end by itself
        connection.close()

    async with (
        FaultWorker(die_after_opening, name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.complete, text_of(answer)) == (True, ANSWER_TEXT)
        assert {event.json()["system_fingerprint"] for event in answer.events()[:-1]} == {"good"}
        assert tries(await under_test.wait_request()) == [("bad", "upstream_disconnected"), ("good", "ok")]
