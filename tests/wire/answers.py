"""Answers that tests of the data plane have their workers give: whatever bytes they name, in whatever pieces.

Called by tests/wire. A fault worker's own table has the usual ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tests.support.behaviours import CHUNKED, JSON_TYPE, LAST_CHUNK, SSE_TYPE, Behaviour, Header, chunk, head
from tests.support.fault_worker import Connection, Request

CHAT = "/v1/chat/completions"
PROMPT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}]}
STREAMED = {**PROMPT, "stream": True}


def raw_answer(*parts: bytes, close: bool = False) -> Behaviour:
    """These bytes, each part in a write of its own."""

    async def answer(connection: Connection, request: Request) -> None:
        for part in parts:
            await connection.write(part)
            await asyncio.sleep(0)
        if close:
            connection.close()

    return answer


def json_answer(body: bytes, *headers: Header, status: int = 200) -> Behaviour:
    return raw_answer(head(status, JSON_TYPE, ("content-length", str(len(body))), *headers) + body)


def stream_answer(parts: Iterable[bytes], *headers: Header) -> Behaviour:
    """An event stream whose chunks are these."""
    return raw_answer(head(200, SSE_TYPE, CHUNKED, *headers), *map(chunk, parts), LAST_CHUNK)


def error_shape(answer_body: object) -> tuple[str, str, str | None]:
    """(type, code, param) of an error object, which must have a message and nothing else."""
    assert isinstance(answer_body, dict)
    assert answer_body.keys() == {"error"}
    error = answer_body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    return error["type"], error["code"], error["param"]
