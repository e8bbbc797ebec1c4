"""Tests of plain OpenAI-compatible servers, the cloud, Stable Diffusion WebUI and data workers.

All payloads are written after documentation and source.
"""

from __future__ import annotations

import pytest

from rbeerouter.dialects.engines import ENGINES, others
from tests.dialects.engines import answer


@pytest.mark.parametrize(
    ("engine", "model"),
    [("openai-cloud", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5-20250929"), ("xai", "grok-3-mini")],
)
def test_the_cloud_lists_its_models_and_is_asked_seldom(engine: str, model: str) -> None:
    spec = ENGINES[engine]
    facts = spec.pages[0].read(answer("/v1/models", f"{engine}_models.json"))
    assert (facts["reachable"], facts["models"][0]) == (True, model)
    assert spec.remote
    assert spec.least_interval_s >= 60


def test_a_key_that_the_cloud_refuses_is_told() -> None:
    """401: the key is no good. 403: it may be good for requests. 429: it is, but not now."""
    refused = others.read_cloud_models(answer("/v1/models", status=401))
    assert refused == {"reachable": False, "problem": "its api_key was refused: GET /v1/models answered 401"}
    limited = others.read_cloud_models(answer("/v1/models", status=403))
    assert limited["reachable"]
    assert limited["problem"].startswith("its api_key was refused: GET /v1/models answered 403")
    assert others.read_cloud_models(answer("/v1/models", status=429)) == {"reachable": True}


def test_each_engine_gets_its_key_as_it_wants_it() -> None:
    assert ENGINES["vllm"].key_headers("k") == {"authorization": "Bearer k"}
    assert ENGINES["anthropic"].key_headers("k") == {"x-api-key": "k", "anthropic-version": "2023-06-01"}


def test_stable_diffusion_tells_checkpoints_memory_and_whether_it_draws() -> None:
    assert others.read_sd_models(answer("/sdapi/v1/sd-models", "sdwebui_models.json")) == {
        "reachable": True, "models": ("v1-5-pruned-emaonly", "juggernautXL"),
    }  # fmt: skip
    assert others.read_sd_options(answer("/sdapi/v1/options", "sdwebui_options.json")) == {"loaded": ("juggernautXL",)}
    assert others.read_sd_progress(answer("/sdapi/v1/progress", "sdwebui_progress.json")) == {"running": 1}
    idle = answer("/sdapi/v1/progress", body=b'{"progress":0,"state":{"job":"","job_count":0}}')
    assert others.read_sd_progress(idle) == {"running": 0}
    assert others.read_sd_memory(answer("/sdapi/v1/memory", "sdwebui_memory.json")) == {"vram_used": 8.0, "vram": 24.0}


def test_a_data_worker_has_no_models_and_two_places_for_its_health() -> None:
    page = ENGINES["data"].pages[0]
    assert page.path == "/health"
    assert page.otherwise is not None
    assert page.otherwise.path == "/"
    assert page.read(answer("/health", body=b"fine")) == {"reachable": True}
