"""Tests of finding out which engine a worker runs."""

from __future__ import annotations

import pytest

from rbeerouter.dialects.engines import ENGINES
from rbeerouter.dialects.engines.detect import STEPS, UNRECOGNISED, of_url, recognise
from tests.dialects.engines import answer

JSON = {"content_type": "application/json"}


@pytest.mark.parametrize(
    ("path", "payload", "engine"),
    [
        ("/v1/models", "vllm_models.json", "vllm"), ("/metrics", "vllm_metrics.txt", "vllm"),
        ("/v1/models", "sglang_models.json", "sglang"), ("/metrics", "sglang_metrics.txt", "sglang"),
        ("/v1/models", "llamacpp_models.json", "llamacpp"), ("/metrics", "llamacpp_metrics.txt", "llamacpp"),
        ("/props", "llamacpp_props.json", "llamacpp"),
        ("/v1/models", "ollama_models.json", "ollama"), ("/api/version", "ollama_version.json", "ollama"),
        ("/v1/models", "tgi_models.json", "tgi"), ("/metrics", "tgi_metrics.txt", "tgi"),
        ("/info", "tgi_info.json", "tgi"),
        ("/v1/models", "trtllm_models.json", "trtllm"), ("/metrics", "trtllm_metrics.txt", "trtllm"),
        ("/v1/models", "lmdeploy_models.json", "lmdeploy"), ("/metrics", "lmdeploy_metrics.txt", "lmdeploy"),
        ("/api/v0/models", "lmstudio_old_models.json", "lmstudio"),
        ("/sdapi/v1/options", "sdwebui_options.json", "sdwebui"),
    ],
)  # fmt: skip
def test_an_engine_is_known_by_its_own_pages(path: str, payload: str, engine: str) -> None:
    assert recognise(answer(path, payload)) == engine


def test_engines_are_known_by_smaller_signs_too() -> None:
    assert recognise(answer("/v1/models", "mlx_models.json", server="BaseHTTP/0.6 Python/3.12.1")) == "mlx"
    assert recognise(answer("/anything", status=404, server="llama.cpp")) == "llamacpp"
    closed = b'{"error":{"code":501,"message":"This server does not support metrics endpoint. Start it with `--metrics`"}}'
    assert recognise(answer("/metrics", status=501, body=closed)) == "llamacpp"
    assert recognise(answer("/metrics", body=b'[{"iter": 1}]', **JSON)) == "trtllm"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b"hello", b'{"data": []}', b'{"data":[{"id":"m","owned_by":"me"}]}', b"\xff"]
)
def test_what_gives_nothing_away_is_not_recognised(step: str, body: bytes) -> None:
    for status in (200, 401, 404, 500):
        assert recognise(answer(step, status=status, body=body)) is None
    assert UNRECOGNISED in ENGINES


def test_an_answer_on_ollama_s_path_does_not_prove_ollama() -> None:
    """SGLang answers /api/tags as well."""
    assert recognise(answer("/api/tags", "ollama_tags.json")) is None
    assert recognise(answer("/api/version", body=b'{"version":"1","name":"something else"}')) is None


def test_names_in_the_middle_of_a_page_decide_nothing() -> None:
    assert recognise(answer("/metrics", body=b'# about vllm:x\nproxied_vllm:x 1\nmy_total{of="tgi_x"} 1\n')) is None


def test_the_cloud_is_known_by_its_name_and_nothing_is_asked() -> None:
    assert of_url("https://api.openai.com") == "openai-cloud"
    assert of_url("https://api.anthropic.com") == "anthropic"
    assert of_url("https://api.x.ai") == "xai"
    assert of_url("http://127.0.0.1:8000") is None
    assert of_url("https://api.openai.com.evil.test") is None
