"""All that is no language engine of one's own: plain OpenAI-compatible servers, the cloud, images, data workers.

Read by `engines.ENGINES`.
"""

from __future__ import annotations

from rbeerouter.core.types import ANTHROPIC, DATA, OPENAI
from rbeerouter.dialects.engines.spec import (
    GIB,
    Answer,
    EngineSpec,
    Facts,
    Page,
    decode,
    entries,
    field,
    number,
    read_health,
    read_models,
    text,
)  # fmt: skip


def read_cloud_models(answer: Answer) -> Facts:
    """GET /v1/models of a service that limits its callers: to be told to wait is a sign of life."""
    facts = read_models(answer)
    if answer.status == 429:
        return {"reachable": True}
    if answer.status == 403:                                   # a key may be good for requests and not for this page
        facts["problem"] = f"its api_key was refused: GET {answer.path} answered 403; its models are not known"
    return facts


def anthropic_key(key: str) -> dict[str, str]:
    return {"x-api-key": key, "anthropic-version": "2023-06-01"}


def read_sd_models(answer: Answer) -> Facts:
    """GET /sdapi/v1/sd-models: the checkpoints on its disk."""
    facts = read_health(answer)
    told = decode(answer.body) if answer.status == 200 else None
    if isinstance(told, list):
        names = (text(one.get("model_name")) or text(one.get("title")) for one in entries(told))
        facts["models"] = tuple(name for name in names if name)
    return facts


def read_sd_options(answer: Answer) -> Facts:
    """GET /sdapi/v1/options: the checkpoint in memory, written "name.safetensors [hash]"."""
    told = decode(answer.body) if answer.status == 200 else None
    checkpoint = text(field(told, "sd_model_checkpoint"))
    if checkpoint is None:
        return {}
    name = checkpoint.partition(" [")[0].replace("\\", "/").rpartition("/")[2]
    for ending in (".safetensors", ".ckpt", ".gguf", ".sft"):
        name = name.removesuffix(ending)
    return {"loaded": (name,)}


def read_sd_progress(answer: Answer) -> Facts:
    """GET /sdapi/v1/progress: it draws one picture at a time; how many wait it does not say."""
    told = field(decode(answer.body), "state") if answer.status == 200 else None
    if not isinstance(told, dict):
        return {}
    return {"running": 1 if text(told.get("job")) or (number(told.get("job_count")) or 0) > 0 else 0}


def read_sd_memory(answer: Answer) -> Facts:
    """GET /sdapi/v1/memory: bytes of the GPU, as its driver sees them."""
    told = field(decode(answer.body), "cuda", "system") if answer.status == 200 else None
    used, total = number(field(told, "used")), number(field(told, "total"))
    return {
        "vram_used": round(used / GIB, 3) if used is not None else None,
        "vram": round(total / GIB, 3) if total else None,
    }


_ASK_SELDOM_S = 300.0
"""A service on the internet lists the same models for weeks, and counts what it is asked."""
_CLOUD_CONCURRENCY = 256
"""A service on the internet has no slots, only a limit per minute, which it tells by 429. So many keep one daemon from
opening more connections to it than any limit allows."""
_CLOUD_MODELS = Page("/v1/models", read_cloud_models)

OPENAI_COMPATIBLE = EngineSpec(
    # Nothing is known of it. 16 at once is what a small batching server bears without a long queue, and what it is
    # compared with others by. But it may be a gateway to many GPUs: nobody waits here before it has 256.
    "OpenAI-compatible", (Page("/v1/models", read_models),), usual_concurrency=16, most_concurrency=256,
)  # fmt: skip

OPENAI_CLOUD = EngineSpec(
    "OpenAI", (_CLOUD_MODELS,), usual_concurrency=_CLOUD_CONCURRENCY, least_interval_s=_ASK_SELDOM_S, remote=True,
)  # fmt: skip

XAI = EngineSpec(
    "xAI", (_CLOUD_MODELS,), usual_concurrency=_CLOUD_CONCURRENCY, least_interval_s=_ASK_SELDOM_S, remote=True,
)  # fmt: skip

ANTHROPIC_CLOUD = EngineSpec(
    "Anthropic", (Page("/v1/models?limit=1000", read_cloud_models),), usual_concurrency=_CLOUD_CONCURRENCY,
    least_interval_s=_ASK_SELDOM_S, speaks=frozenset({OPENAI, ANTHROPIC}), remote=True, key_headers=anthropic_key,
)  # fmt: skip

SDWEBUI = EngineSpec(
    "Stable Diffusion WebUI",
    (
        Page("/sdapi/v1/sd-models", read_sd_models), Page("/sdapi/v1/options", read_sd_options),
        Page("/sdapi/v1/memory", read_sd_memory),
        Page("/sdapi/v1/progress?skip_current_image=true", read_sd_progress, load=True),
    ),
    # One picture at a time under a lock; and it shares its threads between pages and pictures.
    usual_concurrency=1, least_load_s=2.0,
)  # fmt: skip

DATA_WORKER = EngineSpec(
    # A database or a search behind HTTP; it has no models. As many as for any server that nothing is known of.
    "data worker", (Page("/health", read_health, otherwise=Page("/", read_health)),), usual_concurrency=16,
    most_concurrency=256,
    speaks=frozenset({DATA}),
)  # fmt: skip
