"""Open models whose names do not tell how large they are: {beginning of the name: billions of parameters in all}.

`openai.model_size` looks here when a name holds no size such as "8b", and takes the longest beginning that fits. A name
stands here only when all models whose names begin so have this size: "mistral" alone has meant four of them. Experts of
a mixture are counted together, as they lie in memory together.

Sources: the models' own cards and reports, as published by their makers (Mistral AI, Microsoft, Cohere, DeepSeek,
OpenAI, Databricks, xAI, Moonshot, Z.ai, MiniMax, Alibaba, Meta, Nomic, BAAI, Mixedbread, Black Forest Labs,
Stability AI). "gpt-oss", "mixtral" and "qwq" alone are what Ollama's library serves under these names.
"""

from __future__ import annotations

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
