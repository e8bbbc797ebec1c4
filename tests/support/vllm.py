"""A real vLLM on the CPU with made-up weights, where somebody has installed one: a fixture of opt-in tests.

Called by tests/e2e/test_vllm.py, and by scripts/vllm-cpu as `python3 tests/support/vllm.py FOLDER` to write the model.
vLLM makes the weights itself (`--load-format dummy`); the tokenizer is 256 bytes and six marks. It needs nothing beside
the standard library, so that any Python can write the model.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 180.0
"""It compiles nothing, but imports PyTorch in three processes."""
STOP_TIMEOUT_S = 20.0
POLL_S = 0.2

WIDTH, LAYERS, HEADS = 128, 2, 2
LORA_RANK = 8
MARKS = ("<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",            # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",    # else it takes a core for itself, which a small machine has not
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
OPTIONS = (
    "--served-model-name", "tiny", "--load-format", "dummy", "--dtype", "bfloat16", "--enforce-eager",
    "--max-model-len", "2048", "--max-num-seqs", "4", "--block-size", "32",
    "--gpu-memory-utilization", "0.2",        # of the machine's memory, on a CPU as well
    "--enable-lora", "--max-lora-rank", str(LORA_RANK),
)  # fmt: skip


# The model.


def write_model(folder: Path) -> Path:
    """Everything of a model but its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {character: at for at, character in enumerate(byte_alphabet())}
    marks = [
        {"id": 256 + at, "content": mark, "special": True, "normalized": False,
         "single_word": False, "lstrip": False, "rstrip": False}
        for at, mark in enumerate(MARKS)
    ]  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    files: dict[str, Any] = {
        "tokenizer.json": {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": marks, "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                "vocab": vocabulary, "merges": [],
            },
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": MARKS[0], "eos_token": MARKS[1],
            "model_max_length": 4096, "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        },
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS, "vocab_size": 320,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": False, "dtype": "bfloat16", "bos_token_id": 256, "eos_token_id": 257,
            "initializer_range": 0.02,
        },
        "generation_config.json": {"bos_token_id": 256, "eos_token_id": 257},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def byte_alphabet() -> list[str]:
    """A printable character for each of the 256 bytes, as byte-level tokenizers spell them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*map(chr, shown), *(chr(256 + at) for at in range(256 - len(shown)))]


def write_lora(folder: Path, seed: int = 0) -> Path:
    """An adapter for the model, of random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": LORA_RANK,
        "lora_alpha": LORA_RANK, "lora_dropout": 0.0, "bias": "none", "target_modules": ["q_proj"],
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(described))
    chance = random.Random(seed)
    tensors: dict[str, Any] = {}
    data = b""
    for layer in range(LAYERS):
        for half, shape in (("lora_A", (LORA_RANK, WIDTH)), ("lora_B", (WIDTH, LORA_RANK))):
            values = [chance.gauss(0, 0.1) for _ in range(shape[0] * shape[1])]
            start, data = len(data), data + struct.pack(f"<{len(values)}f", *values)
            name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.{half}.weight"
            tensors[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, len(data)]}
    header = json.dumps(tensors).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    return folder


# The server.


@dataclass
class Vllm:
    url: str
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def vllm_server(executable: str, folder: Path, *options: str, port: int | None = None) -> Iterator[Vllm]:
    """Run it on the model in `folder`, and what belongs to it, until the block ends.

    Raises:
        RuntimeError: it did not start; with its last words.
    """
    port = port or free_port()
    said = folder / f"vllm-{port}.log"
    command = [executable, "serve", str(folder), *OPTIONS, "--host", "127.0.0.1", "--port", str(port), *options]
    with said.open("wb") as output:
        # Its engine and its workers are processes of their own; a session tells them from everybody else's.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip
    server = Vllm(f"http://127.0.0.1:{port}", process)
    try:
        wait_for_health(server, said)
        yield server
    finally:
        stop(process)


def wait_for_health(server: Vllm, said: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{server.url}/health", timeout=1.0).close()
            return
        time.sleep(POLL_S)
    raise RuntimeError(f"vLLM did not start; its last words:\n{said.read_text(errors='replace')[-3000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def kill(server: Vllm) -> None:
    """End all of it at once, as a machine that loses power does."""
    os.killpg(server.process.pid, 9)
    server.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    write_model(Path(sys.argv[1]))
    write_lora(Path(sys.argv[1]) / "poet")
