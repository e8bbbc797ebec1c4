"""Tests of what passes through: bytes unchanged both ways, headers by the allow-lists, the model by the script.

Run by pytest, with the router in the test's loop.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.behaviours import ANSWER_TOKENS, CHUNKED, LAST_CHUNK, SSE_TYPE, chunk, events, head
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.support.raw_client import Connection as Client
from tests.wire.answers import CHAT, PROMPT, STREAMED, json_answer, raw_answer, stream_answer
from tests.wire.router import router

PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
    "/v1/pooling",
    "/v1/classify",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/audio/speech",
]
ODD_BODY = (
    b'{\r\n\t"model" :  "tiny",\n "input":["h\\u00e9llo", "\xc3\xa9 \xf0\x9f\x90\x9d \xe2\x80\xa8"] , "n":1e0,'
    b'  "temperature": 0.70,"stop":null,"nested":{"a":[{},[ ]]} }  \n'
)
ODD_ANSWER = b'\xff\xfe\x00{"binary": "\r\n\r\n", 0\r\n\r\n}\x1f'
EVENTS = (
    b': hello\r\n\r\ndata: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'event: odd\r\nid: 7\r\nretry: 10\r\ndata: {"choices":[{"index":0,\r\ndata: "delta":{"content":"\xf0\x9f\x90\x9d"}}]}\r\n\r\n'
    b"\n\n: ping\n\ndata:no space\rdata: lone\r\rdata: [DONE]\n\n"
)
HOP_BY_HOP = [
    ("Connection", "keep-alive, X-Session-Id"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("Proxy-Authorization", "Basic c2VjcmV0"),
    ("TE", "trailers"),
    ("Trailer", "x-checksum"),
]


@pytest.mark.parametrize("path", PATHS)
@story
async def test_every_path_passes_bodies_unchanged_both_ways(path: str, tmp_path: Path) -> None:
    async with FaultWorker(json_answer(ODD_ANSWER)) as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(f"{path}?beta=true&x=%20y", ODD_BODY)
        assert (answer.status, answer.body, answer.complete) == (200, ODD_ANSWER, True)
        assert [(request.path, request.body) for request in worker.requests] == [(f"{path}?beta=true&x=%20y", ODD_BODY)]
        line = await under_test.wait_request()
        assert {name: line[name] for name in ("path", "model", "outcome", "status", "worker", "attempts", "bytes_out")} == {
            "path": path, "model": "tiny", "outcome": "ok", "status": 200, "worker": worker.name, "attempts": 1,
            "bytes_out": len(ODD_ANSWER),
        }  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/audio/speech"])
@story
async def test_a_stream_passes_unchanged_wherever_it_is_split(path: str, tmp_path: Path) -> None:
    cuts = [[EVENTS[:at], EVENTS[at:]] for at in range(1, len(EVENTS))]
    single_bytes = [[EVENTS[at : at + 1] for at in range(len(EVENTS))]]
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test, under_test.connect() as client:
        for parts in cuts + single_bytes:
            worker.behave = stream_answer(parts)
            answer = await client.post(path, STREAMED)
            assert (answer.status, answer.body, answer.complete) == (200, EVENTS, True)
        lines = await under_test.wait_requests(len(EVENTS))
        assert {(line["outcome"], line["stream"], line["bytes_out"]) for line in lines} == {("ok", True, len(EVENTS))}


@story
async def test_events_reach_the_client_one_by_one_as_they_are_sent(tmp_path: Path) -> None:
    read = asyncio.Semaphore(2)                               # the first two: an opening is held until content comes

    async def wait_for_the_reader(connection: Connection, request: Request) -> None:
        await connection.write(head(200, SSE_TYPE, CHUNKED))
        for event in events(connection, request):
            await read.acquire()
            await connection.write(chunk(event))
        await connection.write(LAST_CHUNK)

    async with FaultWorker(wait_for_the_reader) as worker, router(tmp_path, worker) as under_test:
        async with under_test.connect() as client:
            seen = []
            async for event in client.stream(CHAT, STREAMED):
                seen.append(event.content or event.data[:6])
                if len(seen) > 1:
                    read.release()
        assert seen == [seen[0], *ANSWER_TOKENS, seen[6], "[DONE]"]


@pytest.mark.parametrize("size", [300_000, 1_500_000])
@story
async def test_an_event_far_larger_than_what_is_held_passes_unchanged(size: int, tmp_path: Path) -> None:
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * size + b'"}}]}\n\n'
    async with FaultWorker(stream_answer([event, b"data: [DONE]\n\n"])) as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(CHAT, STREAMED)
        assert answer.body == event + b"data: [DONE]\n\n"
        assert answer.complete


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 200_000, 2_000_000])
@pytest.mark.parametrize("framing", ["content-length", "chunked", "close", "http/1.0"])
@story
async def test_an_answer_of_any_size_and_framing_arrives_whole(size: int, framing: str, tmp_path: Path) -> None:
    body = bytes(at % 251 for at in range(1000)) * (size // 1000) + b"e" * (size % 1000)
    json_type = ("content-type", "application/json")
    behaviours = {
        "content-length": json_answer(body),
        "chunked": raw_answer(head(200, json_type, CHUNKED), *([chunk(body)] if body else []), LAST_CHUNK),
        "close": raw_answer(head(200, json_type, ("connection", "close")), body, close=True),
        "http/1.0": raw_answer(head(200, json_type, version="1.0"), body, close=True),
    }
    async with FaultWorker(behaviours[framing]) as worker, router(tmp_path, worker) as under_test:
        async with under_test.connect() as client:
            for _ in range(2):
                answer = under_test.books.note(await client.post(CHAT, PROMPT))
                assert (answer.status, answer.body == body, answer.complete) == (200, True, True)
        assert worker.connections_accepted == (1 if framing in ("content-length", "chunked") else 2)


@story
async def test_a_close_delimited_stream_that_says_it_is_done_arrives_whole(tmp_path: Path) -> None:
    for behaviour in ("ok_close", "ok_http10"):
        async with FaultWorker(behaviour) as worker, router(tmp_path, worker) as under_test:
            answer = await under_test.post(CHAT, STREAMED)
            assert answer.complete
            assert answer.events()[-1].data == "[DONE]"
            assert (await under_test.wait_request())["outcome"] == "ok"
        (tmp_path / "routing.log").unlink()


# Headers.


@story
async def test_the_worker_gets_the_allowed_headers_its_own_key_and_nothing_else(tmp_path: Path) -> None:
    given = [
        ("Authorization", "Bearer client-secret"), ("Cookie", "session=client-secret"), ("X-Forwarded-Host", "evil"),
        ("X-Api-Key", "client-secret"), ("User-Agent", "tester/1"), ("Accept", "text/event-stream"),
        ("OpenAI-Beta", "assistants=v2"), ("traceparent", "00-ab-cd-01"), ("X-Request-Id", "my-own.id:1"),
        ("X-Rbee-Meta-Team", "red"), ("Content-Type", "application/json; charset=utf-8"), ("Origin", "http://evil"),
    ]  # fmt: skip
    async with FaultWorker() as worker:
        entry = {"id": worker.name, "url": worker.url, "api_key": "worker-secret"}
        async with router(tmp_path, entry) as under_test:
            answer = await under_test.post(CHAT, PROMPT, given)
            body = json.dumps(PROMPT).encode()
            assert dict(worker.requests[0].headers) == {
                b"host": f"127.0.0.1:{worker.port}".encode(), b"content-type": b"application/json",
                b"content-length": str(len(body)).encode(), b"authorization": b"Bearer worker-secret",
                b"user-agent": b"tester/1", b"accept": b"text/event-stream", b"openai-beta": b"assistants=v2",
                b"traceparent": b"00-ab-cd-01", b"x-request-id": b"my-own.id:1",
            }  # fmt: skip
            assert len(worker.requests[0].headers) == 9
            assert answer.headers["x-request-id"] == "my-own.id:1"
            line = await under_test.wait_request()
            assert line["request_id"] == "my-own.id:1"


@story
async def test_hop_by_hop_headers_and_those_named_in_connection_stop_here(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        assert (await under_test.post(CHAT, PROMPT, [*HOP_BY_HOP, ("X-Session-Id", "secret")])).status == 200
        assert {name.decode() for name, _ in worker.requests[0].headers} == {
            "host", "content-type", "content-length", "x-request-id",
        }  # fmt: skip
        assert (await under_test.post(CHAT, PROMPT, [("X-Session-Id", "kept")])).status == 200
        assert worker.requests[1].header("x-session-id") == b"kept"


@pytest.mark.parametrize("second", ["Connection", "CONNECTION"])
@story
async def test_headers_named_in_any_of_two_connection_headers_stop_here(second: str, tmp_path: Path) -> None:
    headers = [("Connection", "X-Session-Id"), (second, "keep-alive"), ("X-Session-Id", "secret")]
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        assert (await under_test.post(CHAT, PROMPT, headers)).status == 200
        assert worker.requests[0].header("x-session-id") is None


@story
async def test_a_header_that_is_sent_twice_reaches_the_worker_as_one_list(tmp_path: Path) -> None:
    headers = [("Accept", "text/html"), ("X-Session-Id", "s"), ("Accept", "application/json")]
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        assert (await under_test.post(CHAT, PROMPT, headers)).status == 200
        assert worker.requests[0].header("accept") == b"text/html, application/json"
        assert (await under_test.post(CHAT, PROMPT, headers[:2])).status == 200
        assert worker.requests[1].header("accept") == b"text/html"


@pytest.mark.parametrize("stream", [False, True])
@story
async def test_the_client_gets_the_allowed_headers_and_who_answered_and_why(stream: bool, tmp_path: Path) -> None:
    allowed = {
        "retry-after": "3", "openai-processing-ms": "12", "x-ratelimit-limit-tokens": "9", "cache-control": "no-cache",
        "server-timing": "db;dur=1", "content-language": "en", "x-accel-buffering": "no",
    }  # fmt: skip
    forbidden = {
        "Set-Cookie": "session=of-somebody-else", "Server": "secret-engine/1.2.3", "Location": "http://10.0.0.1/",
        "Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "true", "Alt-Svc": 'h3=":443"',
        "X-Request-Id": "the-worker's", "X-Rbee-Worker": "forged", "X-Rbee-Reason": "forged", "Via": "1.1 inner",
        "Keep-Alive": "timeout=5", "Trailer": "x", "X-Powered-By": "engine", "Date": "Thu, 01 Jan 1970 00:00:00 GMT",
        "WWW-Authenticate": "Basic", "Strict-Transport-Security": "max-age=1", "Content-Encoding": "identity",
    }  # fmt: skip
    headers = [*allowed.items(), *forbidden.items()]
    behaviour = stream_answer([EVENTS], *headers) if stream else json_answer(ODD_ANSWER, *headers)
    async with FaultWorker(behaviour, name="gpu-1") as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(CHAT, STREAMED if stream else PROMPT)
        line = await under_test.wait_request()
        assert answer.headers.pop("date").endswith(" GMT")
        assert "1970" not in answer.headers.get("date", "")
        assert answer.headers == {
            **allowed, "content-type": "text/event-stream" if stream else "application/json",
            "x-request-id": line["request_id"], "x-rbee-worker": "gpu-1", "x-rbee-reason": "least-request",
            "x-rbee-strategy": "least-request",
            **({"content-length": str(len(EVENTS))} if "content-length" in answer.headers and stream else {}),
            **({"transfer-encoding": "chunked"} if "transfer-encoding" in answer.headers else {}),
            **({} if stream else {"content-length": str(len(ODD_ANSWER))}),
        }  # fmt: skip
        assert ("content-length" in answer.headers) != ("transfer-encoding" in answer.headers)


@story
async def test_a_worker_s_cookie_is_not_sent_to_it_again(tmp_path: Path) -> None:
    async with FaultWorker("set_cookie") as worker, router(tmp_path, worker) as under_test:
        for _ in range(2):
            assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert [request.header("cookie") for request in worker.requests] == [None, None]


@pytest.mark.parametrize("request_id", ["a b", "x" * 129, "i\u00efd", '"quoted"', "a,b", ""])
@story
async def test_a_request_id_that_could_forge_a_line_is_replaced(request_id: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post(CHAT, PROMPT, [("x-request-id", request_id)])
        made = answer.headers["x-request-id"]
        assert made != request_id
        assert made.replace("-", "").isalnum()
        assert worker.requests[0].header("x-request-id") == made.encode()
        assert (await under_test.wait_request())["request_id"] == made


@story
async def test_a_reason_with_strange_characters_stays_one_header(tmp_path: Path) -> None:
    script = "function route_request(request, workers)\n  return nil\nend\n"
    async with FaultWorker() as worker, router(tmp_path, worker, script=script) as under_test:
        answer = await under_test.post(CHAT, PROMPT)
        assert answer.headers["x-rbee-reason"] == "least-request; routing.lua:2 returned nil"


@pytest.mark.parametrize(("base", "prefix"), [("", ""), ("/", ""), ("/v1", ""), ("/v1/", ""), ("/engine/v1", "/engine")])
@story
async def test_the_path_of_a_worker_s_url_stands_before_that_of_the_request(
    base: str, prefix: str, tmp_path: Path
) -> None:
    async with FaultWorker() as worker, router(tmp_path, {"id": "w", "url": worker.url + base}) as under_test:
        assert (await under_test.post(CHAT, PROMPT)).status == 200
        assert [request.path for request in worker.requests] == [prefix + CHAT]


# The model.

A_B = """
function route_request(request, workers)
  return workers:filter(function(worker) return worker.models:contains("large") end)[1]
end
"""


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (b'{"model":"tiny","n":1}', {"model": b'"large"', "n": b"1"}),
        (
            b'{ "a" : [ 1 , 2.50 ],"model" : "tiny" , "s":"\\u00e9\\n", "e":1e2, "big":123456789012345678901234567890}',
            {"a": b"[ 1 , 2.50 ]", "model": b'"large"', "s": b'"\\u00e9\\n"', "e": b"1e2", "big": b"123456789012345678901234567890"},
        ),
        (
            b'{"messages":[{"role":"user","content":"the \\"model\\": \\"tiny\\"", "model":"tiny"}],"model":"tiny"}',
            {"messages": b'[{"role":"user","content":"the \\"model\\": \\"tiny\\"", "model":"tiny"}]', "model": b'"large"'},
        ),
    ],
)  # fmt: skip
@story
async def test_a_script_that_chooses_another_model_changes_that_field_alone(
    given: bytes, sent: dict[str, bytes], tmp_path: Path
) -> None:
    async with (
        FaultWorker(models=["tiny"], name="a") as first,
        FaultWorker(models=["large"], name="b") as second,
        router(tmp_path, first, second, script=A_B) as under_test,
    ):
        answer = await under_test.post(CHAT, given)
        assert (answer.status, answer.headers["x-rbee-worker"]) == (200, "b")
        (request,) = second.requests
        assert raw_fields(request.body) == sent
        assert request.header("content-length") == str(len(request.body)).encode()
        line = await under_test.wait_request()
        assert (line["model"], line["sent_model"], line["by"]) == ("tiny", "large", "script")


def raw_fields(body: bytes) -> dict[str, bytes]:
    """The fields of a JSON object, their values as they are spelled."""
    import msgspec

    return {name: bytes(value) for name, value in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


@story
async def test_a_body_whose_model_is_kept_is_not_touched(tmp_path: Path) -> None:
    script = "function route_request(request, workers)\n  return workers[1]\nend\n"
    async with FaultWorker() as worker, router(tmp_path, worker, script=script) as under_test:
        answer = await under_test.post(CHAT, ODD_BODY)
        assert answer.headers["x-rbee-reason"] == "routing.lua:2"
        assert worker.requests[0].body == ODD_BODY


# What the log says of it.


@story
async def test_usage_is_logged_from_the_end_of_an_answer(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [PROMPT, {**STREAMED, "stream_options": {"include_usage": True}}]
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        for body in asked:
            await under_test.post(CHAT, body)
        lines = await under_test.wait_requests(2)
        assert [(line["tokens_in"], line["tokens_out"]) for line in lines] == [(3, 5), (3, 5)]
        assert all(0 <= line["ttft_ms"] <= line["total_ms"] for line in lines)


@story
async def test_a_small_stream_is_answered_in_one_piece_with_its_events_whole(tmp_path: Path) -> None:
    start = head(200, SSE_TYPE, CHUNKED)
    whole = start + chunk(EVENTS) + LAST_CHUNK
    async with FaultWorker(raw_answer(whole)) as worker, router(tmp_path, worker) as under_test:
        async with Client(under_test.port) as client:
            assert (await client.post(CHAT, STREAMED)).body == EVENTS
