"""Tests of the engines on people's own machines.

llama.cpp's answers are recorded (October 2026). Ollama (0.13), LM Studio (0.4 and 0.3.6) and mlx-lm (0.32) are written after
their documentation.
"""

from __future__ import annotations

from rbeerouter.dialects.engines import desktop
from rbeerouter.dialects.engines.spec import read_models
from tests.dialects.engines import answer


def test_llama_cpp_tells_model_slots_load_and_start() -> None:
    assert desktop.read_llamacpp_models(answer("/v1/models", "llamacpp_models.json")) == {
        "reachable": True, "models": ("tiny",),
    }  # fmt: skip
    assert desktop.read_llamacpp_props(answer("/props", "llamacpp_props.json")) == {"slots": 2}
    facts = desktop.read_llamacpp_metrics(
        answer("/metrics", "llamacpp_metrics.txt", process_start_time_unix="1795728367")
    )
    assert facts == {
        "running": 0, "waiting": 0, "kv_usage": None, "generated_tokens": 8.0, "prompt_tokens": 9.0,
        "cached_tokens": 0.0, "started_at": 1795728367.0,
    }  # fmt: skip


def test_llama_cpp_without_metrics_tells_its_slots() -> None:
    assert desktop.read_llamacpp_slots(answer("/slots", "llamacpp_slots.json")) == {"slots": 2, "running": 0}
    busy = answer("/slots", body=b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false}]')
    assert desktop.read_llamacpp_slots(busy) == {"slots": 2, "running": 1}


def test_llama_cpp_with_many_models_tells_which_are_loaded() -> None:
    body = (
        b'{"data":[{"id":"a","owned_by":"llamacpp","status":{"value":"loaded"}},'
        b'{"id":"b","owned_by":"llamacpp","status":{"value":"unloaded"}}],"object":"list"}'
    )
    assert desktop.read_llamacpp_models(answer("/v1/models", body=body)) == {
        "reachable": True, "models": ("a", "b"), "loaded": ("a",),
    }  # fmt: skip
    asleep = answer("/props", body=b'{"total_slots":4,"is_sleeping":true}')
    assert desktop.read_llamacpp_props(asleep) == {"slots": 4, "loaded": ()}


def test_ollama_tells_what_it_has_and_what_is_in_memory() -> None:
    assert desktop.read_ollama_tags(answer("/api/tags", "ollama_tags.json")) == {
        "models": ("llama3.2:latest", "qwen3:8b"),
    }  # fmt: skip
    assert desktop.read_ollama_ps(answer("/api/ps", "ollama_ps.json")) == {"loaded": ("qwen3:8b",), "vram_used": 5.0}
    assert desktop.read_ollama_ps(answer("/api/ps", body=b'{"models":[]}')) == {"loaded": (), "vram_used": 0.0}


def test_lm_studio_tells_what_it_has_and_what_is_loaded() -> None:
    """An instance that was loaded under a name of its own is asked for by that name."""
    embedding = "text-embedding-nomic-embed-text-v1.5-embedding"
    assert desktop.read_lmstudio_models(answer("/api/v1/models", "lmstudio_models.json")) == {
        "reachable": True, "models": ("gemma-3-270m-it-qat", embedding, "gemma-fast"),
        "loaded": ("gemma-3-270m-it-qat", "gemma-fast"),
    }  # fmt: skip
    assert desktop.read_lmstudio_old_models(answer("/api/v0/models", "lmstudio_old_models.json")) == {
        "reachable": True, "models": ("qwen2-vl-7b-instruct", "meta-llama-3.1-8b-instruct"),
        "loaded": ("meta-llama-3.1-8b-instruct",),
    }  # fmt: skip


def test_mlx_tells_its_models() -> None:
    assert read_models(answer("/v1/models", "mlx_models.json"))["models"] == ("mlx-community/Llama-3.2-3B-Instruct-4bit",)


def test_an_ollama_or_lm_studio_without_any_model_cannot_be_used() -> None:
    for body in (b'{"models":null}', b'{"models":[]}'):
        assert desktop.read_ollama_tags(answer("/api/tags", body=body))["reachable"] is False
    assert desktop.read_lmstudio_models(answer("/api/v1/models", body=b'{"models":[]}'))["reachable"] is False
    assert "reachable" not in desktop.read_ollama_tags(answer("/api/tags", body=b"{}"))
