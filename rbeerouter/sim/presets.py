"""The machines that `hardware` knows, and what engines make of them: numbers with their sources, and no code.

`PRESETS`: {name: machine}, from the makers' data sheets. `KINDS`: {kind of memory: how much of that engines reach},
from published measurements of engines:

- [dai] XiongjieDai/GPU-Benchmarks-on-LLM-Inference, README: llama-bench of Llama 3 8B Q4_K_M and F16 (May 2024) and of
  LLaMA 2 7B (December 2023) on rented cards and on Macs
- [sweep] J. Musgrave, "vLLM throughput-latency sweep on NVIDIA A100": Llama 3.1 8B BF16, A100 40 GB, 75 tokens/s alone
- [yobitel] bench, "Recipe: concurrency sweep": Llama 3.1 8B FP16, vLLM 0.21 on H100 SXM, 6.48 ms per token alone
- [a40] databasemart, "A40 vLLM Benchmark": Llama 3.1 8B, 50 requests at once, 1017 to 1156 tokens/s
- [khmel] P. Khmel, "LLM throughput benchmark on 13 GPUs and 10 models": llama.cpp, Q4_K_M, one stream
- [normie] brand-o/normiebench, issues 3 and 40: Llama 3.1 8B Q4_K_M on M4 and M1 Max (2026)
- [ahelpme] ahelpme.com, Phi-4 14B Q4_K_M on an EPYC 9554 with 12 channels, llama.cpp: 28.7 tokens/s
- [llama34] ggml-org/llama.cpp issue 34: 7B Q4_0 on a 13900K with DDR5-6400: 18.3 tokens/s
- [mmq] ggml-org/llama.cpp pull request 15131: 8B Q4_0 on an RTX 4090 by batch size: 8.5 ms for 16 tokens
- [fa] ggml-org/llama.cpp pull requests 16894 (M2 Ultra) and 26284: decoding at depth 4096, with flash attention
"""

from __future__ import annotations

import msgspec


class Preset(msgspec.Struct, frozen=True):
    """A machine. words: what its name has, in lower case, however else it is written. kind: a key of `KINDS`.

    bandwidth_gb_s: of its memory, 10^9 bytes. tflops: dense FP16 of tensor cores; of GPUs without them and of CPUs,
    what their vector units do. watts: of the whole machine. usual_for: the backend that this one is taken for, when
    nobody names the machine, by how much memory it has.
    """

    name: str
    words: tuple[str, ...]
    kind: str
    bandwidth_gb_s: float
    tflops: float
    memory_gib: float
    watts_idle: float
    watts_busy: float
    source: str
    usual_for: str = ""


class Kind(msgspec.Struct, frozen=True):
    """How much of a machine engines reach: llama.cpp and its like, and after "server" vLLM and its like.

    efficiency: the share of bandwidth with which weights are read; attention: that of the KV cache. launch_s: what a
    step takes beyond that. mfu: the share of FLOPS in a prompt. small_batch: how many times more a token costs in a
    step of a few sequences than in a long prompt. parallel: what each of several cards adds. share: of memory that
    engines may use.
    """

    efficiency: float
    launch_s: float
    mfu: float
    attention: float
    small_batch: float
    share: float
    server_efficiency: float
    server_launch_s: float
    server_mfu: float
    parallel: float = 0.8


KINDS: dict[str, Kind] = {
    # [dai]: 3090 47.4 and 4090 54.8 tokens/s in F16 are 81 and 87 % of bandwidth; Q4_K_M leaves 1.6 ms over; prompts
    # 4030 and 7139 tokens/s are 46 and 35 % of FLOPS. [mmq]: no loss in small batches. [a40]: servers.
    "gddr": Kind(
        efficiency=0.83, launch_s=0.0016, mfu=0.4, attention=0.6, small_batch=1.0, share=0.9,
        server_efficiency=0.83, server_launch_s=0.0008, server_mfu=0.4,
    ),
    # [dai]: A100 138 tokens/s Q4_K_M, 54.6 F16; [khmel]: A100 and H100; llama.cpp reaches less than half of the
    # bandwidth there, and vLLM 83 % [sweep, yobitel].
    "hbm": Kind(
        efficiency=0.45, launch_s=0.0016, mfu=0.2, attention=0.4, small_batch=1.0, share=0.9,
        server_efficiency=0.83, server_launch_s=0.0008, server_mfu=0.45,
    ),
    # [dai]: M2 Ultra 78.8 and 36.9, M3 Max 49.0 and 22.0 tokens/s; prompts 994 and 693 tokens/s. [normie]: M4, M1 Max.
    # [fa]: attention at 36 % of bandwidth, 1.7 ms for each further sequence. 75 % of memory is what Metal lends
    # (recommendedMaxWorkingSetSize, [dai]).
    "metal": Kind(
        efficiency=0.85, launch_s=0.005, mfu=0.65, attention=0.36, small_batch=2.5, share=0.75,
        server_efficiency=0.85, server_launch_s=0.005, server_mfu=0.65,
    ),
    # [ahelpme]: 57 %; [llama34]: 68 %. mfu is a guess: nobody publishes prompts of CPUs with their FLOPS.
    "cpu": Kind(
        efficiency=0.58, launch_s=0.001, mfu=0.6, attention=0.5, small_batch=1.0, share=0.8,
        server_efficiency=0.58, server_launch_s=0.002, server_mfu=0.6,
    ),
}  # fmt: skip
"""By what limits them: cards with GDDR, cards with HBM, Apple's unified memory, and main memory."""

_NVIDIA = "NVIDIA's data sheet"
_APPLE = "Apple's specifications; FLOPS as Apple told them, power by its support pages"
_APPLE_LATER = "Apple's specifications; FLOPS by GPU cores and clock, power estimated for M3"

CLOUD = Preset(
    "cloud", ("cloud",), "cloud", 0.0, 0.0, 0.0, 0.0, 0.0,
    "a service on the internet as it is made up here: 80 tokens/s, never full, 0.25 s away",
)  # fmt: skip
"""Nobody publishes what stands behind an API. It has no memory or power of ours."""

_TABLE = (
    # name, words, kind, GB/s, TFLOPS, GiB, watts idle and busy (card's limit and a host's 80 W), source, usual for
    Preset("rtx-3060", ("3060",), "gddr", 360, 51, 12, 65, 250, _NVIDIA, "cuda"),
    Preset("rtx-3090", ("3090",), "gddr", 936, 142, 24, 75, 430, _NVIDIA, "cuda"),
    Preset("rtx-4090", ("4090",), "gddr", 1008, 330, 24, 75, 530, _NVIDIA),
    Preset("rtx-5090", ("5090",), "gddr", 1792, 419, 32, 80, 655, _NVIDIA, "cuda"),
    Preset("l4", ("l4",), "gddr", 300, 121, 24, 70, 152, _NVIDIA),
    Preset("a40", ("a40",), "gddr", 696, 150, 48, 80, 380, _NVIDIA),
    Preset("rtx-a6000", ("a6000",), "gddr", 768, 155, 48, 75, 380, _NVIDIA, "cuda"),
    Preset("l40s", ("l40s",), "gddr", 864, 362, 48, 85, 430, _NVIDIA),
    Preset("a100-40", ("a100", "40"), "hbm", 1555, 312, 40, 100, 480, _NVIDIA),
    Preset("a100-80", ("a100",), "hbm", 2039, 312, 80, 110, 480, _NVIDIA, "cuda"),
    Preset("h100", ("h100",), "hbm", 3350, 989, 80, 130, 780, _NVIDIA),
    Preset("m1", ("m1",), "metal", 68, 2.6, 16, 7, 39, _APPLE),
    Preset("m1-pro", ("m1", "pro"), "metal", 200, 5.2, 32, 7, 70, _APPLE),
    Preset("m1-max", ("m1", "max"), "metal", 400, 10.4, 64, 11, 115, _APPLE),
    Preset("m1-ultra", ("m1", "ultra"), "metal", 800, 20.8, 128, 13, 215, _APPLE),
    Preset("m2", ("m2",), "metal", 100, 3.6, 24, 7, 50, _APPLE),
    Preset("m2-pro", ("m2", "pro"), "metal", 200, 6.8, 32, 7, 100, _APPLE),
    Preset("m2-max", ("m2", "max"), "metal", 400, 13.6, 96, 7, 145, _APPLE),
    Preset("m2-ultra", ("m2", "ultra"), "metal", 800, 27.2, 192, 9, 295, _APPLE),
    Preset("m3", ("m3",), "metal", 100, 4.1, 24, 5, 50, _APPLE_LATER),
    Preset("m3-pro", ("m3", "pro"), "metal", 150, 7.4, 36, 5, 70, _APPLE_LATER),
    Preset("m3-max", ("m3", "max"), "metal", 400, 16.4, 128, 6, 110, _APPLE_LATER),
    Preset("m3-ultra", ("m3", "ultra"), "metal", 819, 32.8, 512, 9, 270, _APPLE_LATER),
    Preset("m4", ("m4",), "metal", 120, 4.6, 32, 4, 65, _APPLE_LATER, "metal"),
    Preset("m4-pro", ("m4", "pro"), "metal", 273, 9.2, 64, 5, 140, _APPLE_LATER, "metal"),
    Preset("m4-max", ("m4", "max"), "metal", 546, 18.4, 128, 6, 145, _APPLE_LATER, "metal"),
    Preset("ryzen", ("ryzen",), "cpu", 83, 1.2, 64, 50, 150, "Ryzen 7 7700: two channels of DDR5-5200, AVX-512", "cpu"),
    Preset("core", ("core",), "cpu", 90, 1.1, 64, 50, 200, "Core i7-14700: two channels of DDR5-5600, AVX2"),
    Preset("xeon", ("xeon",), "cpu", 307, 9.3, 512, 150, 450, "Xeon 8480+: eight channels of DDR5-4800, AVX-512"),
    Preset("epyc", ("epyc",), "cpu", 461, 6.3, 384, 150, 450, "EPYC 9554: twelve channels of DDR5-4800, AVX-512"),
    CLOUD,
)  # fmt: skip
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _TABLE}
