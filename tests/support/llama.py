"""A real engine for the tests: the genuine llama.cpp HTTP server on a tiny model of random weights.

Called by end-to-end tests: `write_tiny_gguf(path)` once, then `with llama_server(path) as url`; `llama_process` for those
that kill it. Run as
`python -m tests.support.llama MODEL --port 0` it is the server itself. The server comes from the PyPI wheel `xllamacpp`
and the model is written on the spot, so nothing is downloaded. Importing this module must need neither of the two.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 3.0
POLL_S = 0.02
ADDRESS_MARK = "listening "

CONTROL_TOKENS = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
TOOL_CALL_MARK = "<tool_call>"
SENTENCE_PIECE_SPACE = "\u2581"
CHAT_TEMPLATE = (
    "{% if tools %}<|system|>Answer with <tool_call>{...}</tool_call>. Tools: {{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""Its tool calls are spelled as many models do. The server finds the pattern in here, and holds an answer to it by a
grammar when the request says `tool_choice: "required"`."""

END_TOKEN, TOOL_CALL_TOKEN = 2, 7


class EngineMissing(RuntimeError):
    """A Python package that the real engine needs is not installed; tests skip with this message."""

    def __init__(self, package: str) -> None:
        super().__init__(f"the Python package {package!r} cannot be imported; `pip install {package}` brings it")
        self.package = package


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise EngineMissing(package)


# The model.


def write_tiny_gguf(
    path: Path | str,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 2,
    feed_forward: int = 128,
    context_tokens: int = 8192,
    seed: int = 0,
    name: str = "tiny-random",
    calls_tools: bool = False,
) -> Path:
    """Write a llama-architecture model of random weights: printable nonsense of any length, the same for a seed.

    Args:
        calls_tools: it wants nothing but to end, and before that to call a tool. So it answers a request that must be
            answered by one tool call with one, as the server's grammar spells it, and others with nothing.
    """
    need("gguf", "numpy")
    import gguf

    tokens, scores, kinds = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(context_tokens)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    add_weights(writer, len(tokens), width, layers, feed_forward, seed, calls_tools)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Unknown, control, 256 byte and printable one-character tokens, so that any UTF-8 text makes the round trip."""
    from gguf import TokenType

    printable = [*map(chr, range(33, 127)), SENTENCE_PIECE_SPACE]
    entries = [("<unk>", 0.0, TokenType.UNKNOWN)]
    entries += [(token, 0.0, TokenType.CONTROL) for token in CONTROL_TOKENS]
    entries += [(TOOL_CALL_MARK, 0.0, TokenType.USER_DEFINED)]
    entries += [(f"<0x{byte:02X}>", 0.0, TokenType.BYTE) for byte in range(256)]
    entries += [(character, -float(rank), TokenType.NORMAL) for rank, character in enumerate(printable)]
    tokens, scores, kinds = zip(*entries, strict=True)
    return list(tokens), list(scores), list(kinds)


def add_weights(
    writer: Any, tokens: int, width: int, layers: int, feed_forward: int, seed: int, calls_tools: bool
) -> None:
    import numpy

    chance = numpy.random.default_rng(seed)

    def add_random(name: str, rows: int, columns: int, scale: float) -> None:
        writer.add_tensor(name, (chance.standard_normal((rows, columns)) * scale).astype(numpy.float32))

    def add_ones(name: str) -> None:
        writer.add_tensor(name, numpy.ones(width, dtype=numpy.float32))

    embedding = chance.standard_normal((tokens, width)).astype(numpy.float32)
    if calls_tools:
        # The same for all tokens, and large enough to come through all layers: what the output can rely on.
        embedding[:, 0] = width**0.5
    writer.add_tensor("token_embd.weight", embedding)
    add_ones("output_norm.weight")
    output = chance.standard_normal((tokens, width)).astype(numpy.float32) * numpy.float32(0.3)
    # Control and byte tokens are never preferred, so that answers stay printable and seldom end early.
    output[: 1 + len(CONTROL_TOKENS) + 1 + 256] = 0
    if calls_tools:
        output[TOOL_CALL_TOKEN, 0], output[END_TOKEN, 0] = 10, 20
    writer.add_tensor("output.weight", output)
    for layer in range(layers):
        block = f"blk.{layer}"
        add_ones(f"{block}.attn_norm.weight")
        add_ones(f"{block}.ffn_norm.weight")
        for matrix in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add_random(f"{block}.{matrix}.weight", width, width, 0.2)
        add_random(f"{block}.ffn_gate.weight", feed_forward, width, 0.2)
        add_random(f"{block}.ffn_up.weight", feed_forward, width, 0.2)
        add_random(f"{block}.ffn_down.weight", width, feed_forward, 0.2)


# The server, seen from the test.


@contextlib.contextmanager
def llama_server(model_path: Path | str, **options: Any) -> Iterator[str]:
    """Run the server as `llama_process` does, for tests that need nothing but its base URL."""
    with llama_process(model_path, **options) as (url, _):
        yield url


@contextlib.contextmanager
def llama_process(
    model_path: Path | str, alias: str = "tiny", slots: int = 2, api_key: str | None = None, embeddings: bool = False,
    port: int = 0,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:  # fmt: skip
    """Run the server in a process of its own and give its base URL and the process, which ends with the block."""
    need("xllamacpp")
    command = [sys.executable, "-m", "tests.support.llama", str(Path(model_path).resolve()), "--stop-with-stdin"]
    command += ["--alias", alias, "--slots", str(slots), "--port", str(port)]
    if api_key is not None:
        command += ["--api-key", api_key]
    if embeddings:
        command.append("--embeddings")
    with tempfile.TemporaryDirectory(prefix="llama-server-") as folder:
        said, complained = Path(folder, "stdout"), Path(folder, "stderr")
        with said.open("wb") as stdout, complained.open("wb") as stderr:
            # Its stdin is a pipe that breaks when this process dies, however that happens, and the server with it.
            process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr, close_fds=True
            )
        try:
            yield wait_for_health(process, said, complained), process
        finally:
            stop(process)


def wait_for_health(process: subprocess.Popen[bytes], said: Path, complained: Path) -> str:
    """The base URL, once the server answers 200 on /health."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        line = said.read_text()
        if line.startswith(ADDRESS_MARK) and line.endswith("\n"):
            url = line.removeprefix(ADDRESS_MARK).strip()
            if is_healthy(url):
                return url
        time.sleep(POLL_S)
    ended = process.poll()
    what = f"ended with code {ended}" if ended is not None else f"was not healthy within {START_TIMEOUT_S} s"
    raise RuntimeError(f"the llama server {what}; its last words:\n{complained.read_text(errors='replace')[-2000:]}")


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdin is not None
    process.stdin.close()


# The server itself.


def serve(
    model_path: str, port: int, alias: str, slots: int, context_tokens: int, api_key: str | None, embeddings: bool
) -> Any:
    xllamacpp = importlib.import_module("xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = model_path
    parameters.hostnames, parameters.port = ["127.0.0.1"], port
    parameters.model_alias = {alias}
    parameters.n_parallel, parameters.n_ctx = slots, context_tokens
    if api_key is not None:
        parameters.api_keys = [api_key]
    if embeddings:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.endpoint_metrics = parameters.endpoint_slots = True
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    return xllamacpp.Server(parameters)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.llama", description="A real llama.cpp server.")
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one (default)")
    parser.add_argument("--alias", default="tiny", help="the model's name in the API (default tiny)")
    parser.add_argument("--slots", type=int, default=2, help="answers written at once (default 2)")
    parser.add_argument("--context-tokens", type=int, default=8192, help="shared by the slots (default 8192)")
    parser.add_argument("--api-key", help="refuse requests without it")
    parser.add_argument("--embeddings", action="store_true", help="also answer /v1/embeddings")
    parser.add_argument("--stop-with-stdin", action="store_true", help="also end when stdin does")
    given = parser.parse_args(arguments)
    server = serve(
        given.model, given.port, given.alias, given.slots, given.context_tokens, given.api_key, given.embeddings
    )
    print(f"{ADDRESS_MARK}{server.listening_address}", flush=True)
    if given.stop_with_stdin:
        sys.stdin.buffer.read()
    else:
        signal.pause()
    # The engine's threads do not always let the interpreter end.
    os._exit(0)


if __name__ == "__main__":
    main()
