"""Tests of the fault worker and the raw client: were they wrong, every other test would say nothing.

Run by pytest. It must not involve the daemon.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trustme
import uvloop

from tests.support.aio import LoopFactory, run
from tests.support.behaviours import (
    ANSWER_TEXT,
    BIG_ANSWER_BYTES,
    GARBAGE,
    HUGE_EVENT_BYTES,
    LONG_EVENT_BYTES,
    POISON,
)
from tests.support.fault_worker import BEHAVIOURS, Connection, FaultWorker, MalformedRequest, Request
from tests.support.raw_client import Answer, NoAnswer, exchange, get, post, stream
from tests.support.raw_client import Connection as Client

CHAT = "/v1/chat/completions"
PROMPT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}]}
STREAMED = {**PROMPT, "stream": True}
SHORT_S = 0.1


# What each behaviour looks like to a client.


@dataclass(frozen=True)
class Seen:
    """How an answer ended up at a client: "answer", "nothing" (no head), "silence" (a time-out) or "not http"."""

    ending: str = "answer"
    status: int = 200
    complete: bool = True
    reset: bool = False
    text: str = ANSWER_TEXT
    done: bool = False


WHOLE_JSON = Seen()
WHOLE_STREAM = Seen(done=True)
NOTHING = Seen("nothing", 0, False, text="")
SILENCE = Seen("silence", 0, False, text="")
CUT = Seen(complete=False, text="one two three")
REFUSED = Seen(text="")

GOOD = [
    "early_100",
    "flood_1xx",
    "ok",
    "ok_close",
    "ok_http10",
    "set_cookie",
    "slow_first",
    "slow_tokens",
    "wrong_usage",
]
AS_JSON = {
    **dict.fromkeys(GOOD, WHOLE_JSON),
    **dict.fromkeys(["ok_chunked", "trailers", "bad_content_length", "extra_data", "late_data"], WHOLE_JSON),
    "big_json": replace(WHOLE_JSON, text="x" * BIG_ANSWER_BYTES),
    "embed": replace(WHOLE_JSON, text=""),
    **dict.fromkeys(["bomb", "error_event", "html", "not_json", "short_length"], replace(WHOLE_JSON, text="")),
    "close_mid_body": Seen(complete=False, text=""),
    "drip_body": WHOLE_JSON,
    "hang_after_head": replace(SILENCE, status=200),
    "redirect": replace(REFUSED, status=307),
    "status_400": replace(REFUSED, status=400),
    "status_429": replace(REFUSED, status=429),
    "status_500": replace(REFUSED, status=500),
    "status_500_html": replace(REFUSED, status=500),
    "status_503": replace(REFUSED, status=503),
    **dict.fromkeys(["429@7", "429"], replace(REFUSED, status=429)),
    "die@5": Seen(complete=False, text=""),
    "end@5": replace(WHOLE_JSON, text=""),
}
AS_STREAM = {
    **dict.fromkeys(GOOD, WHOLE_STREAM),
    **dict.fromkeys(["split_bytes", "drip_body", "line_ends"], WHOLE_STREAM),
    "long_event": replace(WHOLE_STREAM, text="x" * LONG_EVENT_BYTES + ANSWER_TEXT),
    "huge_event": replace(WHOLE_STREAM, text="x" * HUGE_EVENT_BYTES + ANSWER_TEXT),
    "error_event": replace(WHOLE_STREAM, text=""),
    "only_comments": replace(SILENCE, status=200),
    "cut_event": replace(CUT, complete=True, text="one two"),
    "die@headers": replace(CUT, text=""),
    "die@2": replace(CUT, text="one two"),
    "die@7": replace(CUT, text=f"{ANSWER_TEXT}one two"),
    "reset@3": replace(CUT, reset=True),
    "hang@2": replace(SILENCE, status=200, text="one two"),
    "end@3": replace(CUT, complete=True),
    "error@3": replace(CUT, complete=True),
    "close_after_head": replace(CUT, text=""),
    "close_after_role": replace(CUT, text=""),
    "close_mid_stream": CUT,
    "reset_mid_stream": replace(CUT, reset=True),
    "eof_stream_no_done": replace(CUT, complete=True),
    "hang_after_head": replace(SILENCE, status=200),
    "hang_after_2": replace(SILENCE, status=200, text="one two"),
    "endless_stream": replace(SILENCE, status=200, text="one"),
}
AS_NEITHER = {
    "close_before_head": NOTHING,
    "reset_before_head": replace(NOTHING, reset=True),
    "die@start": NOTHING,
    **dict.fromkeys(["hang", "drip", "hang@start"], SILENCE),
    "reset@start": replace(NOTHING, reset=True),
    "garbage": Seen("not http", 0, False, text=""),
    "switching_101": replace(SILENCE, status=101),
}
EXPECTED: list[tuple[str, dict[str, Any], Seen]] = [
    *((name, PROMPT, seen) for name, seen in (AS_JSON | AS_NEITHER).items()),
    *((name, STREAMED, seen) for name, seen in (AS_STREAM | AS_NEITHER).items()),
]


async def look(worker: FaultWorker, body: dict[str, Any]) -> Seen:
    """Send one request and sum up what became of it."""
    async with Client(worker.port) as client:
        ending = "answer"
        try:
            await client.post(CHAT, body, timeout_s=SHORT_S if hangs(worker) else 5.0)
        except TimeoutError:
            ending = "silence"
        except NoAnswer as error:
            return replace(NOTHING, reset="ConnectionResetError" in str(error))
        except ValueError:
            ending = "not http"
        answer = client.answer or Answer(0, {})
        text, done = read_text(answer)
        if worker.behave == "endless_stream":
            text = text[:3]
        return Seen(ending, answer.status, answer.complete, answer.reset, text, done)


def hangs(worker: FaultWorker) -> bool:
    name = str(worker.behave)
    return name in ("drip", "only_comments") or name.startswith(("hang", "endless", "switching"))


def read_text(answer: Answer) -> tuple[str, bool]:
    if answer.headers.get("content-type") == "text/event-stream":
        events = answer.events()
        return "".join(event.content for event in events), any(event.data == "[DONE]" for event in events)
    if answer.status != 200 or not answer.complete:
        return "", False
    try:
        choices = json.loads(answer.body).get("choices", [])
    except ValueError:
        return "", False
    return choices[0]["message"]["content"] if choices else "", False


@pytest.mark.parametrize(
    ("name", "body", "expected"), [pytest.param(*row, id=f"{row[0]}-{'stream' in row[1]}") for row in EXPECTED]
)
def test_each_behaviour_reaches_a_client_as_its_name_says(name: str, body: dict[str, Any], expected: Seen) -> None:
    async def story() -> None:
        async with FaultWorker(name) as worker:
            worker.delay_s = 0.0 if name == "drip_body" else 0.01
            assert await look(worker, body) == expected
            assert [request.json() for request in worker.requests] == [body]

    run(story())


def test_every_behaviour_has_an_expectation() -> None:
    named = {name for name, _, _ in EXPECTED}
    assert {name for name in named if "@" not in name and not name.isdigit()} == set(BEHAVIOURS)


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_sent_as_it_stands_on_a_connection_that_stays_open(kind: str) -> None:
    async def story() -> None:
        async with FaultWorker(f"garbage:{kind}") as worker, Client(worker.port) as client:
            client.send_request("POST", CHAT, PROMPT)
            while len(client.unread) < len(GARBAGE[kind]):
                await client.arrived()
            assert (client.unread, client.ended) == (GARBAGE[kind], False)

    run(story())


# The bytes of the special ones.


def raw_request(model: str = "tiny", path: str = CHAT) -> bytes:
    body = json.dumps({**PROMPT, "model": model}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: worker\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_special_answers_have_the_headers_that_make_them_special() -> None:
    async def story() -> None:
        async with FaultWorker() as worker:
            cookie = await post(worker.port, CHAT, {**PROMPT, "model": "tiny:set_cookie"})
            busy = await post(worker.port, CHAT, {**PROMPT, "model": "tiny:status_429"})
            both = await post(worker.port, CHAT, {**PROMPT, "model": "tiny:bad_content_length"})
            flood = await post(worker.port, CHAT, {**PROMPT, "model": "tiny:flood_1xx"})
            moved = await post(worker.port, CHAT, {**PROMPT, "model": "tiny:redirect"})
        special = {"set-cookie", "server", "location", "access-control-allow-origin"}
        assert set(cookie.headers) - {"content-type", "content-length"} == special
        assert busy.headers["retry-after"] == "7"
        assert {"content-length", "transfer-encoding"} <= set(both.headers)
        assert flood.interim == [103] * 20
        assert moved.headers["location"] == f"http://127.0.0.1:9{CHAT}"

    run(story())


def test_extra_and_late_data_arrive_after_a_good_answer_on_an_open_connection() -> None:
    async def story(name: str) -> None:
        async with FaultWorker(name) as worker, Client(worker.port) as client:
            assert (await client.post(CHAT, PROMPT)).complete
            poisoned = await client.receive()
            assert (poisoned.body, client.ended) == (POISON.partition(b"\r\n\r\n")[2], False)

    run(story("extra_data"))
    run(story("late_data"))


def test_an_http10_answer_says_so_and_the_connection_ends() -> None:
    async def story() -> None:
        async with FaultWorker("ok_http10") as worker:
            assert (await exchange(worker.port, raw_request())).startswith(b"HTTP/1.0 200 OK\r\n")

    run(story())


def test_usage_comes_last_in_a_stream_when_it_was_asked_for() -> None:
    async def story() -> None:
        async with FaultWorker() as worker:
            asked = {**STREAMED, "stream_options": {"include_usage": True}}
            events = [event async for event in stream(worker.port, CHAT, asked)]
            assert events[-2].json()["usage"]["completion_tokens"] == 5
            assert events[-1].data == "[DONE]"

    run(story())


def test_the_text_completion_surface_has_its_own_shape() -> None:
    async def story() -> None:
        async with FaultWorker() as worker:
            body = {"model": "tiny", "prompt": "hello"}
            whole = await post(worker.port, "/v1/completions", body)
            events = [event async for event in stream(worker.port, "/v1/completions", {**body, "stream": True})]
            assert whole.json()["choices"][0]["text"] == ANSWER_TEXT
            assert "".join(event.content for event in events) == ANSWER_TEXT

    run(story())


# How behaviour is chosen.


def test_a_list_of_behaviours_is_consumed_and_its_last_stays() -> None:
    async def story() -> None:
        async with FaultWorker(["status_503", "status_500", "ok"]) as worker, Client(worker.port) as client:
            assert [(await client.post(CHAT, PROMPT)).status for _ in range(4)] == [503, 500, 200, 200]

    run(story())


def test_a_function_chooses_by_request_and_an_async_function_answers_itself() -> None:
    async def teapot(connection: Connection, request: Request) -> None:
        await connection.write(b"HTTP/1.1 418 Teapot\r\ncontent-length: 0\r\n\r\n")

    async def story() -> None:
        async with FaultWorker(lambda request: "status_400" if request.stream else teapot) as worker:
            statuses = [(await post(worker.port, CHAT, body)).status for body in (PROMPT, STREAMED)]
            worker.behave = teapot
            assert [*statuses, (await post(worker.port, CHAT, STREAMED)).status] == [418, 400, 418]

    run(story())


def test_a_model_name_picks_a_behaviour_without_consuming_the_list() -> None:
    async def story() -> None:
        async with FaultWorker(["status_503", "ok"]) as worker, Client(worker.port) as client:
            models = ["tiny:status_500", "tiny:7b", "tiny", "tiny:8b:429@3", "status-400", "502"]
            statuses = [(await client.post(CHAT, {**PROMPT, "model": name})).status for name in models]
            assert statuses == [500, 503, 200, 429, 400, 502]

    run(story())


@pytest.mark.parametrize("name", ["okay", "die@", "die@three", "hang@-1", "garbage:nothing", "429@x", "200", ""])
def test_an_unknown_behaviour_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="no such behaviour"):
        FaultWorker(["ok", name])


def test_a_fault_in_a_behaviour_fails_the_test_that_uses_it() -> None:
    async def broken(connection: Connection, request: Request) -> None:
        raise ZeroDivisionError

    async def story() -> None:
        async with FaultWorker(broken) as worker:
            with pytest.raises(NoAnswer):
                await post(worker.port, CHAT, PROMPT)

    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run(story())


# What is recorded.


def test_requests_are_recorded_as_sent_and_probes_apart() -> None:
    async def story() -> None:
        async with FaultWorker(models=["small", "large"]) as worker:
            worker.pages["/metrics"] = b"running 3\n"
            async with Client(worker.port) as client:
                models = await client.get("/v1/models")
                paths = ["/health", "/metrics", "/other"]
                pages = [(await client.get(path)).status for path in paths]
                await client.post(f"{CHAT}?a=1", b'{"model": "tiny"}', [("X-Mixed-Case", "kept")])
            await post(worker.port, CHAT, b"not json")
            worker.probe = "503"
            assert (await get(worker.port, "/health")).status == 503
            first, second = worker.requests
            assert [card["id"] for card in models.json()["data"]] == ["small", "large"]
            assert pages == [200, 200, 404]
            assert (first.method, first.path, first.body, first.model) == (
                "POST",
                f"{CHAT}?a=1",
                b'{"model": "tiny"}',
                "tiny",
            )
            assert (b"X-Mixed-Case", b"kept") in first.headers
            assert (first.connection, second.connection, second.model) == (1, 2, "")
            assert [probe.path for probe in worker.probes] == ["/v1/models", *paths, "/health"]

    run(story())


def test_a_chunked_request_body_is_put_together_whatever_the_pieces() -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nhost: worker\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    raw = head + b'7;x=y\r\n{"model\r\n9\r\n":"tiny"}\r\n0\r\ntrailer: 1\r\n\r\n'

    async def story() -> None:
        async with FaultWorker() as worker, Client(worker.port) as client:
            for byte in raw:
                client.send(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await client.receive()).status == 200
            client.send(raw + raw_request())
            assert [(await client.receive()).status for _ in range(2)] == [200, 200]
            assert [request.body for request in worker.requests[:2]] == [b'{"model":"tiny"}'] * 2

    run(story())


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/2.0\r\n\r\n",
        b"POST / HTTP/1.1\r\nbad name: x\r\n\r\n",
        b"POST / HTTP/1.1\r\na: 1\r\n folded\r\n\r\n",
        b"POST / HTTP/1.1\r\na: \x01\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: +1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_a_request_that_no_router_may_send_fails_the_test(raw: bytes) -> None:
    async def story() -> None:
        async with FaultWorker() as worker:
            assert (await exchange(worker.port, raw)).startswith(b"HTTP/1.1 400 ")

    with pytest.raises(AssertionError) as caught:
        run(story())
    assert isinstance(caught.value.__cause__, MalformedRequest)


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_peer_that_leaves_in_the_middle_is_noticed(abort: bool, loop_factory: LoopFactory) -> None:
    async def story() -> None:
        async with FaultWorker("hang_after_2") as worker, Client(worker.port) as client:
            async for event in client.stream(CHAT, STREAMED):
                if event.content == " two":
                    break
            if abort:
                client.abort()
            else:
                await client.close()
            left_at = await worker.wait_closed_by_peer(timeout_s=1)
            assert worker.closed_by_peer == [left_at]
            await worker.wait_until(lambda: worker.open_connections == 0)

    run(story(), loop_factory=loop_factory)


def test_a_peer_that_leaves_an_idle_connection_is_no_event() -> None:
    async def story() -> None:
        async with FaultWorker() as worker:
            await post(worker.port, CHAT, PROMPT)
            await worker.wait_until(lambda: worker.open_connections == 0)
            assert worker.closed_by_peer == []
            with pytest.raises(TimeoutError, match="for the peer to leave 1 times"):
                await worker.wait_closed_by_peer(timeout_s=0.05)

    run(story())


# The life of a worker.


def test_idle_connections_are_closed_after_the_idle_time_and_not_before() -> None:
    async def story() -> None:
        async with FaultWorker("slow_first") as worker:
            worker.delay_s, worker.idle_close_s = 0.1, 0.05
            async with Client(worker.port) as client:
                assert (await client.post(CHAT, PROMPT)).complete
                answered_at = asyncio.get_running_loop().time()
                assert await client.until_ended(timeout_s=1) == b""
                assert asyncio.get_running_loop().time() - answered_at > 0.04

    run(story())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_worker_that_refuses_can_accept_again_on_its_port(loop_factory: LoopFactory) -> None:
    async def story() -> None:
        async with FaultWorker("hang_after_2") as worker:
            async with Client(worker.port) as client:
                client.send_request("POST", CHAT, STREAMED)
                await worker.wait_requests(1)
                for _ in range(3):
                    await worker.refuse()
                    assert worker.open_connections == 0
                    with pytest.raises(ConnectionRefusedError):
                        await post(worker.port, CHAT, PROMPT)
                    await worker.accept_again()
                    assert (await get(worker.port, "/health")).status == 200
                assert not (await client.receive()).complete
            assert worker.closed_by_peer == []

    run(story(), loop_factory=loop_factory)


def test_tls_workers_answer_and_cut_streams_alike() -> None:
    authority = trustme.CA()
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)

    async def story() -> None:
        async with FaultWorker(["ok", "close_mid_stream", "reset_mid_stream", "hang"], tls=serving) as worker:
            answers = [await post(worker.port, CHAT, STREAMED, tls=trusting) for _ in range(3)]
            assert worker.url.startswith("https://")
            assert [answer.complete for answer in answers] == [True, False, False]
            async with Client(worker.port, tls=trusting) as client:
                client.send_request("POST", CHAT, PROMPT)
                await worker.wait_requests(4)
            await worker.wait_closed_by_peer(timeout_s=1)

    run(story())


def test_a_stuck_client_stops_an_endless_stream_by_back_pressure() -> None:
    async def story() -> None:
        async with FaultWorker("endless_stream", send_buffer_bytes=16384) as worker:
            async with Client(worker.port, receive_buffer_bytes=4096) as client:
                client.send_request("POST", CHAT, STREAMED)
                client.pause()
                await worker.wait_requests(1)
                sent, before = worker.bytes_sent, -1
                while sent != before:
                    await asyncio.sleep(0.05)
                    sent, before = worker.bytes_sent, sent
                client.resume()
                while worker.bytes_sent == sent:
                    await asyncio.sleep(0.01)
            await worker.wait_closed_by_peer(timeout_s=1)
            assert 4096 < sent < 300_000

    run(story())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_many_requests_on_many_connections_leave_no_task_behind(loop_factory: LoopFactory) -> None:
    async def customer(port: int) -> int:
        async with Client(port) as client:
            return sum([(await client.post(CHAT, PROMPT)).complete for _ in range(20)])

    async def story() -> None:
        before = asyncio.all_tasks()
        async with FaultWorker() as worker:
            kept = sum(await asyncio.gather(*(customer(worker.port) for _ in range(100))))
            assert (kept, len(worker.requests), worker.connections_accepted) == (2000, 2000, 100)
        assert asyncio.all_tasks() == before

    run(story(), loop_factory=loop_factory)


def test_a_worker_that_ends_in_the_middle_of_everything_leaves_no_task_behind() -> None:
    async def story() -> None:
        before = asyncio.all_tasks()
        async with FaultWorker() as worker:
            clients = [await Client(worker.port).__aenter__() for _ in BEHAVIOURS]
            for client, name in zip(clients, BEHAVIOURS, strict=True):
                client.send_request("POST", CHAT, {**STREAMED, "model": f"tiny:{name}"})
            await worker.wait_requests(len(BEHAVIOURS))
        for client in clients:
            await client.close()
        assert asyncio.all_tasks() == before

    run(story())


# The client by itself.


@asynccontextmanager
async def foreign_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Any asyncio server for one connection; gives its port, and ends when that connection has."""
    ended = asyncio.Event()

    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve_once, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await ended.wait()


@pytest.mark.parametrize(
    ("probe", "expected"), [("ok", 200), ("503", 503), ("401", 401), ("refuse", NoAnswer), ("hang", TimeoutError)]
)
def test_probes_are_answered_well_or_badly_whatever_becomes_of_requests(probe: str, expected: Any) -> None:
    async def story() -> None:
        async with FaultWorker("status_400") as worker:
            worker.probe = probe
            if isinstance(expected, int):
                assert (await get(worker.port, "/v1/models", timeout_s=SHORT_S)).status == expected
            else:
                with pytest.raises(expected):
                    await get(worker.port, "/v1/models", timeout_s=SHORT_S)
            assert (await post(worker.port, CHAT, PROMPT)).status == 400

    run(story())


def test_a_client_reads_an_early_answer_while_its_body_is_still_going_out() -> None:
    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\n\r\nbig!")
        await writer.drain()
        await asyncio.sleep(SHORT_S)

    async def story() -> None:
        async with foreign_server(too_large) as port:
            answer = await post(port, "/", b"x" * 20_000_000)
            assert (answer.status, answer.body, answer.complete) == (413, b"big!", True)

    run(story())


def test_a_client_may_say_that_it_sends_no_more_and_still_read() -> None:
    async def after_eof(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read())

    async def story() -> None:
        async with foreign_server(after_eof) as port:
            assert await exchange(port, b"anything", half_close=True) == b"got anything"

    run(story())


def test_a_connection_that_stays_open_is_not_mistaken_for_an_answer() -> None:
    async def story() -> None:
        async with FaultWorker("hang_after_head") as worker:
            with pytest.raises(TimeoutError, match=r"still open after .* received b'HTTP/1.1 200 OK"):
                await exchange(worker.port, raw_request(), timeout_s=0.05)

    run(story())


def test_events_are_told_apart_whatever_their_line_ends_and_comments() -> None:
    body = b': keep-alive\n\nevent: note\r\ndata: 1\r\ndata: 2\r\n\r\ndata: {"choices":[{"text":"a"}]}\n\ndata: cut'
    events = Answer(200, {}, [body]).events()
    assert [(event.is_comment, event.name, event.data) for event in events[:2]] == [
        (True, "", ""),
        (False, "note", "1\n2"),
    ]
    assert [event.content for event in events[2:]] == ["a"]


def test_run_stops_a_test_that_hangs() -> None:
    with pytest.raises(TimeoutError):
        run(asyncio.sleep(10), timeout_s=0.01)
