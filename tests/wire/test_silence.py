"""Streams that stay silent for long, and streams that another worker goes on with, over real connections.

Run by pytest, with the router in the test's loop.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.behaviours import CHUNKED, SSE_TYPE, chunk, envelope, error_object, events, head, sse, whole
from tests.support.daemon import until
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.wire.answers import CHAT, PROMPT, STREAMED, error_shape
from tests.wire.router import router

IN_ORDER = "function route_request(request, workers) return workers end"
FIRST = "function route_request(request, workers)\n  return workers[1]\nend\n"
SOON = {"comment_s": 0.2}


def late(answer: Any, wait_s: float = 0.7) -> Any:
    """A behaviour: nothing at all for a while, then this."""

    async def behave(connection: Connection, request: Request) -> None:
        await asyncio.sleep(wait_s)
        await answer(connection, request)

    return behave


async def stream(connection: Connection, request: Request) -> None:
    await connection.write(head(200, SSE_TYPE, CHUNKED) + b"".join(map(chunk, events(connection, request))) + b"0\r\n\r\n")


async def fails(connection: Connection, request: Request) -> None:
    await connection.write(whole(500, error_object("broke", "server_error", "broken")))


async def refuses(connection: Connection, request: Request) -> None:
    await connection.write(whole(400, error_object("too long", "invalid_request_error", "context_length_exceeded")))


async def answers_whole(connection: Connection, request: Request) -> None:
    await connection.write(whole(200, {"choices": []}))


@story
async def test_a_silent_stream_gets_comments_and_then_its_content(tmp_path: Path) -> None:
    async with FaultWorker(late(stream)) as worker, router(tmp_path, worker, limits=SOON) as under_test:
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.complete, answer.headers["content-type"]) == (200, True, "text/event-stream")
        comments = answer.body.count(b": keep-alive\n\n")
        assert 2 <= comments <= 4
        assert answer.body.startswith(b": keep-alive\n\n" * comments + b"data: {")
        assert answer.body.endswith(b"data: [DONE]\n\n") and answer.events()[-1].data == "[DONE]"
        line = await under_test.wait_request()
        assert (line["outcome"], line["status"]) == ("ok", 200) and line["ttft_ms"] > 600


@story
async def test_after_comments_another_worker_may_still_answer(tmp_path: Path) -> None:
    async with (
        FaultWorker(late(fails), name="bad") as bad,
        FaultWorker(name="good") as good,
        router(tmp_path, bad, good, script=FIRST, limits=SOON) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.complete, b"broke" in answer.body) == (200, True, False)
        assert "".join(event.content for event in answer.events() if not event.is_comment) == "one two three four five"
        assert (await under_test.wait_request())["worker"] == "good"


@pytest.mark.parametrize(
    ("behaviour", "message", "outcome"),
    [(fails, "broke", "worker_error"), (refuses, "too long", "worker_error"), (answers_whole, "no valid answer", "upstream_failed")],
)
@story
async def test_a_failure_after_comments_is_told_inside_of_the_stream(
    behaviour: Any, message: str, outcome: str, tmp_path: Path
) -> None:
    async with FaultWorker(late(behaviour)) as worker, router(tmp_path, worker, limits=SOON) as under_test:
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.complete, b"[DONE]" in answer.body) == (200, False, False)
        assert message in answer.events()[-1].json()["error"]["message"]
        assert (await under_test.wait_request())["outcome"] == outcome


@story
async def test_an_answer_that_is_not_streamed_gets_no_comments(tmp_path: Path) -> None:
    async with FaultWorker(late(fails)) as worker, router(tmp_path, worker, limits=SOON) as under_test:
        answer = await under_test.post(CHAT, PROMPT)
        assert (answer.status, answer.json()) == (500, error_object("broke", "server_error", "broken"))


@story
async def test_a_stream_that_waits_in_the_queue_is_told_its_place(tmp_path: Path) -> None:
    async with FaultWorker(late(stream, 1.0)) as worker:
        entry = {"id": "w1", "url": worker.url, "models": ["tiny"], "max_concurrency": 1}
        async with router(tmp_path, entry, limits=SOON) as under_test:
            first = asyncio.ensure_future(under_test.post(CHAT, STREAMED))
            await until(lambda: under_test.worker("w1").in_flight == 1, "the first to be sent")
            second, third = [asyncio.ensure_future(under_test.post(CHAT, STREAMED)) for _ in range(2)]
            answers = [await one for one in (first, second, third)]
            assert [answer.complete for answer in answers] == [True] * 3
            assert b": queue position=1\n\n" in answers[1].body
            assert b": queue position=2" in answers[2].body and b": queue position=1 eta_s=1\n\n" in answers[2].body
            assert b": queue" not in answers[0].body


@story
async def test_the_worker_of_a_silent_stream_hears_at_once_that_its_client_left(tmp_path: Path) -> None:
    async with FaultWorker("hang") as worker, router(tmp_path, worker, limits=SOON) as under_test:
        async with under_test.connect() as client:
            client.send_request("POST", CHAT, STREAMED)
            await until(lambda: worker.requests, "the request")
            await asyncio.sleep(0.5)
        await worker.wait_closed_by_peer(1.0)
        line = await under_test.wait_request()
        assert (line["outcome"], under_test.worker(worker).failed) == ("client_gone", 0)


# Another worker goes on.

CONTINUES = [{"name": "tiny", "continuation": True}]


def dies_after(count: int, cut: bytes = b"") -> Any:
    """A behaviour: so many events of a stream, and a part of one, then a reset."""

    async def behave(connection: Connection, request: Request) -> None:
        await connection.write(head(200, SSE_TYPE, CHUNKED))
        for event in events(connection, request)[:count]:
            await connection.write(chunk(event))
        if cut:
            await connection.write(chunk(cut))
        await asyncio.sleep(0.1)
        connection.drop()

    return behave


async def goes_on(connection: Connection, request: Request) -> None:
    """Continues the last message, which must be what was said so far."""
    said = request.json()["messages"][-1]
    assert said == {"role": "assistant", "content": "one two three"}, said
    base = envelope(connection, request, "chat.completion.chunk")
    parts = [{"role": "assistant", "content": ""}, {"content": " and"}, {"content": " more"}]
    sent = [sse({**base, "choices": [{"index": 0, "delta": part, "finish_reason": None}]}) for part in parts]
    sent.append(sse({**base, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    sent.append(sse({**base, "choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}}))
    await connection.write(head(200, SSE_TYPE, CHUNKED))
    for event in [*sent, b"data: [DONE]\n\n"]:
        await connection.write(chunk(event))
    await connection.write(b"0\r\n\r\n")


@pytest.mark.parametrize("cut", [b"", b'data: {"id":"half an ev'])
@story
async def test_another_worker_goes_on_with_a_stream_and_the_client_sees_one(cut: bytes, tmp_path: Path) -> None:
    async with (
        FaultWorker(dies_after(4, cut), name="w1") as one,
        FaultWorker(goes_on, name="w2") as two,
        router(tmp_path, one, two, script=FIRST, models=CONTINUES) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.status, answer.complete) == (200, True)
        sent = [event for event in answer.events() if event.data != "[DONE]"]
        assert "".join(event.content for event in sent) == "one two three and more"
        assert len({json.loads(event.data)["id"] for event in sent}) == 1
        assert [event.data.count('"role"') for event in sent] == [1, 0, 0, 0, 0, 0, 0, 0]
        assert json.loads(sent[-1].data)["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        line = await under_test.wait_request()
        assert (line["outcome"], line["worker"], line["continued"], line["tokens_out"]) == ("ok", "w2", True, 5)
        assert [tried["result"] for tried in line["tries"]] == ["upstream_disconnected", "ok"]


@pytest.mark.parametrize(
    ("models", "more", "second"),
    [
        ([{"name": "tiny"}], {}, stream), (CONTINUES, {"tools": [{"type": "function"}]}, stream), (CONTINUES, {}, refuses),
        (CONTINUES, {}, answers_whole), (CONTINUES, {"n": 2}, stream),
    ],
    ids=["not configured", "tools", "the next worker refuses", "the next worker does not stream", "several choices"],
)  # fmt: skip
@story
async def test_a_stream_that_cannot_be_continued_breaks_off_with_an_error(
    models: list[dict[str, Any]], more: dict[str, Any], second: Any, tmp_path: Path
) -> None:
    async with (
        FaultWorker(dies_after(4), name="w1") as one,
        FaultWorker(second, name="w2") as two,
        router(tmp_path, one, two, script=FIRST, models=models) as under_test,
    ):
        answer = await under_test.post(CHAT, {**STREAMED, **more})
        assert (answer.status, answer.complete, b"[DONE]" in answer.body) == (200, False, False)
        *sent, last = answer.events()
        assert "".join(event.content for event in sent) == "one two three"
        assert error_shape(last.json())[1] == "upstream_disconnected"
        assert (await under_test.wait_request())["outcome"] == "upstream_failed"


@story
async def test_a_stream_is_continued_once_and_no_more(tmp_path: Path) -> None:
    async with (
        FaultWorker(dies_after(4), name="w1") as one,
        FaultWorker(dies_after(3), name="w2") as two,
        FaultWorker(goes_on, name="w3") as three,
        router(
            tmp_path, one, two, three, script="function route_request() return {'w1', 'w2', 'w3'} end", models=CONTINUES
        ) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.complete, len(two.requests), len(three.requests)) == (False, 1, 0)


async def says_error(connection: Connection, request: Request) -> None:
    error = sse(error_object("broke", "server_error", "broken"))
    await connection.write(head(200, SSE_TYPE, CHUNKED) + chunk(error) + b"0\r\n\r\n")


@story
async def test_when_the_worker_that_goes_on_begins_with_an_error_the_client_gets_it_as_an_event(tmp_path: Path) -> None:
    async with (
        FaultWorker(dies_after(4), name="w1") as one,
        FaultWorker(says_error, name="w2") as two,
        FaultWorker(goes_on, name="w3") as three,
        router(tmp_path, one, two, three, script=IN_ORDER, models=CONTINUES) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        assert (answer.complete, b"HTTP/1.1" in answer.body, len(three.requests)) == (False, False, 0)
        assert error_shape(answer.events()[-1].json())[1] == "upstream_error_event"


@story
async def test_while_another_worker_takes_its_time_to_go_on_there_are_comments_but_not_for_ever(tmp_path: Path) -> None:
    async with (
        FaultWorker(dies_after(4), name="w1") as one,
        FaultWorker("hang", name="w2") as two,
        router(
            tmp_path, one, two, script=IN_ORDER, models=CONTINUES, limits={"comment_s": 0.2, "first_content_s": 0.9}
        ) as under_test,
    ):
        answer = await under_test.post(CHAT, STREAMED)
        *before, last = answer.events()
        told = [event.is_comment for event in before]
        assert (answer.complete, any(told[-2:]), any(told[:3])) == (False, True, False)
        assert error_shape(last.json())[1] == "upstream_first_content_timeout"
        await two.wait_closed_by_peer(1.0)


@story
async def test_a_stream_that_waits_for_the_worker_that_is_to_go_on_is_told_its_place(tmp_path: Path) -> None:
    async with FaultWorker(dies_after(4), name="w1") as one, FaultWorker(late(goes_on), name="w2") as two:
        entries = [{"id": one.name, "url": one.url, "max_concurrency": 1} for one in (one, two)]
        async with router(tmp_path, *entries, script=None, models=CONTINUES, limits=SOON) as under_test:
            fleet = under_test.daemon.fleet
            full = under_test.worker("w2")
            fleet.sent(full, under_test.daemon.env.now())
            asked = asyncio.create_task(under_test.post(CHAT, STREAMED))
            waiting = under_test.daemon.listener.dispatcher.waiting
            await until(lambda: waiting, "the stream to wait")
            await asyncio.sleep(0.3)
            fleet.finished(full, None, under_test.daemon.env.now())
            answer = await asked
            text = "".join(event.content for event in answer.events() if not event.is_comment)
            assert (answer.complete, text) == (True, "one two three and more")
            assert any(event.raw.startswith(b": queue position=1") for event in answer.events())


@story
async def test_a_stream_of_a_model_with_continuation_that_nobody_breaks_passes_unchanged(tmp_path: Path) -> None:
    async with (
        FaultWorker(stream, name="w1") as plain,
        FaultWorker("slow_tokens", name="w2") as slow,
        router(tmp_path, plain, slow, models=CONTINUES, script="function route_request(r, w) return w[tonumber(r.user_id) or 1] end") as under_test,
    ):
        for user in ("1", "2"):
            answer = await under_test.post(CHAT, {**STREAMED, "user": user})
            assert answer.complete and answer.body.endswith(b"data: [DONE]\n\n")
            assert "".join(event.content for event in answer.events()).startswith("one two three")


@story
async def test_a_defect_with_one_connection_does_not_stop_the_clock_for_the_others(tmp_path: Path) -> None:
    async with FaultWorker("hang") as worker, router(tmp_path, worker, limits={"request_s": 0.5}) as under_test:
        async with under_test.connect() as client:
            client.send_request("POST", CHAT, PROMPT)
            await until(lambda: worker.requests, "the request")
            (broken,) = under_test.daemon.listener.connections

            def raise_it(now: float) -> None:
                raise ValueError("a defect")

            broken.check = raise_it                           # type: ignore[method-assign]
            answer = await under_test.post(CHAT, {**PROMPT, "n": 1})
            assert error_shape(answer.json())[1] == "upstream_deadline"
            await until(lambda: under_test.unexpected, "a report of the defect")
        under_test.unexpected.clear()
