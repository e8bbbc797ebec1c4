"""How large a model is by its name, and a table of those whose names do not tell.

`BILLIONS` is {beginning of the name: billions of parameters in all}; `model_size` looks there when a name holds no size
such as "8b", and takes the longest beginning that fits. A name stands here only when all models whose names begin so
have this size: "mistral" alone has meant four of them. Experts of a mixture are counted together, as they lie in memory
together.

Sources: the models' own cards and reports, as published by their makers (Mistral AI, Microsoft, Cohere, DeepSeek,
OpenAI, Databricks, xAI, Moonshot, Z.ai, MiniMax, Alibaba, Meta, Nomic, BAAI, Mixedbread, Black Forest Labs,
Stability AI). "gpt-oss", "mixtral" and "qwq" alone are what Ollama's library serves under these names.
"""

from __future__ import annotations

import functools
import re

BILLIONS: dict[str, float] = {
    # Mistral AI
    "mixtral": 46.7,
    "mistral-nemo": 12.2,
    "open-mistral-nemo": 12.2,
    "mistral-large-instruct-2407": 123.0,
    "mistral-large-instruct-2411": 123.0,
    "pixtral-large": 124.0,
    "codestral-mamba": 7.3,
    # Microsoft
    "phi-2": 2.7,
    "phi-3-mini": 3.8,
    "phi-3-small": 7.4,
    "phi-3-medium": 14.0,
    "phi-3-vision": 4.2,
    "phi-3.5-mini": 3.8,
    "phi-3.5-moe": 41.9,
    "phi-3.5-vision": 4.2,
    "phi-4": 14.7,
    "phi-4-mini": 3.8,
    "phi-4-multimodal": 5.6,
    # Cohere
    "command-r": 35.0,
    "command-r-08-2024": 32.3,
    "command-r-plus": 104.0,
    "c4ai-command-r-v01": 35.0,
    "c4ai-command-r-08-2024": 32.3,
    "c4ai-command-r-plus": 104.0,
    # DeepSeek; the distilled ones name their sizes
    "deepseek-v2": 236.0,
    "deepseek-v2-lite": 15.7,
    "deepseek-v2.5": 236.0,
    "deepseek-coder-v2": 236.0,
    "deepseek-coder-v2-lite": 15.7,
    "deepseek-v3": 671.0,
    "deepseek-v3.1": 671.0,
    "deepseek-r1": 671.0,
    # others
    "gpt-oss": 20.9,
    "qwq": 32.5,
    "dbrx": 132.0,
    "grok-1": 314.0,
    "kimi-k2": 1000.0,
    "glm-4.5": 355.0,
    "glm-4.5-air": 106.0,
    "minimax-m1": 456.0,
    "minimax-m2": 230.0,
    "llama-4-scout": 109.0,
    "llama-4-maverick": 400.0,
    # embeddings, speech and pictures
    "nomic-embed-text": 0.137,
    "nomic-embed-text-v2-moe": 0.475,
    "bge-m3": 0.568,
    "bge-small": 0.033,
    "bge-base": 0.109,
    "bge-large": 0.335,
    "mxbai-embed-large": 0.335,
    "whisper-tiny": 0.039,
    "whisper-base": 0.074,
    "whisper-small": 0.244,
    "whisper-medium": 0.769,
    "whisper-large": 1.55,
    "whisper-large-v3-turbo": 0.809,
    "flux.1": 12.0,
    "stable-diffusion-3.5-large": 8.1,
    "stable-diffusion-3.5-medium": 2.5,
}

_GOES_ON = re.compile(r"[a-z0-9]|\.[0-9]")
_LONGEST_NAME = max(map(len, BILLIONS))


@functools.lru_cache(maxsize=1024)
def model_size(model: str) -> float | None:
    """Billions of parameters as the name tells: 8.0 for "llama-3-8b", 56.0 for "8x7b", 0.27 for "gemma-270m".

    Where it does not, those of the model that has this name; None for one that nobody knows.
    """
    name = model.lower()
    found = re.search(r"(?<![a-z0-9.])(?:(\d{1,3})x)?(\d{1,6}(?:\.\d{1,6})?)([bm])(?![a-z0-9])", name)
    if found is None:
        return _known_size(name.rpartition("/")[2])
    experts, size, unit = found.groups()
    return float(size) * (int(experts) if experts else 1) / (1 if unit == "b" else 1000)


def _known_size(name: str) -> float | None:
    """By the longest beginning that is a known name; what follows must not go on with the word or number."""
    for end in range(min(len(name), _LONGEST_NAME), 0, -1):
        if name[:end] in BILLIONS and not _GOES_ON.match(name, end):
            return BILLIONS[name[:end]]
    return None
