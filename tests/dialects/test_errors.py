"""Tests of what failed answers of engines mean."""

from __future__ import annotations

import pytest

from rbeerouter.dialects.engines.errors import meaning

BUSY = b'{"error":{"message":"The engine is currently busy. Please retry, or ask a different instance","code":503}}'
LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
NO_MODEL = b'{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","param":"model","code":404}}'
PARSE = b'{"error":{"code":500,"message":"[json.exception.parse_error.101] parse error at line 1","type":"server_error"}}'


@pytest.mark.parametrize(
    ("engine", "status", "body", "expected"),
    [
        pytest.param("vllm", 503, BUSY, "full", id="vllm full"),
        pytest.param("vllm", 404, NO_MODEL, "missing", id="vllm has no such model"),
        pytest.param("vllm", 404, b'{"detail":"Not Found"}', "refused", id="vllm has no such path"),
        pytest.param("vllm", 400, b'{"error":{"message":"too long"}}', "refused", id="context too long"),
        pytest.param("vllm", 401, b'{"error":"Unauthorized"}', "unauthorized", id="key refused"),
        pytest.param("vllm", 500, b'{"error":{"message":"EngineCore encountered an issue"}}', "broken", id="dead engine"),
        pytest.param("sglang", 503, b'{"object":"error","message":"The request queue is full.","code":503}', "full",
                     id="sglang full"),
        pytest.param("sglang", 503, b'{"object":"error","message":"Server is starting"}', "loading", id="sglang starts"),
        pytest.param("llamacpp", 503, LOADING, "loading", id="llama.cpp loads"),
        pytest.param("llamacpp", 503, b'{"error":{"message":"no slot available"}}', "full", id="llama.cpp full"),
        pytest.param("llamacpp", 500, PARSE, "refused", id="llama.cpp answers 500 to bad JSON"),
        pytest.param("vllm", 500, PARSE, "broken", id="others do not"),
        pytest.param("llamacpp", 500, b'{"error":{"message":"Compute error."}}', "broken", id="llama.cpp broken"),
        pytest.param("ollama", 503, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}',
                     "full", id="ollama full"),
        pytest.param("ollama", 404, b'{"error":"model \'x\' not found"}', "missing", id="ollama has no such model"),
        pytest.param("ollama", 499, b'', "refused", id="ollama's word for a client that left"),
        pytest.param("tgi", 429, b'{"error":"Model is overloaded","error_type":"overloaded"}', "full", id="tgi full"),
        pytest.param("tgi", 424, b'{"error":"Request failed during generation","error_type":"generation"}', "broken",
                     id="tgi broken"),
        pytest.param("tgi", 422, b'{"error":"inputs must have less","error_type":"validation"}', "refused", id="tgi 422"),
        pytest.param("anthropic", 529, b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
                     "full", id="anthropic overloaded"),
        pytest.param("openai-cloud", 429, b'{"error":{"message":"Rate limit reached"}}', "full", id="rate limit"),
        pytest.param("openai", 503, b"<html>Service Unavailable</html>", "broken", id="a proxy without a backend"),
        pytest.param("openai", 503, b"", "broken", id="nothing said"),
        pytest.param("openai", 503, BUSY, "full", id="busy in words"),
        pytest.param("openai", 502, b"\xff\xfe", "broken", id="not text"),
        pytest.param("openai", 500, b"[" * 100_000, "broken", id="too deep"),
        pytest.param("openai", 408, b"", "broken", id="it gave up waiting"),
        pytest.param("openai", 413, b"", "refused", id="too large"),
        pytest.param("openai", 422, b'{"detail":[{"msg":"field required"}]}', "refused", id="fastapi"),
    ],
)  # fmt: skip
def test_a_failed_answer_says_whose_fault_it_is(engine: str, status: int, body: bytes, expected: str) -> None:
    assert meaning(engine, status, body) == expected
