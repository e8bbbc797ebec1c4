"""Tests of the paths beside chat completions: what reaches the worker and the client, and errors in the client's words.

Run by pytest, with the router in the test's loop.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rbeerouter.core.types import Report
from tests.support.aio import story
from tests.support.behaviours import CHUNKED, LAST_CHUNK, chunk, head
from tests.support.fault_worker import Connection, FaultWorker, Request
from tests.wire.answers import json_answer, raw_answer, stream_answer
from tests.wire.router import Router, router

FORM = "multipart/form-data; boundary=xYz"
SOUND = bytes(range(256)) * 64


def form(model: str) -> bytes:
    return (
        b'--xYz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        + SOUND + b'\r\n--xYz\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + model.encode() + b"\r\n--xYz--\r\n"
    )  # fmt: skip


def speaks(under_test: Router, worker: FaultWorker, *protocols: str) -> None:
    report = Report(worker.name, True, tuple(worker.models), 0.0, speaks=frozenset(protocols))
    under_test.daemon.fleet.apply(report)


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits", "/v1/images/variations"])
@story
async def test_an_upload_reaches_the_worker_byte_for_byte_with_its_own_content_type(path: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        worker.behave = json_answer(b'{"text":"hello"}')
        answer = await under_test.post(path, form("tiny"), [("content-type", FORM)])
        assert (answer.status, answer.body) == (200, b'{"text":"hello"}')
        (request,) = worker.requests
        assert (request.body, request.header("content-type")) == (form("tiny"), FORM.encode())
        assert [name.lower() for name, _ in request.headers].count(b"content-type") == 1
        assert (await under_test.wait_request())["model"] == "tiny"


@story
async def test_an_upload_may_be_larger_than_other_bodies(tmp_path: Path) -> None:
    limits = {"request_body_bytes": 4000, "upload_bytes": 20_000}
    async with FaultWorker() as worker, router(tmp_path, worker, limits=limits) as under_test:
        worker.behave = json_answer(b"{}")
        path, kind = "/v1/audio/transcriptions", [("content-type", FORM)]
        assert (await under_test.post(path, form("tiny"), kind)).status == 200
        assert (await under_test.post(path, form("t" * 9000), kind)).status == 413
        assert (await under_test.post("/v1/chat/completions", b"x" * 5000)).status == 413
        pieces = [form("tiny")[at : at + 999] for at in range(0, len(form("tiny")), 999)]
        async with under_test.connect() as client:
            client.send(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-type: %b\r\n" % (path.encode(), FORM.encode()))
            client.send(b"transfer-encoding: chunked\r\n\r\n" + b"".join(map(chunk, pieces)) + LAST_CHUNK)
            assert under_test.books.note(await client.receive()).status == 200


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (form("tiny")[:-9], FORM, "invalid_form"), (form(""), FORM, "invalid_form"),
        (form("tiny"), "multipart/form-data; boundary=other", "invalid_form"),
        (b"{}", "multipart/mixed; boundary=x", "unsupported_media_type"),
    ],
)  # fmt: skip
@story
async def test_a_broken_upload_is_refused(body: bytes, kind: str, code: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post("/v1/audio/transcriptions", body, [("content-type", kind)])
        assert (answer.json()["error"]["code"], worker.requests) == (code, [])


@story
async def test_parts_are_not_taken_where_no_files_are_sent(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        answer = await under_test.post("/v1/chat/completions", form("tiny"), [("content-type", FORM)])
        assert (answer.status, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


LINES = [
    b'{"model":"tiny","created_at":"x","message":{"role":"assistant","content":""},"done":false}\n',
    b'{"model":"tiny","created_at":"x","message":{"role":"assistant","content":"Hi"},"done":false}\n',
    b'{"model":"tiny","created_at":"x","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
    b'"total_duration":5,"prompt_eval_count":11,"eval_count":2}\n',
]
NDJSON = ("content-type", "application/x-ndjson")
ASKED = {"model": "tiny:latest", "messages": [{"role": "user", "content": "hi"}]}


@story
async def test_ollamas_lines_pass_as_they_come_from_a_worker_that_speaks_it(tmp_path: Path) -> None:
    async with FaultWorker() as other, FaultWorker(models=["tiny:latest"]) as worker, router(tmp_path, other, worker) as under_test:
        speaks(under_test, worker, "openai", "ollama")
        worker.behave = raw_answer(head(200, NDJSON, CHUNKED), *map(chunk, LINES), LAST_CHUNK)
        for name in ("tiny:latest", "tiny"):
            answer = await under_test.post("/api/chat", {**ASKED, "model": name})
            assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"".join(LINES), NDJSON[1])
        line = (await under_test.wait_requests(2))[0]
        assert (line["worker"], line["tokens_in"], line["tokens_out"]) == (worker.name, 11, 2)
        assert json.loads(worker.requests[0].body) == ASKED and other.requests == []


@story
async def test_errors_are_told_in_the_words_of_whoever_asks(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        missing = await under_test.post("/api/chat", ASKED)
        assert missing.status == 404 and missing.json().keys() == {"error"} and "not found" in missing.json()["error"]
        broken = await under_test.post("/api/generate", b"{")
        assert broken.status == 400 and "not valid JSON" in broken.json()["error"]
        claude = await under_test.post("/v1/messages", {"model": "none", "max_tokens": 1, "messages": []})
        assert (claude.status, claude.json()["type"], claude.json()["error"]["type"]) == (404, "error", "not_found_error")
        async with under_test.connect() as client:
            for method, path, status, shape in (
                ("GET", "/api/chat", 405, "ollama"), ("POST", "/api/pull", 404, "ollama"), ("DELETE", "/api/delete", 404, "ollama"),
                ("GET", "/v1/messages", 405, "anthropic"), ("GET", "/v1/messages/batches", 404, "anthropic"),
                ("GET", "/v1/files", 404, "openai"),
            ):  # fmt: skip
                client.send_request(method, path)
                answer = await client.receive()
                assert (answer.status, in_words_of(answer.json())) == (status, shape)


def in_words_of(body: Any) -> str:
    if body.get("type") == "error":
        return "anthropic"
    return "ollama" if isinstance(body["error"], str) else "openai"


@pytest.mark.parametrize(("path", "shape"), [("/api/chat", "ollama"), ("/v1/messages", "anthropic"), ("/v1/embeddings", "openai")])
@story
async def test_what_is_refused_before_it_is_whole_is_refused_in_the_same_words(path: str, shape: str, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker, limits={"request_body_bytes": 100}) as under_test:
        for request, status in (
            (f"POST {path}?x=1 HTTP/1.1\r\nhost: x\r\ncontent-length: 101\r\n\r\n", 413),
            (f"POST {path} HTTP/1.1\r\nhost: x\r\n" + "a: b\r\n" * 300 + "\r\n", 431),
            (f"POST {path} HTTP/1.1\r\ncontent-length: 2\r\n\r\n{{}}", 400),
        ):
            async with under_test.connect() as client:
                client.send(request.encode())
                answer = await client.receive()
                assert (answer.status, in_words_of(answer.json())) == (status, shape)


@story
async def test_anthropics_requests_pass_as_they_came_to_a_worker_that_speaks_it(tmp_path: Path) -> None:
    said = b'{"id":"msg_1","type":"message","role":"assistant","content":[],"usage":{"input_tokens":7,"output_tokens":3}}'
    asked = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    sent = [("x-api-key", "secret"), ("anthropic-version", "2023-06-01"), ("anthropic-beta", "b")]
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai", "anthropic")
        worker.behave = json_answer(said)
        answer = await under_test.post("/v1/messages", asked, sent)
        assert (answer.status, answer.body) == (200, said)
        (request,) = worker.requests
        assert (json.loads(request.body), request.header("anthropic-version")) == (asked, b"2023-06-01")
        assert (request.header("anthropic-beta"), request.header("x-api-key")) == (b"b", None)
        line = await under_test.wait_request()
        assert (line["tokens_in"], line["tokens_out"]) == (7, 3)


@story
async def test_a_query_of_data_needs_no_model_and_its_answer_may_be_anything(tmp_path: Path) -> None:
    async with FaultWorker() as other, FaultWorker(models=[]) as tables, router(tmp_path, other, tables) as under_test:
        speaks(under_test, tables, "data")
        tables.behave = raw_answer(head(200, ("content-type", "text/csv"), ("content-length", "4")) + b"a,b\n")
        answer = await under_test.post("/api/v1/data/query", {"sql": "select 1"})
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b"a,b\n", "text/csv")
        assert ([request.body for request in tables.requests], other.requests) == ([b'{"sql": "select 1"}'], [])
        line = await under_test.wait_request()
        assert (line["model"], line["path"]) == ("data", "/api/v1/data/query")


@pytest.mark.parametrize("close", [False, True])
@story
async def test_a_stream_of_data_may_be_of_any_shape(close: bool, tmp_path: Path) -> None:
    events = b'event: row\ndata: {"error":"of the sensor"}\n\ndata: last\n\n'
    async with FaultWorker(models=[]) as tables, router(tmp_path, tables) as under_test:
        speaks(under_test, tables, "data")
        sse = ("content-type", "text/event-stream")
        tables.behave = raw_answer(head(200, sse), events, close=True) if close else stream_answer([events[:40], events[40:]])
        answer = await under_test.post("/api/v1/data/query", {"stream": True})
        assert (answer.status, answer.body, answer.complete) == (200, events, True)
        assert (await under_test.wait_request())["outcome"] == "ok"


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/v1/images/generations", "/api/v1/data/query"])
@story
async def test_where_a_stream_is_asked_for_and_none_comes_the_answer_is_waited_for(path: str, tmp_path: Path) -> None:
    """whisper, for one, ignores `stream`."""

    async def late(connection: Connection, request: Request) -> None:
        await asyncio.sleep(0.3)
        await json_answer(b'{"text":"hello"}')(connection, request)

    async with FaultWorker() as worker, router(tmp_path, worker, limits={"comment_s": 0.05}) as under_test:
        speaks(under_test, worker, "openai", "data")
        worker.behave = late
        answer = await under_test.post(path, {"model": "tiny", "stream": True})
        assert (answer.status, answer.body) == (200, b'{"text":"hello"}')
        assert (await under_test.wait_request())["stream"]


CHUNK = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"tiny","choices":[%b]%b}\n\n'
SAID = [
    CHUNK % (b'{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}', b""),
    CHUNK % (b'{"index":0,"delta":{"content":"Hi"},"finish_reason":null}', b""),
    CHUNK % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b""),
    CHUNK % (b"", b',"usage":{"prompt_tokens":9,"completion_tokens":2}'), b"data: [DONE]\n\n",
]  # fmt: skip
MESSAGE = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


@story
async def test_anthropics_requests_are_translated_for_a_worker_that_speaks_only_openais(tmp_path: Path) -> None:
    whole = (
        b'{"id":"chatcmpl-1","model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},'
        b'"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}'
    )
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai")
        worker.behave = json_answer(whole)
        answer = await under_test.post("/v1/messages", MESSAGE)
        assert (answer.status, answer.json()["content"]) == (200, [{"type": "text", "text": "Hi"}])
        assert worker.requests[0].path == "/v1/chat/completions"
        counted = await under_test.post("/v1/messages/count_tokens", MESSAGE)
        assert (counted.status, counted.json()) == (200, {"input_tokens": 9})
        worker.behave = stream_answer(SAID)
        streamed = await under_test.post("/v1/messages", {**MESSAGE, "stream": True})
        assert (streamed.status, streamed.headers["content-type"]) == (200, "text/event-stream")
        assert [event.name for event in streamed.events()] == [
            "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
            "message_stop",
        ]  # fmt: skip
        worker.behave = json_answer(b'{"object":"error","message":"too long","code":400}', status=400)
        refused = await under_test.post("/v1/messages", MESSAGE)
        told = {"type": "error", "error": {"type": "invalid_request_error", "message": "too long"}}
        assert (refused.status, refused.json()) == (400, told)
        lines = await under_test.wait_requests(4)
        assert [(line.get("tokens_in"), line.get("tokens_out")) for line in lines[:3:2]] == [(9, 2), (9, 2)]


@story
async def test_what_cannot_be_translated_is_refused_without_blame(tmp_path: Path) -> None:
    asked = {**MESSAGE, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai")
        answer = await under_test.post("/v1/messages", asked)
        assert (answer.status, answer.json()["error"]["type"], worker.requests) == (400, "invalid_request_error", [])
        assert under_test.worker(worker).failed == 0
