"""Tests of the engines for GPU servers.

vLLM's page and list of models are recorded (0.32.0). Its old page, SGLang (0.5.23), TGI (3.3), TensorRT-LLM (2026) and
LMDeploy (0.18) are written after documentation and source.
"""

from __future__ import annotations

from rbeerouter.dialects.engines import metered
from tests.dialects.engines import PAYLOADS, answer


def test_vllm_tells_load_cache_and_start() -> None:
    assert metered.read_vllm_metrics(answer("/metrics", "vllm_metrics.txt")) == {
        "running": 8, "waiting": 3, "kv_usage": 0.0034180730613116994, "generated_tokens": 3437.0,
        "prompt_tokens": 133.0, "cached_tokens": 0.0, "started_at": 1795727966.56, "kv_blocks": 32768,
        "block_size": 32,
    }  # fmt: skip


def test_vllm_of_several_ranks_is_summed_and_its_cache_averaged() -> None:
    page = (PAYLOADS / "vllm_metrics.txt").read_bytes()
    lines = [
        line.replace(b'engine="0"', b'engine="%d"' % rank).replace(b" 8.0", b" %d.0" % (8 - rank))
        for line in page.split(b"\n")
        for rank in range(2 if line.startswith(b"vllm:") else 1)
    ]
    facts = metered.read_vllm_metrics(answer("/metrics", body=b"\n".join(lines)))
    assert (facts["running"], facts["waiting"], facts["kv_blocks"]) == (15, 6, 65536)
    assert facts["kv_usage"] == 0.0034180730613116994


def test_vllm_of_last_year_tells_the_same_under_old_names() -> None:
    assert metered.read_vllm_metrics(answer("/metrics", "vllm_old_metrics.txt")) == {
        "running": 2, "waiting": 5, "kv_usage": 0.75, "generated_tokens": 900.0, "prompt_tokens": None,
        "cached_tokens": 64.0, "started_at": None, "kv_blocks": 2048, "block_size": 16,
    }  # fmt: skip


def test_vllm_that_sleeps_cannot_be_used() -> None:
    page = (PAYLOADS / "vllm_metrics.txt").read_bytes()
    page = page.replace(b'sleep_state="awake"} 1.0', b'sleep_state="awake"} 0.0')
    page = page.replace(b'sleep_state="weights_offloaded"} 0.0', b'sleep_state="weights_offloaded"} 1.0')
    facts = metered.read_vllm_metrics(answer("/metrics", body=page))
    assert (facts["reachable"], facts["problem"]) == (False, "asleep: its weights are not on the GPU")


def test_sglang_tells_the_load_of_all_ranks_with_and_without_metrics() -> None:
    assert metered.read_sglang_loads(answer("/v1/loads?include=core", "sglang_loads.json")) == {
        "running": 22, "waiting": 3, "slots": 256, "kv_usage": 0.30000000000000004,
    }  # fmt: skip
    expected = {
        "running": 12, "waiting": 3, "kv_usage": 0.4, "generated_tokens": 7557.0, "prompt_tokens": 8128.0,
        "cached_tokens": 3100.0, "started_at": None, "kv_blocks": 6282, "block_size": 16,
    }  # fmt: skip
    assert metered.read_sglang_metrics(answer("/metrics", "sglang_metrics.txt")) == expected
    old = (PAYLOADS / "sglang_metrics.txt").read_bytes().replace(b"sglang:", b"sglang_")
    assert metered.read_sglang_metrics(answer("/metrics", body=old)) == {
        **expected, "kv_blocks": None, "block_size": None,
    }  # fmt: skip


def test_tgi_tells_its_model_its_limit_and_its_load() -> None:
    assert metered.read_tgi_info(answer("/info", "tgi_info.json")) == {
        "models": ("HuggingFaceH4/zephyr-7b-beta",), "slots": 64,
    }  # fmt: skip
    assert metered.read_tgi_metrics(answer("/metrics", "tgi_metrics.txt")) == {
        "running": 9, "waiting": 4, "generated_tokens": 20500.0, "prompt_tokens": 31000.0,
    }  # fmt: skip


def test_tensorrt_llm_tells_its_load() -> None:
    assert metered.read_trtllm_metrics(answer("/prometheus/metrics", "trtllm_metrics.txt")) == {
        "running": 7, "waiting": 2, "kv_usage": 0.31, "kv_blocks": 4096, "block_size": 32, "started_at": None,
    }  # fmt: skip


def test_lmdeploy_tells_its_load() -> None:
    assert metered.read_lmdeploy_metrics(answer("/metrics", "lmdeploy_metrics.txt")) == {
        "running": 5, "waiting": 1, "kv_usage": 0.12, "generated_tokens": 5000.0, "prompt_tokens": 4000.0,
        "started_at": None,
    }  # fmt: skip


def test_a_page_of_metrics_that_is_not_there_tells_nothing() -> None:
    for read in (
        metered.read_vllm_metrics, metered.read_sglang_metrics, metered.read_sglang_loads, metered.read_tgi_metrics,
        metered.read_trtllm_metrics, metered.read_lmdeploy_metrics,
    ):  # fmt: skip
        assert read(answer("/metrics", "vllm_metrics.txt", status=404)) == {}


def test_an_older_sglang_tells_those_that_wait_among_all() -> None:
    ranks = b'[{"dp_rank":0,"num_reqs":7,"num_waiting_reqs":2,"num_tokens":9},{"dp_rank":1,"num_reqs":1,"num_waiting_reqs":0}]'
    read = metered.read_sglang_old_load
    assert read(answer("/get_load", body=ranks)) == {"running": 6, "waiting": 2}
    lies = (b"[]", b"7", b'[{"num_reqs":-1,"num_waiting_reqs":0}]', b'{"num_reqs":1,"num_waiting_reqs":3}')
    assert [read(answer("/get_load", body=body)).get("running") for body in lies] == [None] * 4


def test_a_vllm_of_several_ranks_takes_as_many_times_more() -> None:
    page = b"".join(b'vllm:num_requests_running{engine="%d",model_name="m"} 2.0\n' % rank for rank in range(8))
    facts = metered.read_vllm_metrics(answer("/metrics", body=page))
    assert (facts["running"], facts["ranks"]) == (16, 8)
