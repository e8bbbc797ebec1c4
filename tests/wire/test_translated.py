"""Requests that are translated for one worker and go to another as they came, and answers that cannot be translated.

Run by pytest, with the router in the test's loop.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.aio import story
from tests.support.behaviours import CHUNKED, LAST_CHUNK, SSE_TYPE, Behaviour, chunk, head
from tests.support.fault_worker import FaultWorker
from tests.wire.answers import json_answer, raw_answer, stream_answer
from tests.wire.router import router
from tests.wire.test_surfaces import MESSAGE, SAID, speaks

WHOLE = {
    "id": "chatcmpl-1", "model": "tiny", "usage": {"prompt_tokens": 9, "completion_tokens": 2},
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
}  # fmt: skip
TRANSLATED = json_answer(json.dumps(WHOLE).encode())
OWN = json_answer(json.dumps({
    "id": "msg_1", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn", "usage": {"input_tokens": 9, "output_tokens": 2},
}).encode())  # fmt: skip


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


OPENING = event("message_start", message={"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "m",
                                          "usage": {"input_tokens": 4, "cache_read_input_tokens": 5, "output_tokens": 1}})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
WORD = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"})
CLOSING = (
    event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 2})
    + event("message_stop")
)
OWN_STREAM = [OPENING, BLOCK, WORD, CLOSING]
STREAMED = {**MESSAGE, "stream": True}


def broken_stream(*pieces: bytes) -> Behaviour:
    return raw_answer(head(200, SSE_TYPE, CHUNKED), *map(chunk, pieces), close=True)


def text_of(answer: Any) -> str:
    return "".join(json.loads(e.data)["delta"]["text"] for e in answer.events() if e.name == "content_block_delta")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("failing", ["own", "plain"])
@story
async def test_a_request_goes_on_at_a_worker_of_the_other_protocol(failing: str, stream: bool, tmp_path: Path) -> None:
    async with FaultWorker() as own, FaultWorker() as plain, router(tmp_path, own, plain) as under_test:
        speaks(under_test, own, "openai", "anthropic")
        speaks(under_test, plain, "openai")
        good = {"own": stream_answer(OWN_STREAM) if stream else OWN, "plain": stream_answer(SAID) if stream else TRANSLATED}
        faults = [
            json_answer(b'{"error":{"message":"broken"}}', status=500),
            json_answer(b'{"type":"error","error":{"type":"overloaded_error","message":"full"}}', ("retry-after", "0"), status=529),
            raw_answer(b"", close=True),
            broken_stream(*(OWN_STREAM[:2] if failing == "own" else SAID[:1])) if stream else raw_answer(head(200, CHUNKED) + chunk(b"{"), close=True),
            stream_answer([b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"x"}}\n\n'] if failing == "own" else [b'data: {"error":{"message":"x"}}\n\n']) if stream else json_answer(b"<html>", status=502),
        ]
        bad, fine = (own, plain) if failing == "own" else (plain, own)
        fine.behave = good["plain" if failing == "own" else "own"]
        asked = 0
        for fault in faults:
            bad.behave = fault
            for _ in range(2):
                answer = await under_test.post("/v1/messages", {**MESSAGE, "stream": stream})
                asked += 1
                assert answer.status == 200, (fault, answer)
                assert (text_of(answer) if stream else answer.json()["content"][0]["text"]) == "Hi"
        lines = await under_test.wait_requests(asked)
        assert {(line["tokens_in"], line["tokens_out"]) for line in lines} == {(9, 2)}
        assert any(line["attempts"] == 2 for line in lines)


@pytest.mark.parametrize(
    "fault",
    [
        json_answer(b'{"choices":[]}'), json_answer(b"not json"), json_answer(b"[1]"), json_answer(b'{"choices":[{"message":5}]}'),
        raw_answer(head(200, ("content-type", "text/html"), ("content-length", "6")) + b"<html>"),
    ],
)  # fmt: skip
@story
async def test_an_answer_that_is_no_completion_is_no_success(fault: Behaviour, tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai")
        worker.behave = fault
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            answer = await under_test.post(path, MESSAGE)
            assert (answer.status, answer.json()["error"]["type"]) == (502, "api_error")
        lines = await under_test.wait_requests(2)
        assert [(line["outcome"], line["error"]) for line in lines] == [("upstream_failed", "upstream_protocol_error")] * 2


@story
async def test_a_count_needs_a_worker_that_counts(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai")
        worker.behave = json_answer(b'{"choices":[{"message":{"content":"x"}}],"usage":5}')
        assert (await under_test.post("/v1/messages/count_tokens", MESSAGE)).status == 502


@story
async def test_odd_parts_of_an_answer_do_no_harm(tmp_path: Path) -> None:
    odd = b'{"choices":[{"message":{"content":"Hi","tool_calls":["x",{"function":3}]},"finish_reason":{}}],"usage":"x"}'
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai")
        worker.behave = json_answer(odd)
        answer = await under_test.post("/v1/messages", MESSAGE)
        assert (answer.status, answer.json()["content"][0]) == (200, {"type": "text", "text": "Hi"})


@story
async def test_a_translated_error_is_json_whatever_the_workers_was(tmp_path: Path) -> None:
    text = ("content-type", "text/plain")
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai")
        for status, body in ((400, b"bad"), (500, b'{"error":"bad"}')):
            worker.behave = raw_answer(head(status, text, ("content-length", str(len(body)))) + body)
            answer = await under_test.post("/v1/messages", MESSAGE)
            assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
            assert answer.json()["error"]["message"] == "bad"


OOM = b'data: {"error":{"message":"oom"}}\n\n'


@pytest.mark.parametrize(
    ("protocols", "path", "pieces"),
    [
        (("openai",), "/v1/messages", [*SAID[:2], OOM, b"data: [DONE]\n\n"]),
        (("openai",), "/v1/messages", [*SAID[:2], b"data: garbage\n\n", *SAID[2:]]),
        (("openai", "anthropic"), "/v1/messages", [*OWN_STREAM[:3], event("error", error={"type": "api_error", "message": "oom"})]),
        (("openai",), "/v1/chat/completions", [*SAID[:2], OOM, b"data: [DONE]\n\n"]),
    ],
    ids=["translated", "garbage", "anthropic", "openai"],
)
@story
async def test_a_stream_that_ends_with_the_workers_error_is_cut_and_no_success(
    protocols: tuple[str, ...], path: str, pieces: list[bytes], tmp_path: Path
) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, *protocols)
        worker.behave = raw_answer(head(200, SSE_TYPE, CHUNKED), chunk(pieces[0]), *(map(chunk, pieces[1:])), LAST_CHUNK)
        answer = await under_test.post(path, STREAMED)
        assert (answer.status, answer.complete) == (200, False)
        assert sum(b'"error"' in one.data.encode() for one in answer.events()) == 1
        line = await under_test.wait_request()
        assert (line["outcome"], line["error"]) == ("upstream_failed", "upstream_error_event")


@story
async def test_an_error_that_is_the_clients_fault_is_not_held_against_the_worker(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai")
        worker.behave = stream_answer([*SAID[:2], b'data: {"error":{"message":"too long","code":400}}\n\n', b"data: [DONE]\n\n"])
        for path in ("/v1/chat/completions", "/v1/messages"):
            answer = await under_test.post(path, STREAMED)
            assert b"too long" in answer.body
        assert [line["outcome"] for line in await under_test.wait_requests(2)] == ["ok", "ok"]


SEARCHING = {**MESSAGE, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}


@story
async def test_what_has_no_words_in_one_protocol_goes_to_a_worker_of_its_own(tmp_path: Path) -> None:
    async with FaultWorker() as own, FaultWorker() as plain, router(tmp_path, plain, own) as under_test:
        speaks(under_test, own, "openai", "anthropic")
        speaks(under_test, plain, "openai")
        own.behave = OWN
        for _ in range(4):
            assert (await under_test.post("/v1/messages", SEARCHING)).status == 200
        assert ([line["outcome"] for line in await under_test.wait_requests(4)], plain.requests) == (["ok"] * 4, [])
        assert under_test.worker(plain).failed == 0


@story
async def test_what_no_worker_has_words_for_is_rejected(tmp_path: Path) -> None:
    async with FaultWorker() as one, FaultWorker() as other, router(tmp_path, one, other) as under_test:
        for worker in (one, other):
            speaks(under_test, worker, "openai")
        answer = await under_test.post("/v1/messages", SEARCHING)
        assert (answer.status, "web_search_20250305" in answer.json()["error"]["message"]) == (400, True)
        line = await under_test.wait_request()
        assert (line["outcome"], line["error"], one.requests, other.requests) == ("rejected", "invalid_json", [], [])


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}', "invalid_request_error", "too long"),
        (500, b'{"error":{"code":500,"message":"no image","type":"server_error"}}', "api_error", "no image"),
        (413, b"<html>too large</html>", "request_too_large", "<html>too large</html>"),
        (400, b'{"type":"error","error":{"type":"own_error","message":"own","more":1}}', "own_error", "own"),
    ],
)  # fmt: skip
@story
async def test_an_error_of_a_worker_that_speaks_the_protocol_has_its_shape_too(
    status: int, body: bytes, kind: str, message: str, tmp_path: Path
) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai", "anthropic")
        worker.behave = raw_answer(head(status, ("content-type", "text/html"), ("content-length", str(len(body)))) + body)
        answer = await under_test.post("/v1/messages", MESSAGE)
        assert (answer.status, answer.headers["content-type"], answer.json()["type"]) == (status, "application/json", "error")
        assert (answer.json()["error"]["type"], answer.json()["error"]["message"]) == (kind, message)
        assert answer.json()["error"].get("more") == (1 if kind == "own_error" else None)


@story
async def test_ollamas_clients_get_errors_as_texts(tmp_path: Path) -> None:
    async with FaultWorker() as worker, router(tmp_path, worker) as under_test:
        speaks(under_test, worker, "openai", "ollama")
        for body, told in ((b'{"error":{"message":"bad"}}', "bad"), (b"bad", "bad"), (b'{"error":"own"}', "own")):
            worker.behave = json_answer(body, status=400)
            answer = await under_test.post("/api/chat", MESSAGE)
            assert (answer.status, answer.json()) == (400, {"error": told})
