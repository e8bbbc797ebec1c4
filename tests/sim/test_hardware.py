"""The roofline against published measurements, and which machine a worker is taken for."""

from __future__ import annotations

import math
import re

import pytest

from rbeerouter.config.sections import ConfigError
from rbeerouter.core.types import REMOTE, WorkerSpec
from rbeerouter.sim.engine import Engine, Work
from rbeerouter.sim.hardware import (
    CLOUD_PROFILE,
    EIGHT,
    FOUR,
    SIXTEEN,
    bytes_per_parameter,
    find_preset,
    footprints_for,
    kv_bytes,
    machine_of,
    profile_for,
    single_stream,
    unknown_machine,
)
from rbeerouter.sim.presets import CLOUD, KINDS, PRESETS
from rbeerouter.sim.types import Footprint, Profile, SimWorker
from tests.docs.pages import read
from tests.sim.test_engine import arrival, drive


def worker(engine: str = "llamacpp", models: tuple[str, ...] = ("llama-3-8b",), **more: object) -> WorkerSpec:
    return WorkerSpec("w", "http://w.test", engine, models=models, **more)


ALONE = [
    # machine, engine, model, billions of parameters, tokens/s, whose measurement (see presets.py)
    ("RTX 3090", "llamacpp", "8b-q4", 8.03, 115.4, "dai tg512"),
    ("RTX 3090", "llamacpp", "8b-f16", 8.03, 47.4, "dai tg512"),
    ("RTX 4090", "llamacpp", "8b-q4", 8.03, 130.6, "dai tg512"),
    ("RTX 4090", "llamacpp", "8b-f16", 8.03, 54.8, "dai tg512"),
    ("RTX 5090", "llamacpp", "8b-q4", 8.19, 221.7, "CambrianTech/continuum pull request 1627, Qwen3 8B Q4_K_M"),
    ("RTX A6000", "llamacpp", "7b-f16", 6.74, 44.0, "dai LLaMA 2"),
    ("L40S", "llamacpp", "8b-q4", 8.03, 113.6, "dai by openllmbenchmarks"),
    ("L40S", "llamacpp", "8b-f16", 8.03, 43.4, "dai by openllmbenchmarks"),
    ("A100 80GB", "llamacpp", "8b-q4", 8.03, 138.3, "dai by openllmbenchmarks"),
    ("A100 80GB", "llamacpp", "8b-f16", 8.03, 54.6, "dai by openllmbenchmarks"),
    ("2x RTX 3090", "llamacpp", "70b-q4", 70.6, 16.6, "dai tg512"),
    ("2x RTX 4090", "llamacpp", "70b-q4", 70.6, 19.2, "dai tg512"),
    ("M1", "llamacpp", "8b-q4", 8.03, 10.2, "dai tg512"),
    ("M1 Max", "llamacpp", "8b-q4", 8.03, 46.2, "normie tg128"),
    ("M2 Ultra", "llamacpp", "8b-q4", 8.03, 78.8, "dai tg512"),
    ("M2 Ultra", "llamacpp", "70b-q4", 70.6, 12.5, "dai tg512"),
    ("M3 Max", "llamacpp", "8b-q4", 8.03, 49.0, "dai tg512"),
    ("M3 Max", "llamacpp", "8b-f16", 8.03, 22.0, "dai tg512"),
    ("M4", "llamacpp", "8b-q4", 8.03, 20.9, "normie tg128"),
    ("EPYC 9554", "llamacpp", "14b-q4", 14.66, 28.7, "ahelpme"),
    ("A100 40GB", "vllm", "8b", 8.03, 75.0, "sweep"),
    ("H100", "vllm", "8b", 8.03, 1000 / 6.48, "yobitel"),
]


@pytest.mark.parametrize("machine, engine, model, size, measured, source", ALONE)
def test_a_single_stream_is_as_fast_as_was_published(
    machine: str, engine: str, model: str, size: float, measured: float, source: str
) -> None:
    """Within 15 %: software of different years differs by more."""
    profile = profile_for(worker(engine, (model,), metadata={"gpu": machine}), size)
    assert single_stream(profile) == pytest.approx(measured, rel=0.15), source


@pytest.mark.parametrize(
    "machine, measured",
    [("RTX 3090", 4030), ("RTX 4090", 7139), ("M1", 94.5), ("M1 Max", 408), ("M2 Ultra", 994), ("M3 Max", 693),
     ("M4", 225)],
)  # fmt: skip
def test_a_prompt_is_read_as_fast_as_was_published(machine: str, measured: float) -> None:
    """Llama 3 8B Q4_K_M, 512 tokens ([dai], [normie]); within 20 %."""
    profile = profile_for(worker(models=("8b-q4",), metadata={"gpu": machine}), 8.03)
    assert 512 / (profile.step_s + 512 * profile.prefill_s) == pytest.approx(measured, rel=0.2)


def test_fifty_requests_at_once_are_as_fast_as_was_published() -> None:
    """[a40]: 50 prompts of 100 tokens, answers of 600, vLLM, BF16: 1017 and 1156 tokens/s by two models of this size,
    whose answers were somewhat shorter at times."""
    profile = profile_for(worker("vllm", ("8b",), metadata={"gpu": "A40"}), 8.03)
    works = [Work(arrival(0.0, 100, 600), "8b") for _ in range(50)]
    drive(Engine(SimWorker(worker("vllm"), profile), 16), [(0.0, "submit", work) for work in works])
    assert 50 * 600 / max(work.finished_s for work in works) == pytest.approx(1087, rel=0.1)


def test_sixteen_sequences_in_a_small_batch_are_as_fast_as_was_published() -> None:
    """[mmq]: an RTX 4090 takes 8.5 ms for 16 tokens of an 8B Q4_0 model in one batch."""
    profile = profile_for(worker(models=("8b-q4",), metadata={"gpu": "4090"}), 8.03)
    assert profile.step_s + 16 * profile.sequence_s == pytest.approx(0.00846, rel=0.15)


@pytest.mark.parametrize(
    "written, many, name",
    [
        ("NVIDIA GeForce RTX 4090", 1, "rtx-4090"), ("RTX4090 24GB", 1, "rtx-4090"), ("2x RTX 3090", 2, "rtx-3090"),
        ("4 x L4", 4, "l4"), ("A100-SXM4-80GB", 1, "a100-80"), ("A100-PCIE-40GB", 1, "a100-40"), ("A100", 1, "a100-80"),
        ("h100", 1, "h100"), ("Apple M3 Max", 1, "m3-max"), ("M3", 1, "m3"), ("m2-ultra", 1, "m2-ultra"),
        ("AMD EPYC 9654", 1, "epyc"), ("Intel Xeon Platinum 8480+", 1, "xeon"), ("Ryzen 7 7700", 1, "ryzen"),
        ("Intel Core i7-14700", 1, "core"), ("cloud", 1, "cloud"),
    ],
)  # fmt: skip
def test_a_machine_is_known_however_it_is_written(written: str, many: int, name: str) -> None:
    found, preset = find_preset(written, "here")
    assert (found, preset.name) == (many, name)


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_found_by_its_name_and_works(name: str) -> None:
    assert find_preset(name, "here") == (1, PRESETS[name])
    profile = profile_for(worker("auto", metadata={"gpu": name}))
    assert profile.source and math.isfinite(single_stream(profile))
    assert profile.step_s > 0 and profile.kv_tokens >= 4096


@pytest.mark.parametrize("written", ["RTX 9999", "RTX 3060 Ti", "RTX 4090 Laptop", "abacus", ""])
def test_an_unknown_machine_is_taken_for_a_usual_one_which_is_told_and_an_unknown_preset_is_refused(written: str) -> None:
    given = worker(metadata={"gpu": written}, backend="cuda", vram=12.0)
    assert machine_of(given) == (1, PRESETS["rtx-3060"])
    told = unknown_machine(given)
    assert told is not None and told.startswith(f"worker w: metadata.gpu = {written!r} is no machine whose speed is known")
    assert "like rtx-3060;" in told
    with pytest.raises(ConfigError, match=r"^workers.w.preset: .* expected one of rtx-3060, .*, cloud$"):
        profile_for(worker(), preset=written)


@pytest.mark.parametrize("spec", [worker(), worker(metadata={"gpu": "RTX 4090"}), worker(metadata={"cpu": "M1"})])
def test_nothing_is_told_of_machines_that_are_known_or_not_named(spec: WorkerSpec) -> None:
    assert unknown_machine(spec) is None


@pytest.mark.parametrize(
    "spec, name",
    [
        (worker(), "rtx-3090"),
        (worker(backend="cuda", vram=12.0), "rtx-3060"),
        (worker(backend="cuda", vram=48.0), "rtx-a6000"),
        (worker(backend="cuda", vram=141.0), "a100-80"),
        (worker("ollama", backend="metal", vram=36.0), "m4-pro"),
        (worker(backend="cpu"), "ryzen"),
        (worker("anthropic"), "cloud"),
        (worker("openai", deployment=REMOTE), "cloud"),
        (worker(metadata={"cpu": "EPYC"}, backend="cpu"), "epyc"),
    ],
)
def test_a_worker_that_names_no_machine_is_taken_for_a_usual_one(spec: WorkerSpec, name: str) -> None:
    assert machine_of(spec)[1].name == name


def test_a_preset_that_is_named_goes_before_what_the_worker_says() -> None:
    assert machine_of(worker(metadata={"gpu": "RTX 4090"}), "l4")[1].name == "l4"


def test_an_engine_makes_the_profile() -> None:
    vllm = profile_for(worker("vllm", metadata={"gpu": "RTX 4090"}))
    ollama = profile_for(worker("ollama", metadata={"gpu": "RTX 4090"}, max_concurrency=2))
    assert (vllm.slots, vllm.block_tokens, vllm.memory_gib, vllm.keep_alive_s) == (256, 16, None, None)
    assert (ollama.slots, ollama.block_tokens, ollama.memory_gib, ollama.keep_alive_s) == (2, 1, 21.6, 300.0)
    assert single_stream(ollama) > 2.5 * single_stream(vllm)
    assert ollama.kv_tokens > 2 * vllm.kv_tokens
    assert vllm.cold_start_s > ollama.cold_start_s == 3.0


def test_cards_add_up_only_where_the_engine_splits_layers() -> None:
    one, two = (single_stream(profile_for(worker("vllm", metadata={"gpu": f"{n}x RTX 3090"}))) for n in (1, 2))
    assert 1.4 < two / one < 1.7
    one, two = (single_stream(profile_for(worker(metadata={"gpu": f"{n}x RTX 3090"}))) for n in (1, 2))
    assert one == two


def test_weights_that_do_not_fit_in_sixteen_bits_are_quantized() -> None:
    small = profile_for(worker("vllm", metadata={"gpu": "RTX 3060"}))
    assert "of 1.06 bytes" in small.source
    large = profile_for(worker("vllm", ("llama-3-70b",), metadata={"gpu": "RTX 3090"}))
    assert "which do not fit" in large.source and large.kv_tokens == 4096


def test_what_the_operator_measured_holds() -> None:
    told = profile_for(worker(metadata={"gpu": "M3 Max"}, performance=55.0))
    usual = profile_for(worker(metadata={"gpu": "M3 Max"}))
    assert single_stream(told) == pytest.approx(55.0)
    assert told.prefill_s / usual.prefill_s == pytest.approx(single_stream(usual) / 55.0)
    assert single_stream(profile_for(worker("anthropic", performance=40.0))) == pytest.approx(40.0)
    assert profile_for(worker("anthropic")) == CLOUD_PROFILE


def test_models_of_other_sizes_cost_what_their_weights_do() -> None:
    spec = worker("ollama", ("llama-3-8b", "llama-3-70b", "tinyllama-1.1b"), metadata={"gpu": "M2 Ultra"})
    found = footprints_for(spec)
    assert found["llama-3-8b"] == Footprint(4.545, 1.0)
    assert found["llama-3-70b"].gib == pytest.approx(39.8, rel=0.01)
    assert 5.0 < found["llama-3-70b"].times < 8.75
    assert 0.1 < found["tinyllama-1.1b"].times < 0.5
    assert footprints_for(worker("vllm", ("llama-3-8b", "my-lora"))) == {}
    assert footprints_for(worker("anthropic", ("a", "b"))) == {}


def test_a_name_tells_how_weights_are_stored() -> None:
    assert [bytes_per_parameter(name, True) for name in ("x-AWQ", "x-FP8", "x", "x-q4_K_M")] == [
        FOUR, EIGHT, SIXTEEN, FOUR,
    ]  # fmt: skip
    assert [bytes_per_parameter(name, False) for name in ("x", "x:8b-instruct-q8_0", "x-bf16")] == [
        FOUR, EIGHT, SIXTEEN,
    ]  # fmt: skip


def test_the_cache_of_a_token_grows_with_the_model() -> None:
    assert (kv_bytes(8.03), kv_bytes(70.6), kv_bytes(0.62)) == (131072, 327680, 16384)
    sizes = [kv_bytes(size) for size in (0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 400.0)]
    assert sizes == sorted(sizes)
    assert kv_bytes(1000.0) == kv_bytes(405.9)


def test_every_kind_of_machine_has_its_efficiencies() -> None:
    assert {preset.kind for preset in PRESETS.values()} == {*KINDS, "cloud"}


def test_the_page_has_every_machine_and_every_parameter() -> None:
    page = read("docs/simulated-workers.md").text
    for preset in PRESETS.values():
        if preset is not CLOUD:
            numbers = f"{preset.bandwidth_gb_s:g} | {preset.tflops:g} | {preset.memory_gib:g}"
            assert f"| `{preset.name}` | {numbers} | {preset.watts_idle:g} / {preset.watts_busy:g} |" in page
    assert [name for name in Profile.__struct_fields__ if name != "source" and f"`{name}`" not in page] == []
    for kind, column in (("gddr", 1), ("hbm", 2), ("metal", 3), ("cpu", 4)):
        shares = re.findall(r"^\| of (.*) \|$", page, re.MULTILINE)
        cells = [row.split(" | ")[column] for row in shares]
        told = [float(re.match(r"\d+", cell)[0]) / 100 for cell in cells]
        numbers = KINDS[kind]
        assert told == [numbers.efficiency, numbers.attention, numbers.mfu, numbers.share]
