"""Engines for GPU servers, which tell their load on a Prometheus page: vLLM, SGLang, TGI, TensorRT-LLM, LMDeploy.

Read by `engines.ENGINES`. Names of metrics are given newest first: engines rename them, and fleets run old versions.
"""

from __future__ import annotations

from rbeerouter.core.types import ANTHROPIC, OPENAI
from rbeerouter.dialects.engines.prometheus import Metrics, count, share
from rbeerouter.dialects.engines.spec import (
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


def read_vllm_metrics(answer: Answer) -> Facts:
    """vLLM's /metrics: one series for each data-parallel rank, in the label `engine`."""
    if answer.status != 200:
        return {}
    page = Metrics(answer.body)
    facts: Facts = {
        "running": count(page.total("vllm:num_requests_running")),
        "waiting": count(page.total("vllm:num_requests_waiting")),
        "kv_usage": share(page.mean("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")),
        "generated_tokens": page.total("vllm:generation_tokens_total"),
        "prompt_tokens": page.total("vllm:prompt_tokens_total"),
        "cached_tokens": page.total(
            "vllm:prompt_tokens_cached_total", "vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"
        ),
        # The page of several API processes has no process_* metrics, but tells when its counters began.
        "started_at": page.mean("process_start_time_seconds", "vllm:prompt_tokens_created"),
        **_cache_blocks(page, "vllm:cache_config_info", "num_gpu_blocks", "block_size"),
    }
    ranks = {rank.get("engine") for rank in page.labels("vllm:num_requests_running")}
    if len(ranks) > 1:
        facts["ranks"] = len(ranks)
    states = page.series("vllm:engine_sleep_state")
    if any(value and b'sleep_state="awake"' not in state for state, value in states):
        facts |= {"reachable": False, "problem": "asleep: its weights are not on the GPU"}
    return facts


def _cache_blocks(page: Metrics, name: str, blocks: str, size: str) -> Facts:
    """How large the KV cache is, told in labels; over all ranks."""
    ranks = page.labels(name)
    sizes = [int(rank[size]) for rank in ranks if rank.get(size, "").isdecimal()]
    numbers = [int(rank[blocks]) for rank in ranks if rank.get(blocks, "").isdecimal()]
    return {"kv_blocks": sum(numbers) or None, "block_size": sizes[0] if sizes else None}


def read_sglang_loads(answer: Answer) -> Facts:
    """GET /v1/loads: one entry for each data-parallel rank; there without --enable-metrics."""
    ranks = entries(field(decode(answer.body), "loads")) if answer.status == 200 else []
    if not ranks:
        return {}

    def total(name: str) -> int | None:
        told = [number(rank.get(name)) for rank in ranks]
        return count(sum(value for value in told if value is not None)) if any(v is not None for v in told) else None

    usage = [value for value in (number(rank.get("token_usage")) for rank in ranks) if value is not None]
    return {
        "running": total("num_running_reqs"), "waiting": total("num_waiting_reqs"),
        "slots": total("max_running_requests") or None,
        "kv_usage": share(sum(usage) / len(usage)) if usage else None,
    }  # fmt: skip


def read_sglang_old_load(answer: Answer) -> Facts:
    """GET /get_load (before /v1/loads): `num_reqs` counts those that wait as well."""
    told = decode(answer.body) if answer.status == 200 else None
    ranks = entries(told if isinstance(told, list) else [told])
    every = [(number(rank.get("num_reqs")), number(rank.get("num_waiting_reqs"))) for rank in ranks]
    known = [(both, waiting) for both, waiting in every if both is not None and waiting is not None]
    if not known:
        return {}
    waiting = sum(waiting for _, waiting in known)
    return {"running": count(sum(both for both, _ in known) - waiting), "waiting": count(waiting)}


def read_sglang_metrics(answer: Answer) -> Facts:
    """SGLang's /metrics, which it has with --enable-metrics; some versions write `sglang_` for `sglang:`."""
    if answer.status != 200:
        return {}
    page = Metrics(answer.body)

    def names(name: str) -> tuple[str, str]:
        return f"sglang:{name}", f"sglang_{name}"

    return {
        "running": count(page.total(*names("num_running_reqs"))),
        "waiting": count(page.total(*names("num_queue_reqs"))),
        "kv_usage": share(page.mean(*names("token_usage"))),
        "generated_tokens": page.total(*names("generation_tokens_total")),
        "prompt_tokens": page.total(*names("prompt_tokens_total")),
        "cached_tokens": page.total(*names("cached_tokens_total")),
        "started_at": page.mean("process_start_time_seconds"),
        **_cache_blocks(page, "sglang:cache_config_info", "num_pages", "page_size"),
    }


def read_tgi_info(answer: Answer) -> Facts:
    """TGI's /info: the one model that it serves, and after how many requests it answers 429."""
    told = decode(answer.body) if answer.status == 200 else None
    model, slots = text(field(told, "model_id")), number(field(told, "max_concurrent_requests"))
    return {**({"models": (model,)} if model else {}), "slots": count(slots) or None}


def read_tgi_metrics(answer: Answer) -> Facts:
    if answer.status != 200:
        return {}
    page = Metrics(answer.body)
    return {
        "running": count(page.total("tgi_batch_current_size")),
        "waiting": count(page.total("tgi_queue_size")),
        "generated_tokens": page.total("tgi_request_generated_tokens_sum"),
        "prompt_tokens": page.total("tgi_request_input_length_sum"),
    }


def read_trtllm_metrics(answer: Answer) -> Facts:
    """GET /prometheus/metrics. Never /metrics, which hands each line of statistics to one reader only."""
    if answer.status != 200:
        return {}
    page = Metrics(answer.body)
    return {
        "running": count(page.total("trtllm_num_requests_running")),
        "waiting": count(page.total("trtllm_num_requests_waiting")),
        "kv_usage": share(page.mean("trtllm_kv_cache_utilization")),
        "kv_blocks": count(page.total("trtllm_kv_cache_max_blocks")),
        "block_size": count(page.mean("trtllm_kv_cache_tokens_per_block")),
        "started_at": page.mean("process_start_time_seconds"),
    }


def read_lmdeploy_metrics(answer: Answer) -> Facts:
    if answer.status != 200:
        return {}
    page = Metrics(answer.body)
    return {
        "running": count(page.total("lmdeploy:num_requests_running")),
        "waiting": count(page.total("lmdeploy:num_requests_waiting")),
        "kv_usage": share(page.mean("lmdeploy:gpu_cache_usage_perc")),
        "generated_tokens": page.total("lmdeploy:generation_tokens_total"),
        "prompt_tokens": page.total("lmdeploy:prompt_tokens_total"),
        "started_at": page.mean("process_start_time_seconds"),
    }


_HEALTH, _MODELS = Page("/health", read_health), Page("/v1/models", read_models)

VLLM = EngineSpec(
    "vLLM", (_HEALTH, _MODELS, Page("/metrics", read_vllm_metrics, load=True)),
    # --max-num-seqs is 256 for each rank unless set, 1024 on the largest GPUs, and is told nowhere. Fewer would hold
    # back requests that it would have batched; whatever its KV cache cannot hold shows as waiting.
    usual_concurrency=256, most_concurrency=1024, speaks=frozenset({OPENAI, ANTHROPIC}),
)  # fmt: skip

SGLANG = EngineSpec(
    "SGLang",
    (
        # Its /health generates a token, and takes a second for it.
        Page("/ready", read_health, otherwise=_MODELS), _MODELS,
        Page(
            "/v1/loads?include=core", read_sglang_loads, load=True,
            otherwise=Page("/metrics", read_sglang_metrics, otherwise=Page("/get_load", read_sglang_old_load)),
        ),
    ),
    # It tells max_running_requests; a version that does not batches about as many as vLLM.
    usual_concurrency=256, most_concurrency=1024, speaks=frozenset({OPENAI, ANTHROPIC}),
)  # fmt: skip

TGI = EngineSpec(
    "Text Generation Inference",
    (
        _HEALTH, Page("/info", read_tgi_info, otherwise=_MODELS),
        Page("/metrics", read_tgi_metrics, load=True),
    ),
    # --max-concurrent-requests is 128 unless set, and it tells.
    usual_concurrency=128,
)  # fmt: skip

TRTLLM = EngineSpec(
    "TensorRT-LLM", (_HEALTH, _MODELS, Page("/prometheus/metrics", read_trtllm_metrics, load=True)),
    # --max_batch_size is 2048 unless set, which no KV cache holds; as many as vLLM takes is a busy GPU.
    usual_concurrency=256, most_concurrency=1024,
)  # fmt: skip

LMDEPLOY = EngineSpec(
    "LMDeploy", (_HEALTH, _MODELS, Page("/metrics", read_lmdeploy_metrics, load=True)),
    # --max-batch-size is 128 on most GPUs unless set, 256 on an H100 and more on later ones.
    usual_concurrency=128, most_concurrency=512,
)  # fmt: skip
