"""How fast common machines are: a table of their data sheets, and the roofline that makes a `types.Profile` of them.

`staff` asks for the profile and the footprints of each worker. A worker that was measured (`calibrate`) is better than
any table; this is for those that were not.

The roofline (Williams, Waterman, Patterson 2009; for transformers: Pope et al. 2022, "Efficiently Scaling Transformer
Inference", arXiv 2211.05102). One step reads all weights once, whoever is in the batch, and each token costs two
floating-point operations per parameter:

    step_s      weights / (bandwidth * efficiency) + launch_s - sequence_s: a lone sequence's token costs nothing more
    prefill_s   2 * parameters / (FLOPS * utilisation), for each token of a prompt
    sequence_s  the same for the one token of a sequence that decodes, times what small batches lose
    context_s   KV bytes of a token / (bandwidth * attention efficiency)
    kv_tokens   (memory * share - weights) / KV bytes of a token

`presets` holds the machines, and the efficiencies with what they were read from; docs/simulated-workers.md has both for
people. How well it does stands in tests/sim/test_hardware.py, against published measurements.
"""

from __future__ import annotations

import itertools
import math
import re

import msgspec

from rbeerouter.config.sections import ConfigError
from rbeerouter.core.types import REMOTE, WorkerSpec
from rbeerouter.dialects.model_sizes import model_size as size_by_name
from rbeerouter.sim.presets import CLOUD, KINDS, PRESETS, Kind, Preset
from rbeerouter.sim.types import Footprint, Profile

USUAL_SIZE = 8.0
"""Billions of parameters of a model whose name does not tell: what most people serve at home."""
USUAL_CONTEXT = 512
"""Tokens in context at which a single stream's speed is told; llama-bench's tg512 has half of that on average."""

SERVERS = frozenset({"vllm", "sglang", "tgi", "trtllm", "lmdeploy"})
"""Engines that batch hundreds of sequences, keep weights in 16 bits and cache prefixes in blocks."""
SWAPPERS = frozenset({"ollama", "lmstudio"})
"""Engines that have more models than fit into memory, and load the one that is asked for."""
CLOUDS = frozenset({"openai-cloud", "anthropic", "xai"})

OTHERS = frozenset({"ti", "super", "laptop", "mobile"})
"""Words that make another card of the one whose number stands before them; none of `PRESETS` has them."""

SIXTEEN, EIGHT, FOUR = 2.0, 1.06, 0.61
"""Bytes per parameter: BF16; Q8_0 (34 bytes for 32 weights) and FP8; Q4_K_M (4.92 GB for 8.03 billion: llama.cpp's
table of quantizations), which is Ollama's default."""
_WRITTEN = (
    (re.compile(r"(q4|iq4|int4|4[-_]?bit|awq|gptq|nf4|mxfp4)"), FOUR),
    (re.compile(r"(q8|int8|fp8|8[-_]?bit|w8a8)"), EIGHT),
    (re.compile(r"(f16|fp16|bf16)"), SIXTEEN),
)

KV_BYTES = ((1.24, 32768), (3.21, 114688), (8.03, 131072), (14.8, 196608), (32.8, 262144), (70.6, 327680),
            (405.9, 516096))  # fmt: skip
"""(billions of parameters, bytes of a token in a 16-bit KV cache): 2 * layers * KV heads * head size * 2 bytes by the
config.json of Llama 3.2 1B and 3B, Llama 3.1 8B, 70B and 405B, and Qwen 2.5 14B and 32B. In between it is interpolated
on a log scale. Models with multi-head latent attention, as DeepSeek's, need far less."""

CLOUD_PROFILE = Profile(
    step_s=0.012, prefill_s=0.00002, slots=100_000, batch_tokens=1 << 20, overhead_s=0.25, source=CLOUD.source
)  # fmt: skip
"""Of any service on the internet."""

LAYERS_GROW = 0.42
"""Kernels are launched layer by layer, and models have 32 * (billions / 8) ** 0.42 layers: 16, 28, 32, 48, 64, 80 and
126 of those that `KV_BYTES` names."""

_RESERVED_GIB = 1.0
"""What an engine needs besides weights and cache: CUDA context and activations."""
_LEAST_KV_TOKENS = 4096
"""Where weights leave no room, layers or cache go elsewhere, and the engine still answers: one usual context."""
_LAN_S = 0.001
"""From the router's sending until an engine in the house begins: a round trip and its HTTP server."""
_START_S = {"server": 45.0, "local": 3.0}
"""Until an engine answers, besides reading its weights: vLLM compiles and captures graphs for most of a minute."""


def find_preset(name: str, where: str) -> tuple[int, Preset]:
    """(how many, the machine) that a text such as "2x RTX 3090" or "NVIDIA A100-SXM4-80GB" means.

    Raises ConfigError that begins with `where` and lists the known ones.
    """
    found = _fitting(name)
    if found is None:
        raise ConfigError(
            f"{where}: {name!r} is no machine whose speed is known; expected one of {', '.join(PRESETS)}"
        )
    return found


def _fitting(name: str) -> tuple[int, Preset] | None:
    many = re.match(r"\s*(\d{1,2})\s*x\s+", name.lower())
    bare = re.sub(r"rtx|geforce", " ", re.sub(r"(\d)\s*gi?b\b", r"\1", name.lower()))
    words = set(re.findall(r"[a-z]*\d+[a-z]*|[a-z]+", bare))
    fitting = [preset for preset in PRESETS.values() if words.issuperset(preset.words) and not words & OTHERS]
    if not fitting:
        return None
    return int(many[1]) if many else 1, max(fitting, key=lambda preset: len(preset.words))


def machine_of(spec: WorkerSpec, preset: str | None = None) -> tuple[int, Preset]:
    """(how many, which machine) a worker is: the preset that is named, its metadata `gpu`, `card` or `cpu` where such a
    machine is known, or the usual one for its backend and memory. Raises ConfigError for a preset that is not known."""
    if preset is not None:
        return find_preset(preset, f"workers.{spec.id}.preset")
    _, told = _told_machine(spec)
    if told is not None and (found := _fitting(told)) is not None:
        return found
    if spec.engine in CLOUDS or (spec.deployment == REMOTE and spec.backend is None):
        return 1, CLOUD
    backend = (spec.backend or "").lower()
    family = {"cpu": "cpu", "metal": "metal"}.get(backend, "cuda")
    usual = [one for one in PRESETS.values() if one.usual_for == family]
    memory = spec.vram or (0.0 if family == "cpu" else 24.0)
    return 1, next((one for one in usual if one.memory_gib >= memory), usual[-1])


def unknown_machine(spec: WorkerSpec) -> str | None:
    """In words, where a worker names a machine whose speed is not known; None where it does not."""
    key, told = _told_machine(spec)
    if told is None or _fitting(told) is not None:
        return None
    _, taken = machine_of(spec)
    return (
        f"worker {spec.id}: metadata.{key} = {told!r} is no machine whose speed is known: it is taken for one like "
        f"{taken.name}; --workers FILE with a preset or numbers of its own says better"
    )


def _told_machine(spec: WorkerSpec) -> tuple[str, str | None]:
    for key in ("gpu", "card", "cpu"):
        if key in spec.metadata:
            return key, str(spec.metadata[key])
    return "", None


def bytes_per_parameter(model: str, server: bool) -> float:
    """As its name says, else as engines of this sort usually have it."""
    for written, size in _WRITTEN:
        if written.search(model.lower()):
            return size
    return SIXTEEN if server else FOUR


def kv_bytes(size: float) -> float:
    """Of a token, for a model of so many billions of parameters; see `KV_BYTES`."""
    points = KV_BYTES
    if size <= points[0][0]:
        return points[0][1] * size / points[0][0]
    for (small, low), (large, high) in itertools.pairwise(points):
        if size <= large:
            return low * (high / low) ** (math.log(size / small) / math.log(large / small))
    return float(points[-1][1])


def is_server(spec: WorkerSpec, machine: Preset) -> bool:
    """Does its engine work as vLLM does? Where nobody says: data centre cards are served so."""
    return spec.engine in SERVERS or (spec.engine in ("auto", "openai") and machine.kind == "hbm")


def profile_for(spec: WorkerSpec, model_size: float | None = None, preset: str | None = None) -> Profile:
    """The profile of a worker by its machine, its engine and a model's size in billions of parameters.

    model_size: None takes that of the first of its models whose name tells. Where the operator says `performance`
    (tokens/s), everything is scaled so that a single stream of that model gets it.
    """
    many, machine = machine_of(spec, preset)
    if machine.kind == "cloud":
        return _scaled(CLOUD_PROFILE, spec.performance)
    server = is_server(spec, machine)
    model, size = _first_model(spec)
    size = model_size or size
    memory = spec.vram or machine.memory_gib * many
    share = KINDS[machine.kind].share
    each = _fitting_bytes(size, bytes_per_parameter(model, server), memory * share)
    profile = _roofline(machine, many, server, size, each)
    weights_gib = size * each * 1e9 / 2**30
    room = (memory * share - weights_gib - _RESERVED_GIB) * 2**30 / kv_bytes(size)
    starts = _START_S["server" if server else "local"]
    profile = msgspec.structs.replace(
        profile,
        slots=256 if server else spec.max_concurrency or 4,
        kv_tokens=max(_LEAST_KV_TOKENS, int(room)),
        block_tokens=16 if server else 1,
        prefix_cache=True,
        overhead_s=_LAN_S,
        memory_gib=round(memory * share, 3) if spec.engine in SWAPPERS else None,
        keep_alive_s=300.0 if spec.engine == "ollama" else None,
        cold_start_s=round(starts + (0.0 if spec.engine in SWAPPERS else weights_gib / profile.load_gib_per_s), 3),
        watts_idle=machine.watts_idle,
        watts_busy=machine.watts_busy + (many - 1) * (machine.watts_busy - machine.watts_idle),
        source=_told(spec, machine, many, size, each, memory),
    )
    return _scaled(profile, spec.performance)


def footprints_for(spec: WorkerSpec, preset: str | None = None) -> dict[str, Footprint]:
    """{model: what it costs}, for a worker with models of different sizes, or one that swaps them; else nothing.

    The first model whose name tells its size is the one that the profile is for: its `times` is 1.
    """
    many, machine = machine_of(spec, preset)
    if machine.kind == "cloud" or (len(spec.models) < 2 and spec.engine not in SWAPPERS):
        return {}
    server = is_server(spec, machine)
    first, size = _first_model(spec)
    usable = (spec.vram or machine.memory_gib * many) * KINDS[machine.kind].share
    reference = _roofline(machine, many, server, size, _fitting_bytes(size, bytes_per_parameter(first, server), usable))
    found = {}
    for model in spec.models:
        mine = size_by_name(model) or size
        each = _fitting_bytes(mine, bytes_per_parameter(model, server), usable)
        times = _roofline(machine, many, server, mine, each).step_s / reference.step_s
        found[model] = Footprint(gib=round(mine * each * 1e9 / 2**30, 3), times=round(times, 4))
    same = all(footprint.times == 1.0 for footprint in found.values())
    return {} if same and spec.engine not in SWAPPERS else found


def single_stream(profile: Profile) -> float:
    """Tokens per second of one sequence that decodes alone, at `USUAL_CONTEXT`."""
    return 1.0 / (profile.step_s + profile.sequence_s + profile.context_s * USUAL_CONTEXT)


def _first_model(spec: WorkerSpec) -> tuple[str, float]:
    for model in spec.models:
        size = size_by_name(model)
        if size is not None:
            return model, size
    return (spec.models[0] if spec.models else ""), USUAL_SIZE


def _fitting_bytes(size: float, wanted: float, usable_gib: float) -> float:
    """Bytes per parameter: those wanted, or the most that leave a tenth of the memory for the cache."""
    for each in (SIXTEEN, EIGHT, FOUR):
        if each <= wanted and size * each * 1e9 / 2**30 <= 0.9 * usable_gib:
            return each
    return min(wanted, FOUR)


def _roofline(machine: Preset, many: int, server: bool, size: float, each: float) -> Profile:
    """Several cards: servers split each layer and read from all at once (tensor parallelism), at some loss; llama.cpp
    gives each card some of the layers, and one works after the other."""
    kind: Kind = KINDS[machine.kind]
    cards = 1.0 if many == 1 or not server else many * kind.parallel
    efficiency = kind.server_efficiency if server else kind.efficiency
    bandwidth = machine.bandwidth_gb_s * 1e9 * cards
    prefill_s = 2e9 * size / (machine.tflops * 1e12 * cards * (kind.server_mfu if server else kind.mfu))
    launch_s = (kind.server_launch_s if server else kind.launch_s) * (size / USUAL_SIZE) ** LAYERS_GROW
    alone_s = size * 1e9 * each / (bandwidth * efficiency) + launch_s
    sequence_s = min(prefill_s * (1.0 if server else kind.small_batch), alone_s / 2)
    return Profile(
        step_s=alone_s - sequence_s,
        sequence_s=sequence_s,
        prefill_s=prefill_s,
        context_s=kv_bytes(size) / (bandwidth * (kind.server_efficiency if server else kind.attention)),
        batch_tokens=8192 if server and machine.kind == "hbm" else 2048 if server or machine.kind != "cpu" else 512,
    )


def _scaled(profile: Profile, performance: float | None) -> Profile:
    """As much faster or slower as makes a single stream so fast."""
    if performance is None:
        return profile
    times = single_stream(profile) / performance
    return msgspec.structs.replace(
        profile,
        step_s=profile.step_s * times,
        sequence_s=profile.sequence_s * times,
        prefill_s=profile.prefill_s * times,
        context_s=profile.context_s * times,
        source=f"{profile.source}; scaled by {times:.3g} to {performance:g} tokens/s",
    )


def _told(spec: WorkerSpec, machine: Preset, many: int, size: float, each: float, memory: float) -> str:
    fits = "" if size * each * 1e9 / 2**30 < memory else ", which do not fit: it would be slower"
    cards = f"{many}x " if many > 1 else ""
    return f"{cards}{machine.name}, {size:g} billion parameters of {each:g} bytes{fits}; {machine.source}"
