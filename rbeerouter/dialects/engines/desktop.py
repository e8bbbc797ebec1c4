"""Engines that people run on their own machines: llama.cpp, Ollama, LM Studio, mlx-lm.

Read by `engines.ENGINES`. Most of them hold more models on disk than in memory, and load one when it is asked for,
which takes tens of seconds: so `loaded` matters more here than anything else.
"""

from __future__ import annotations

from rbeerouter.core.types import ANTHROPIC, OLLAMA, OPENAI
from rbeerouter.dialects.engines.prometheus import Metrics, count, share
from rbeerouter.dialects.engines.spec import (
    GIB,
    Answer,
    EngineSpec,
    Facts,
    Page,
    cards,
    decode,
    entries,
    field,
    number,
    read_health,
    read_models,
    text,
)  # fmt: skip

_NO_MODELS: Facts = {"reachable": False, "problem": "it has no models yet"}
"""A worker that lists nothing may serve anything, elsewhere; these can serve nothing before they have got a model."""


def read_llamacpp_models(answer: Answer) -> Facts:
    """GET /v1/models. Started without a model it is a router itself, and says of each model whether it is loaded."""
    facts = read_models(answer)
    states = {card.id: text(field(card.status, "value")) for card in cards(answer) or ()}
    if any(states.values()):
        facts["loaded"] = tuple(model for model, state in states.items() if state == "loaded")
    return facts


def read_llamacpp_props(answer: Answer) -> Facts:
    """GET /props: how many slots it has, and whether it has put its model away."""
    told = decode(answer.body) if answer.status == 200 else None
    slots = count(number(field(told, "total_slots")))
    return {"slots": slots or None, **({"loaded": ()} if field(told, "is_sleeping") is True else {})}


def read_llamacpp_metrics(answer: Answer) -> Facts:
    """GET /metrics, which it has with --metrics.

    Its gauges of tokens per second are averages since anybody read the page, so nothing can be learned of them.
    """
    if answer.status != 200:
        return {}
    page = Metrics(answer.body)
    started = answer.headers.get("process-start-time-unix", "")
    return {
        "running": count(page.total("llamacpp:requests_processing")),
        "waiting": count(page.total("llamacpp:requests_deferred")),
        "kv_usage": share(page.mean("llamacpp:kv_cache_usage_ratio")),
        "generated_tokens": page.total("llamacpp:tokens_predicted_total"),
        "prompt_tokens": page.total("llamacpp:prompt_tokens_total"),
        "cached_tokens": page.total("llamacpp:prompt_tokens_cached_total"),
        "started_at": float(started) if started.isdecimal() and len(started) < 16 else None,
    }


def read_llamacpp_slots(answer: Answer) -> Facts:
    """GET /slots, which it has unless told otherwise. It does not count those that wait."""
    told = entries(decode(answer.body)) if answer.status == 200 else []
    if not told:
        return {}
    return {"slots": len(told), "running": sum(slot.get("is_processing") is True for slot in told)}


def read_ollama_tags(answer: Answer) -> Facts:
    """GET /api/tags: the models on its disk."""
    page = decode(answer.body) if answer.status == 200 else None
    told = field(page, "models")
    if isinstance(page, dict) and "models" in page and not told:
        return _NO_MODELS
    if not isinstance(told, list):
        return {"problem": f"GET {answer.path} answered no list of models"}
    names = (text(one.get("name")) or text(one.get("model")) for one in entries(told))
    return {"models": tuple(name for name in names if name)}


def read_ollama_ps(answer: Answer) -> Facts:
    """GET /api/ps: the models in memory, and how much of the GPU's they take."""
    told = field(decode(answer.body), "models") if answer.status == 200 else None
    if not isinstance(told, list):
        return {}
    resident = entries(told)
    names = (text(one.get("name")) or text(one.get("model")) for one in resident)
    sizes = [number(one.get("size_vram")) for one in resident]
    used = sum(size for size in sizes if size is not None) / GIB
    return {
        "loaded": tuple(name for name in names if name),
        "vram_used": round(used, 3) if not sizes or any(size is not None for size in sizes) else None,
    }


def read_lmstudio_models(answer: Answer) -> Facts:
    """GET /api/v1/models (0.4 and later): all that is downloaded, and the instances that are loaded."""
    if answer.status != 200:
        return read_models(answer)
    told = field(decode(answer.body), "models")
    if not isinstance(told, list):
        return {"reachable": True, "problem": f"GET {answer.path} answered no list of models"}
    if not told:
        return _NO_MODELS
    models = [(text(one.get("key")), entries(one.get("loaded_instances"))) for one in entries(told)]
    names = [key for key, _ in models if key]
    instances = [text(instance.get("id")) for _, loaded in models for instance in loaded]
    loaded = [key for key, loaded in models if key and loaded]
    others = [name for name in instances if name and name not in names]
    return {"reachable": True, "models": (*names, *others), "loaded": (*loaded, *others)}


def read_lmstudio_old_models(answer: Answer) -> Facts:
    """GET /api/v0/models (before 0.4): each with its state."""
    facts = read_models(answer)
    listed = cards(answer)
    if listed is not None:
        facts["loaded"] = tuple(card.id for card in listed if card.state == "loaded")
    return facts


_HEALTH, _MODELS = Page("/health", read_health), Page("/v1/models", read_models)

LLAMACPP = EngineSpec(
    "llama.cpp",
    (
        _HEALTH, Page("/v1/models", read_llamacpp_models), Page("/props", read_llamacpp_props),
        Page("/metrics", read_llamacpp_metrics, load=True, otherwise=Page("/slots", read_llamacpp_slots)),
    ),
    # It tells its slots; where /props is closed, one that is not told --parallel has had 1 or 4.
    usual_concurrency=1, most_concurrency=4,
    # Each answer that it hands out restarts the wait in which it looks whether clients have left: asked every second,
    # it never learns that they have, and goes on to generate for them.
    least_load_s=2.0, speaks=frozenset({OPENAI, ANTHROPIC}),
)  # fmt: skip

OLLAMA_ENGINE = EngineSpec(
    "Ollama",
    (
        Page("/api/version", read_health), Page("/api/tags", read_ollama_tags),
        Page("/api/ps", read_ollama_ps, load=True),
    ),
    # OLLAMA_NUM_PARALLEL is 1 unless set, and is told nowhere: a second request for the same model would wait in a
    # queue that nobody sees, so it goes to an idle worker if there is one. But several models work at the same time.
    usual_concurrency=1, most_concurrency=4, speaks=frozenset({OPENAI, ANTHROPIC, OLLAMA}),
)  # fmt: skip

LMSTUDIO = EngineSpec(
    "LM Studio",
    (
        Page(
            "/api/v1/models", read_lmstudio_models,
            otherwise=Page("/api/v0/models", read_lmstudio_old_models, otherwise=_MODELS),
        ),
    ),
    # "Max concurrent predictions" is 4 unless set; versions before 0.4 work on one and let others wait.
    usual_concurrency=4, speaks=frozenset({OPENAI, ANTHROPIC}),
)  # fmt: skip

MLX = EngineSpec(
    # Reads 8 prompts at once unless told otherwise, and writes more answers; older versions serve one after the other.
    "mlx-lm", (_HEALTH, _MODELS), usual_concurrency=8, most_concurrency=32,
)  # fmt: skip
